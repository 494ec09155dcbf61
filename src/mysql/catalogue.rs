//! What the server's catalogue says of a captured table: columns, types, key, and how to walk it in chunks.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Row};

use super::cascades;
use super::connect::{self, Error};
use crate::config::plan::{DecimalForm, TablePlan};
use crate::model::{Column, ColumnType, MariaDbType, Reason, Schema};

/// A table that can be captured.
#[derive(Debug, Clone)]
pub struct TableInfo {
    pub schema: Schema,
    pub walk: Walk,
    /// The server's guess of its rows.
    pub row_estimate: u64,
}

/// How a table is read in chunks: by a unique index without NULLs, every comparison done by the server.
#[derive(Debug, Clone)]
pub struct Walk {
    pub index: String,
    pub columns: Vec<WalkColumn>,
}

#[derive(Debug, Clone)]
pub struct WalkColumn {
    /// Index in the schema.
    pub column: usize,
    /// Charset and collation of a text column.
    pub text: Option<(String, String)>,
}

/// Why a table cannot be captured, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub reason: Reason,
    pub what: String,
    pub remedy: String,
}

/// Reads a table's description; the outer error is the connection's, the inner one the table's.
pub async fn table(connection: &mut Conn, plan: &TablePlan) -> Result<Result<TableInfo, Vec<Problem>>, Error> {
    let source = format!("{}.{}", plan.database, plan.table);
    let place = || Params::Positional(vec![plan.database.as_str().into(), plan.table.as_str().into()]);
    let found: Option<(String, Option<String>, Option<u64>)> = connection
        .exec_first(
            "SELECT TABLE_TYPE, ENGINE, TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
            place(),
        )
        .await?;
    let Some((kind, engine, rows)) = found else {
        let names =
            connection.exec("SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = ?", (plan.database.as_str(),)).await?;
        return Ok(Err(vec![Problem {
            reason: Reason::TableDropped,
            what: format!(
                "there is no table {source}, or the user may not see it{}",
                did_you_mean(&plan.table, names.iter().map(String::as_str))
            ),
            remedy: format!("correct tables.{}.mysql, or GRANT SELECT ON {source}", plan.name),
        }]));
    };
    if kind == "SYSTEM VERSIONED" {
        return Ok(Err(vec![Problem {
            reason: Reason::SchemaMismatch,
            what: format!(
                "{source} keeps old versions of its rows (WITH SYSTEM VERSIONING), which the binlog shows as rows like any other"
            ),
            remedy: format!("ALTER TABLE {source} DROP SYSTEM VERSIONING, or capture a table without it"),
        }]));
    }
    if kind != "BASE TABLE" {
        return Ok(Err(vec![Problem {
            reason: Reason::SchemaMismatch,
            what: format!("{source} is a {}, not a table", kind.to_lowercase()),
            remedy: "capture the tables it is made of".into(),
        }]));
    }
    let engine = engine.unwrap_or_default();
    let mut problems = Vec::new();
    if engine != "InnoDB" {
        problems.push(Problem {
            reason: Reason::SchemaMismatch,
            what: format!("{source} is stored by {engine}, which gives no consistent view"),
            remedy: format!("ALTER TABLE {source} ENGINE = InnoDB"),
        });
    }
    // Collations of MariaDB that fit several charsets have a number for each.
    let (collations, index_in_use) = if connect::is_mariadb(connection) {
        ("COLLATION_CHARACTER_SET_APPLICABILITY l ON l.FULL_COLLATION_NAME", "IGNORED = 'NO'")
    } else {
        ("COLLATIONS l ON l.COLLATION_NAME", "IS_VISIBLE = 'YES'")
    };
    let rows_of_columns: Vec<Row> = connection
        .exec(
            format!(
                "SELECT c.COLUMN_NAME, c.DATA_TYPE, c.COLUMN_TYPE, c.IS_NULLABLE, c.NUMERIC_PRECISION, c.NUMERIC_SCALE, c.DATETIME_PRECISION, \
                 c.CHARACTER_OCTET_LENGTH, l.ID, c.COLLATION_NAME, c.CHARACTER_SET_NAME \
                 FROM information_schema.COLUMNS c LEFT JOIN information_schema.{collations} = c.COLLATION_NAME \
                 WHERE c.TABLE_SCHEMA = ? AND c.TABLE_NAME = ? ORDER BY c.ORDINAL_POSITION"
            ),
            place(),
        )
        .await?;
    let mut columns = Vec::new();
    let mut texts = Vec::new();
    for row in &rows_of_columns {
        let described = Described::of(row);
        match described.kind() {
            Some(kind) => columns.push(Column { name: described.name.clone(), kind, nullable: described.nullable }),
            None => problems.push(Problem {
                reason: Reason::UnknownType,
                what: format!("column {} of {source} has the type {}, which cannot be read", described.name, described.full_type),
                remedy: format!("change its type: where it stands in the rows of {source}, what follows it cannot be found"),
            }),
        }
        texts.push(described.text);
    }
    if columns.len() < rows_of_columns.len() {
        return Ok(Err(problems));
    }
    for (column, because) in wanted_columns(plan) {
        if !columns.iter().any(|known| known.name == column) {
            problems.push(Problem {
                reason: Reason::SchemaMismatch,
                what: format!(
                    "{source} has no column {column}, needed by {because}{}",
                    did_you_mean(&column, columns.iter().map(|c| c.name.as_str()))
                ),
                remedy: format!("correct {because}"),
            });
        }
    }
    let parts: Vec<(String, Option<String>, String, Option<u64>)> = connection
        .exec(
            format!(
                "SELECT INDEX_NAME, COLUMN_NAME, NULLABLE, SUB_PART FROM information_schema.STATISTICS \
                 WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? AND NON_UNIQUE = 0 AND {index_in_use} ORDER BY INDEX_NAME, SEQ_IN_INDEX"
            ),
            place(),
        )
        .await?;
    let primary = index_columns(&parts, "PRIMARY", &columns);
    let (walked, walk_index) = match (&plan.key, &primary) {
        (None, None) => {
            problems.push(Problem {
                reason: Reason::KeyChanged,
                what: format!("{source} has no primary key"),
                remedy: format!("add one, or name unique NOT NULL columns in tables.{}.key", plan.name),
            });
            return Ok(Err(problems));
        }
        (None, Some(primary)) => (primary.clone(), "PRIMARY".to_owned()),
        (Some(key), primary) => {
            let Some((index, unique)) = unique_index(&parts, key, &columns) else {
                problems.push(Problem {
                    reason: Reason::KeyChanged,
                    what: format!("{source} has no unique index of NOT NULL columns over exactly ({})", key.join(", ")),
                    remedy: format!("correct tables.{}.key, or add that index", plan.name),
                });
                return Ok(Err(problems));
            };
            // The primary key is the quicker way through the table wherever there is one.
            primary.as_ref().map_or((unique, index), |primary| (primary.clone(), "PRIMARY".to_owned()))
        }
    };
    let key: Vec<&str> = match &plan.key {
        Some(key) => key.iter().map(String::as_str).collect(),
        None => primary.iter().flatten().map(|&index| columns[index].name.as_str()).collect(),
    };
    problems.extend(key_problems(plan, &source, &key));
    for column in columns.iter().filter(|column| plan.booleans.contains(&column.name)) {
        if !matches!(column.kind, ColumnType::Integer { bytes: 1, .. }) {
            problems.push(Problem {
                reason: Reason::SchemaMismatch,
                what: format!("column {} of {source} is no TINYINT, so it cannot be shown as boolean", column.name),
                remedy: format!("take it out of tables.{}.booleans", plan.name),
            });
        }
    }
    problems.extend(key.iter().filter_map(|name| key_form_problem(plan, &source, columns.iter().find(|c| c.name == *name)?, key.len())));
    problems.extend(cascades::problems(connection, plan).await?);
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    let walk =
        Walk { index: walk_index, columns: walked.iter().map(|&column| WalkColumn { column, text: texts[column].clone() }).collect() };
    let schema = Schema { columns, key: primary.unwrap_or_default() };
    Ok(Ok(TableInfo { schema, walk, row_estimate: rows.unwrap_or_default() }))
}

