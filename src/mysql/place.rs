//! Where a row stands in the order of its table: [`Place`], and the statements that walk from place to place.
//!
//! What always holds: places are compared by the server alone, in the column's own collation (case N14), never here; a place is a
//! list of typed values, so that one that was kept outside (a topic) can be no SQL of anybody's.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use mysql_async::{Row, Value as Sent};

use super::catalogue::{TableInfo, WalkColumn};
use super::connect::quote;
use super::result;
use crate::config::plan::TablePlan;
use crate::model::{Column, ColumnType, Value};

/// The values of a row's walk columns ([`super::catalogue::Walk`]), in the order of the index.
///
/// As text a JSON array of strings, the first letter of each says what the rest is:
///
/// ```text
/// i-5          integer              x00ff        bytes: binary, or text in the column's charset, hexadecimal
/// u5           unsigned integer     sabc         text
/// f3dcccccd    float32, its bits    t2024-01-02 03:04:05.000006     date or moment
/// d3ff0…       float64, its bits    c-12:00:00.000000               time
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Place(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Int(i64),
    UInt(u64),
    Float(f32),
    Double(f64),
    /// Binary, DECIMAL digits, or text in the charset of its column.
    Bytes(Vec<u8>),
    Text(String),
    /// Digits, `-`, `:`, `.` and a space.
    Moment(String),
    Time(String),
}

/// Text that is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no place in a table")]
pub struct BadPlace(String);

impl Place {
    /// The place of a row of a stream, given the values of its walk columns; `None` where one of them cannot be in a key.
    pub fn of(info: &TableInfo, values: &[Value<'_>]) -> Option<Self> {
        let columns = info.walk.columns.iter().map(|part| &info.schema.columns[part.column].kind);
        let parts: Option<Vec<Part>> = columns.zip(values).map(|(kind, value)| Part::of(kind, value)).collect();
        parts.filter(|parts| parts.len() == info.walk.columns.len()).map(Self)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(Part::to_text).collect();
        f.write_str(&serde_json::Value::from(parts).to_string())
    }
}

impl FromStr for Place {
    type Err = BadPlace;

    fn from_str(text: &str) -> Result<Self, BadPlace> {
        let bad = || BadPlace(text.chars().take(200).collect());
        let parts: Vec<String> = serde_json::from_str(text).map_err(|_| bad())?;
        let parts: Option<Vec<Part>> = parts.iter().map(|part| Part::from_text(part)).collect();
        parts.filter(|parts| !parts.is_empty()).map(Self).ok_or_else(bad)
    }
}

// === impl Part ===

impl Part {
    fn sent(value: &Sent) -> Option<Self> {
        Some(match value {
            Sent::NULL => return None,
            Sent::Bytes(bytes) => Part::Bytes(bytes.clone()),
            &Sent::Int(number) => Part::Int(number),
            &Sent::UInt(number) => Part::UInt(number),
            &Sent::Float(number) => Part::Float(number),
            &Sent::Double(number) => Part::Double(number),
            &Sent::Date(year, month, day, hour, minute, second, micros) => {
                Part::Moment(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}"))
            }
            &Sent::Time(negative, days, hours, minutes, seconds, micros) => {
                let sign = if negative { "-" } else { "" };
                Part::Time(format!("{sign}{:02}:{minutes:02}:{seconds:02}.{micros:06}", u64::from(days) * 24 + u64::from(hours)))
            }
        })
    }

    fn of(kind: &ColumnType, value: &Value<'_>) -> Option<Self> {
        Some(match (kind, value) {
            (ColumnType::Enum { labels }, Value::Text(label)) => {
                let index = labels.iter().position(|known| known == label).map_or(0, |index| index as u64 + 1);
                Part::UInt(index)
            }
            (ColumnType::Set { labels }, Value::Text(chosen)) => {
                let bits = chosen.split(',').filter_map(|one| labels.iter().position(|known| known == one)).filter(|&bit| bit < 64);
                Part::UInt(bits.fold(0, |set, bit| set | 1 << bit))
            }
            (_, &Value::Int(number)) => Part::Int(number),
            (_, &Value::UInt(number)) => Part::UInt(number),
            (_, &Value::Float(number)) => Part::Float(number),
            (_, &Value::Double(number)) => Part::Double(number),
            (_, Value::Decimal(digits)) => Part::Bytes(digits.as_bytes().to_vec()),
            (_, Value::Text(text)) => Part::Text(text.to_string()),
            (_, Value::Bytes(bytes)) => Part::Bytes(bytes.to_vec()),
            (_, &Value::Date { year, month, day }) => Part::Moment(format!("{year:04}-{month:02}-{day:02} 00:00:00.000000")),
            (_, &Value::DateTime { year, month, day, hour, minute, second, micros }) => {
                Part::Moment(format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}"))
            }
            (_, &Value::Timestamp { seconds: 0, micros: 0 }) => Part::Moment("0000-00-00 00:00:00.000000".into()),
            (_, &Value::Timestamp { seconds, micros }) => {
                let mut text = Vec::new();
                super::text::timestamp(seconds, micros, 6, &mut text);
                Part::Moment(String::from_utf8(text).ok()?.replace('T', " "))
            }
            (_, &Value::Time { micros }) => {
                let mut text = Vec::new();
                super::text::time(micros, 6, &mut text);
                Part::Time(String::from_utf8(text).ok()?)
            }
            (_, Value::Null | Value::ReplacedText(_) | Value::Json(_) | Value::Geometry { .. } | Value::Vector(_)) => return None,
        })
    }

    fn to_text(&self) -> String {
        match self {
            Part::Int(number) => format!("i{number}"),
            Part::UInt(number) => format!("u{number}"),
            Part::Float(number) => format!("f{:08x}", number.to_bits()),
            Part::Double(number) => format!("d{:016x}", number.to_bits()),
            Part::Bytes(bytes) => format!("x{}", hex(bytes)),
            Part::Text(text) => format!("s{text}"),
            Part::Moment(text) => format!("t{text}"),
            Part::Time(text) => format!("c{text}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut rest = text.chars();
        let letter = rest.next()?;
        let rest = rest.as_str();
        let is_time = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'.' | b' '));
        Some(match letter {
            'i' => Part::Int(rest.parse().ok()?),
            'u' => Part::UInt(rest.parse().ok()?),
            'f' => Part::Float(f32::from_bits(u32::from_str_radix(rest, 16).ok()?)),
            'd' => Part::Double(f64::from_bits(u64::from_str_radix(rest, 16).ok()?)),
            'x' => Part::Bytes(unhex(rest)?),
            's' => Part::Text(rest.to_owned()),
            't' if is_time(rest) => Part::Moment(rest.to_owned()),
            'c' if is_time(rest) => Part::Time(rest.to_owned()),
            _ => return None,
        })
    }

    /// As literal of its column's type, exactly; what does not fit the column compares as the server sees fit, but is no other SQL.
    fn literal(&self, kind: &ColumnType, column: &WalkColumn) -> String {
        match (self, kind, &column.text) {
            (Part::Bytes(bytes), ColumnType::Text { .. }, Some((charset, collation))) => {
                format!("CONVERT(X'{}' USING {charset}) COLLATE {collation}", hex(bytes))
            }
            // The server reads the text only where it is no binary string.
            (Part::Bytes(bytes), ColumnType::MariaDb(_), _) if is_plain(bytes) => format!("'{}'", String::from_utf8_lossy(bytes)),
            (Part::Text(text), ColumnType::MariaDb(_), _) if is_plain(text.as_bytes()) => format!("'{text}'"),
            (Part::Text(text), _, Some((charset, collation))) => {
                format!("CONVERT(CONVERT(X'{}' USING utf8mb4) USING {charset}) COLLATE {collation}", hex(text.as_bytes()))
            }
            (Part::Bytes(digits), ColumnType::Decimal { precision, scale }, _) if is_number(digits) => {
                format!("CAST('{}' AS DECIMAL({precision},{scale}))", String::from_utf8_lossy(digits))
            }
            // Digits of a number that does not fit the protocol's integers.
            (Part::Bytes(digits), kind, _) if by_number(kind) && is_number(digits) => String::from_utf8_lossy(digits).into_owned(),
            (Part::Bytes(bytes), ..) => format!("X'{}'", hex(bytes)),
            (Part::Text(text), ..) => format!("CONVERT(X'{}' USING utf8mb4)", hex(text.as_bytes())),
            (Part::Int(number), ..) => number.to_string(),
            (Part::UInt(number), ..) => number.to_string(),
            (Part::Float(number), ..) => format!("{:e}", f64::from(*number)),
            (Part::Double(number), ..) => format!("{number:e}"),
            (Part::Moment(text), ColumnType::Date, _) => format!("'{}'", text.get(..10).unwrap_or(text)),
            (Part::Moment(text) | Part::Time(text), ..) => format!("'{text}'"),
        }
    }