/// Joins that give more or fewer values than the key has columns, and a projection without a column of the key (contract B10).
fn key_problems(plan: &TablePlan, source: &str, key: &[&str]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (width, place) in &plan.key_widths {
        if *width != key.len() {
            problems.push(Problem {
                reason: Reason::KeyChanged,
                what: format!("{place} gives {width} of the {} values of the key ({}) of {source}", key.len(), key.join(", ")),
                remedy: format!("give one path for each of {}, in this order", key.join(", ")),
            });
        }
    }
    for column in key {
        if plan.columns.as_ref().is_some_and(|columns| !columns.iter().any(|name| name == column)) {
            problems.push(Problem {
                reason: Reason::KeyChanged,
                what: format!("tables.{}.columns leaves out {column}, which is in the key of {source}", plan.name),
                remedy: format!("add \"{column}\" to tables.{}.columns", plan.name),
            });
        }
    }
    problems
}

/// A key column that stands in rows in a form in which joins do not look for it: they would find nothing, ever.
fn key_form_problem(plan: &TablePlan, source: &str, column: &Column, width: usize) -> Option<Problem> {
    let (_, join) = plan.key_widths.first()?;
    let (option, remedy) = match column.kind {
        _ if plan.booleans.contains(&column.name) => ("as boolean", format!("take it out of tables.{}.booleans", plan.name)),
        ColumnType::Decimal { .. } if plan.decimal == DecimalForm::Number && width > 1 => {
            ("as number", format!("set tables.{}.decimal = \"string\"", plan.name))
        }
        _ => return None,
    };
    Some(Problem {
        reason: Reason::KeyChanged,
        what: format!("column {} is in the key of {source} and shown {option}, so that {join} would find no row", column.name),
        remedy,
    })
}