    /// The same where no column stands on the other side to say the type of what is quoted.
    fn typed(&self, kind: &ColumnType, column: &WalkColumn) -> String {
        let literal = self.literal(kind, column);
        match kind {
            ColumnType::Date => format!("CAST({literal} AS DATE)"),
            ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } => format!("CAST({literal} AS DATETIME(6))"),
            ColumnType::Time { .. } => format!("CAST({literal} AS TIME(6))"),
            ColumnType::MariaDb(kind) => format!("CAST({literal} AS {})", kind.name()),
            _ => literal,
        }
    }
}

/// Whether the text of a UUID or an address needs no escape in SQL.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b'-' | b':' | b'.'))
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| char::from(*text.as_bytes().get(at)?).to_digit(16);
    text.len().is_multiple_of(2).then_some(())?;
    (0..text.len()).step_by(2).map(|at| u8::try_from(digit(at)? << 4 | digit(at + 1)?).ok()).collect()
}

/// The statements that walk through a table, or through a part of it.
pub(super) struct Walker {
    /// `SELECT … FROM …`, the wanted columns first, then what says where a row stands.
    head: String,
    /// `SELECT … FROM …` of the place alone.
    places: String,
    /// What rows are ordered by.
    order: String,
    /// Columns of a row before its place.
    wanted: usize,
    columns: Vec<(String, ColumnType, WalkColumn)>,
}

/// The columns a plan takes of a table, in the table's order.
pub fn wanted_columns(plan: &TablePlan, info: &TableInfo) -> Vec<Column> {
    let taken = |name: &str| plan.columns.as_ref().is_none_or(|columns| columns.iter().any(|column| column == name));
    info.schema.columns.iter().filter(|column| taken(&column.name)).cloned().collect()
}

impl Walker {
    pub(super) fn new(plan: &TablePlan, info: &TableInfo) -> Self {
        let wanted: Vec<String> =
            wanted_columns(plan, info).iter().map(|column| result::select_expression(&column.name, &column.kind)).collect();
        let columns: Vec<_> = info
            .walk
            .columns
            .iter()
            .map(|part| {
                let column = &info.schema.columns[part.column];
                (quote(&column.name), column.kind.clone(), part.clone())
            })
            .collect();
        // ENUM, SET and BIT are ordered by number, and compared by number only with a number.
        let place: Vec<String> =
            columns.iter().map(|(name, kind, _)| if by_number(kind) { format!("{name} + 0") } else { name.clone() }).collect();
        let from = format!("FROM {}.{} FORCE INDEX ({})", quote(&plan.database), quote(&plan.table), quote(&info.walk.index));
        let order: Vec<&str> = columns.iter().map(|(name, ..)| name.as_str()).collect();
        Self {
            head: format!("SELECT {}, {} {from}", wanted.join(", "), place.join(", ")),
            places: format!("SELECT {} {from}", place.join(", ")),
            order: order.join(", "),
            wanted: wanted.len(),
            columns,
        }
    }