/// Columns that must be there, each with the configuration key that needs it.
fn wanted_columns(plan: &TablePlan) -> Vec<(String, String)> {
    let listed =
        |names: &[String], key: &str| names.iter().map(|name| (name.clone(), format!("tables.{}.{key}", plan.name))).collect::<Vec<_>>();
    let mut wanted = plan.needed.clone();
    wanted.extend(listed(plan.columns.as_deref().unwrap_or_default(), "columns"));
    wanted.extend(listed(plan.key.as_deref().unwrap_or_default(), "key"));
    wanted.extend(listed(&plan.booleans, "booleans"));
    wanted
}

type IndexPart = (String, Option<String>, String, Option<u64>);

/// The columns of an index in key order; `None` where there is no such index, or it is over an expression.
fn index_columns(parts: &[IndexPart], index: &str, columns: &[Column]) -> Option<Vec<usize>> {
    let parts: Vec<_> = parts.iter().filter(|(name, ..)| name == index).collect();
    let place = |part: &&IndexPart| columns.iter().position(|column| Some(&column.name) == part.1.as_ref());
    let found: Option<Vec<usize>> = parts.iter().map(place).collect();
    found.filter(|found| !found.is_empty())
}

/// A unique index over exactly the columns of `key`, in any order, whole and without NULLs.
fn unique_index(parts: &[IndexPart], key: &[String], columns: &[Column]) -> Option<(String, Vec<usize>)> {
    let usable = |index: &str| {
        let of_index = parts.iter().filter(|(name, ..)| name == index);
        let mut names: Vec<&str> = Vec::new();
        for (_, column, nullable, prefix) in of_index {
            if nullable == "YES" || prefix.is_some() {
                return None;
            }
            names.push(column.as_deref()?);
        }
        (names.len() == key.len() && key.iter().all(|column| names.contains(&column.as_str())))
            .then(|| index_columns(parts, index, columns))?
    };
    parts.iter().find_map(|(index, ..)| usable(index).map(|found| (index.clone(), found)))
}

/// ` (did you mean x?)`, or nothing.
pub fn did_you_mean<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|name| (strsim::damerau_levenshtein(wrong, name), name)).min();
    best.filter(|&(distance, _)| distance <= 2.max(wrong.len() / 4))
        .map_or_else(String::new, |(_, name)| format!(" (did you mean {name}?)"))
}

/// How the columns the binlog describes differ from those of the catalogue; `None` when they are the same. Labels the catalogue cannot
/// show (it gives `?` for what is above U+FFFF) are taken as agreeing.
pub fn difference(known: &Schema, seen: &Schema) -> Option<String> {
    if known.columns.len() != seen.columns.len() {
        return Some(format!("schema has {} columns, event has {}", known.columns.len(), seen.columns.len()));
    }
    let same = |(known, seen): &(&Column, &Column)| {
        known.name == seen.name && known.nullable == seen.nullable && same_kind(&known.kind, &seen.kind)
    };
    let (place, (known, seen)) = known.columns.iter().zip(&seen.columns).enumerate().find(|(_, pair)| !same(pair))?;
    let shown = |column: &Column| {
        let null = if column.nullable { "NULL" } else { "NOT NULL" };
        format!("{} {:?} {null}", column.name, column.kind).chars().take(200).collect::<String>()
    };
    Some(format!("column {} is {} in the schema, {} in the event", place + 1, shown(known), shown(seen)))
}

fn same_kind(known: &ColumnType, seen: &ColumnType) -> bool {
    match (known, seen) {
        (ColumnType::Enum { labels: known }, ColumnType::Enum { labels: seen })
        | (ColumnType::Set { labels: known }, ColumnType::Set { labels: seen }) => {
            known.len() == seen.len() && known.iter().zip(seen).all(|(known, seen)| known == seen || known.contains('?'))
        }
        _ => known == seen,
    }
}

/// One row of `information_schema.COLUMNS`.
struct Described {
    name: String,
    data_type: String,
    full_type: String,
    nullable: bool,
    precision: Option<u64>,
    scale: Option<u64>,
    digits: Option<u64>,
    octets: Option<u64>,
    collation: Option<u64>,
    text: Option<(String, String)>,
}