    /// All rows beyond `after` up to and with `upto`, in order. Places are written into the statement as literals: their types are
    /// then known for certain, which they are not for parameters.
    pub(super) fn rows(&self, after: Option<&Place>, upto: Option<&Place>) -> String {
        format!("{}{} ORDER BY {}", self.head, self.between(after, upto), self.order)
    }

    /// The place `rows` rows beyond `after`; no row where fewer follow.
    pub(super) fn cut(&self, after: Option<&Place>, rows: usize) -> String {
        format!("{}{} ORDER BY {} LIMIT 1 OFFSET {}", self.places, self.between(after, None), self.order, rows.max(1) - 1)
    }

    /// Which of `keys` lie beyond `place`: a row of as many numbers, 1 or 0.
    pub(super) fn beyond(&self, place: &Place, keys: &[Place]) -> String {
        let conditions: Vec<String> = keys
            .iter()
            .map(|key| {
                let sides = self.columns.iter().zip(key.0.iter().zip(&place.0));
                let sides = sides.map(|((_, kind, column), (key, place))| (key.typed(kind, column), place.typed(kind, column)));
                format!("({})", compare(">", &sides.collect::<Vec<_>>()))
            })
            .collect();
        format!("SELECT {}", conditions.join(", "))
    }

    /// The place of a row read by [`Walker::rows`].
    pub(super) fn place(&self, row: &Row) -> Option<Place> {
        Self::parts(row, self.wanted)
    }

    /// The place read by [`Walker::cut`].
    pub(super) fn cut_place(row: &Row) -> Option<Place> {
        Self::parts(row, 0)
    }

    /// Whether a place has the form of this table's: one kept from an earlier shape of the table has not.
    pub(super) fn fits(&self, place: &Place) -> bool {
        place.0.len() == self.columns.len()
    }

    fn parts(row: &Row, first: usize) -> Option<Place> {
        (first..row.len()).map(|index| Part::sent(row.as_ref(index)?)).collect::<Option<_>>().map(Place)
    }

    fn between(&self, after: Option<&Place>, upto: Option<&Place>) -> String {
        let bounds = [(after, ">"), (upto, "<=")];
        let conditions: Vec<String> =
            bounds.into_iter().filter_map(|(place, operator)| Some(compare(operator, &self.sides(place?)))).collect();
        if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
    }

    fn sides(&self, place: &Place) -> Vec<(String, String)> {
        let named = self.columns.iter().zip(&place.0).map(|((name, kind, column), part)| {
            let name = if by_number(kind) { format!("{name} + 0") } else { name.clone() };
            (name, part.literal(kind, column))
        });
        named.collect()
    }
}

/// `(a, b) > (x, y)`, written out so that the server uses the index: `a >= x AND (a > x OR (a = x AND b > y))`; with `<=` the same the
/// other way round.
fn compare(operator: &str, sides: &[(String, String)]) -> String {
    let strict = &operator[..1];
    let Some(((name, value), before)) = sides.split_last() else { return "TRUE".into() };
    let mut condition = format!("{name} {operator} {value}");
    for (name, value) in before.iter().rev() {
        condition = format!("{name} {strict}= {value} AND ({name} {strict} {value} OR ({name} = {value} AND {condition}))");
    }
    condition
}