impl Described {
    fn of(row: &Row) -> Self {
        let text = |index: usize| row.get_opt::<String, _>(index).and_then(Result::ok);
        let number = |index: usize| row.get_opt::<u64, _>(index).and_then(Result::ok);
        Self {
            name: text(0).unwrap_or_default(),
            data_type: text(1).unwrap_or_default().to_ascii_lowercase(),
            full_type: text(2).unwrap_or_default(),
            nullable: text(3).as_deref() == Some("YES"),
            precision: number(4),
            scale: number(5),
            digits: number(6),
            octets: number(7),
            collation: number(8),
            text: text(10).zip(text(9)),
        }
    }

    /// The type; `None` for one we do not know.
    fn kind(&self) -> Option<ColumnType> {
        let unsigned = self.full_type.contains("unsigned") || self.full_type.contains("zerofill");
        let integer = |bytes| Some(ColumnType::Integer { bytes, unsigned });
        let small = |number: Option<u64>| u8::try_from(number.unwrap_or(0)).ok();
        // MariaDB compresses the values of such a column, also in the binlog.
        if self.full_type.contains("COMPRESSED") {
            return None;
        }
        match self.data_type.as_str() {
            "tinyint" => integer(1),
            "smallint" => integer(2),
            "mediumint" => integer(3),
            "int" => integer(4),
            "bigint" => integer(8),
            "float" => Some(ColumnType::Float),
            "double" => Some(ColumnType::Double),
            "decimal" => Some(ColumnType::Decimal { precision: small(self.precision)?, scale: small(self.scale)? }),
            "bit" => Some(ColumnType::Bit { bits: small(self.precision)? }),
            "year" => Some(ColumnType::Year),
            "date" => Some(ColumnType::Date),
            "time" => Some(ColumnType::Time { digits: small(self.digits)? }),
            "datetime" => Some(ColumnType::DateTime { digits: small(self.digits)? }),
            "timestamp" => Some(ColumnType::Timestamp { digits: small(self.digits)? }),
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => {
                Some(ColumnType::Text { collation: u16::try_from(self.collation?).ok()? })
            }
            "binary" => Some(ColumnType::Binary { bytes: u16::try_from(self.octets?).ok()? }),
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Some(ColumnType::Bytes),
            "enum" => Some(ColumnType::Enum { labels: labels(&self.full_type)? }),
            "set" => Some(ColumnType::Set { labels: labels(&self.full_type)? }),
            "json" => Some(ColumnType::Json),
            "uuid" => Some(ColumnType::MariaDb(MariaDbType::Uuid)),
            "inet4" => Some(ColumnType::MariaDb(MariaDbType::Inet4)),
            "inet6" => Some(ColumnType::MariaDb(MariaDbType::Inet6)),
            "vector" => Some(ColumnType::Vector),
            "point" => Some(ColumnType::Geometry { point: true }),
            "geometry" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" | "geomcollection"
            | "geometrycollection" => Some(ColumnType::Geometry { point: false }),
            _ => None,
        }
    }
}

/// The labels of `enum('a','it''s','back\\slash')`, escaped as the catalogue does it in every SQL mode.
fn labels(full_type: &str) -> Option<Vec<String>> {
    let (_, list) = full_type.split_once('(')?;
    let mut labels = Vec::new();
    let mut rest = list.strip_suffix(')')?;
    loop {
        rest = rest.strip_prefix('\'')?;
        let mut label = String::new();
        loop {
            let end = rest.find(['\'', '\\'])?;
            label.push_str(&rest[..end]);
            let mut special = rest[end..].chars();
            match (special.next(), special.next()) {
                (Some('\''), Some('\'')) => label.push('\''),
                (Some('\\'), Some(escaped)) => label.push(match escaped {
                    '0' => '\0',
                    'n' => '\n',
                    'r' => '\r',
                    itself => itself,
                }),
                (Some('\''), _) => {
                    rest = &rest[end + 1..];
                    break;
                }
                _ => return None,
            }
            rest = special.as_str();
        }
        labels.push(label);
        if rest.is_empty() {
            return Some(labels);
        }
        rest = rest.strip_prefix(',')?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_enums() {
        assert_eq!(labels("enum('a','it''s','x,y','')"), Some(vec!["a".into(), "it's".into(), "x,y".into(), String::new()]));
        assert_eq!(labels(r"enum('a\\b','\n\r\0n','\\')"), Some(vec![r"a\b".into(), "\n\r\0n".into(), r"\".into()]));
        assert_eq!(labels("enum('a"), None);
        assert_eq!(labels(r"enum('a\"), None);
    }

    #[test]
    fn names_that_are_nearly_right() {
        assert_eq!(did_you_mean("prodcts", ["users", "products"].into_iter()), " (did you mean products?)");
        assert_eq!(did_you_mean("x", ["orders"].into_iter()), "");
    }
}