fn by_number(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Bit { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Schema;
    use crate::mysql::catalogue::Walk;

    fn info() -> TableInfo {
        let column = |name: &str, kind| Column { name: name.into(), kind, nullable: false };
        let columns = vec![column("a", ColumnType::Integer { bytes: 4, unsigned: false }), column("b", ColumnType::Text { collation: 8 })];
        let text = Some(("latin1".to_owned(), "latin1_swedish_ci".to_owned()));
        let walk = Walk { index: "PRIMARY".into(), columns: vec![WalkColumn { column: 0, text: None }, WalkColumn { column: 1, text }] };
        TableInfo { schema: Schema { columns, key: vec![0, 1] }, walk, row_estimate: 0 }
    }

    #[test]
    fn n14_chunks_lie_between_places() {
        let walker = Walker::new(&TablePlan::new("t", "d", "t"), &info());
        let after = Place(vec![Part::Int(-5), Part::Bytes(vec![0xe9])]);
        let upto = Place(vec![Part::Int(7), Part::Text("é".into())]);
        let b = "CONVERT(X'e9' USING latin1) COLLATE latin1_swedish_ci";
        let c = "CONVERT(CONVERT(X'c3a9' USING utf8mb4) USING latin1) COLLATE latin1_swedish_ci";
        assert_eq!(
            walker.rows(Some(&after), Some(&upto)),
            format!(
                "SELECT `a`, `b`, `a`, `b` FROM `d`.`t` FORCE INDEX (`PRIMARY`) WHERE `a` >= -5 AND (`a` > -5 OR (`a` = -5 AND `b` > {b})) \
                 AND `a` <= 7 AND (`a` < 7 OR (`a` = 7 AND `b` <= {c})) ORDER BY `a`, `b`"
            )
        );
        assert_eq!(walker.cut(None, 10), "SELECT `a`, `b` FROM `d`.`t` FORCE INDEX (`PRIMARY`) ORDER BY `a`, `b` LIMIT 1 OFFSET 9");
    }

    #[test]
    fn literals_are_exact_and_no_sql_of_anybodys() {
        let plain = WalkColumn { column: 0, text: None };
        assert_eq!(Part::Float(0.1).literal(&ColumnType::Float, &plain), "1.0000000149011612e-1");
        let decimal = ColumnType::Decimal { precision: 10, scale: 2 };
        assert_eq!(Part::Bytes(b"1.50".to_vec()).literal(&decimal, &plain), "CAST('1.50' AS DECIMAL(10,2))");
        assert_eq!(Part::Bytes(b"1') OR 1".to_vec()).literal(&decimal, &plain), "X'312729204f522031'");
        let moment = Part::sent(&Sent::Date(2024, 1, 2, 3, 4, 5, 6)).expect("a moment");
        assert_eq!(moment.literal(&ColumnType::DateTime { digits: 6 }, &plain), "'2024-01-02 03:04:05.000006'");
        assert_eq!(moment.literal(&ColumnType::Date, &plain), "'2024-01-02'");
    }

    #[test]
    fn places_are_kept_as_text() {
        let place = Place(vec![
            Part::Int(-5),
            Part::UInt(u64::MAX),
            Part::Float(0.1),
            Part::Double(-0.0),
            Part::Bytes(vec![0, 255]),
            Part::Text("a\"é".into()),
            Part::Moment("2024-01-02 03:04:05.000006".into()),
            Part::Time("-12:00:00.000000".into()),
        ]);
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "[]", "[1]", r#"["i"]"#, r#"["x0"]"#, r#"["t2024' OR 1"]"#, r#"["q1"]"#, r#"["é"]"#] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_the_stream_have_places() {
        let place = Place::of(&info(), &[Value::Int(3), Value::Text("x".into())]).expect("a place");
        assert_eq!(place.to_string(), r#"["i3","sx"]"#);
        assert_eq!(Place::of(&info(), &[Value::Int(3)]), None);
        assert_eq!(Place::of(&info(), &[Value::Null, Value::Null]), None);
        let labels = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        assert_eq!(Part::of(&ColumnType::Enum { labels: labels.clone() }, &Value::Text("c".into())), Some(Part::UInt(3)));
        assert_eq!(Part::of(&ColumnType::Set { labels }, &Value::Text("a,c".into())), Some(Part::UInt(5)));
        let stamp = Part::of(&ColumnType::Timestamp { digits: 0 }, &Value::Timestamp { seconds: 1_709_251_199, micros: 5 });
        assert_eq!(stamp, Some(Part::Moment("2024-02-29 23:59:59.000005".into())));
        let time = Part::of(&ColumnType::Time { digits: 0 }, &Value::Time { micros: -3_020_399_000_000 });
        assert_eq!(time, Some(Part::Time("-838:59:59.000000".into())));
    }
}
