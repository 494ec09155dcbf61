//! `[tables.NAME]`: which MySQL tables are held, and in which form (contract A6, B10).

use std::time::Duration;

use super::publish::{self, Published};
use crate::config::file::{Section, Text};
use crate::config::plan::{HistoryPlan, TablePlan};

/// MySQL's limit on names of databases and tables, in characters.
const IDENTIFIER_CHARS: usize = 64;

/// Below, what a batch of records needs would not stay until it is used.
const SMALLEST_CACHE: u64 = 64 << 10;
const LARGEST_CACHE: u64 = 1 << 40;

/// In order of name, which gives each its `TableId`. A table at fault is in the list too, so that joins find it. Beside them, where
/// their change topics stand.
pub(super) fn read(root: &Section<'_>) -> (Vec<TablePlan>, Vec<Published>) {
    let mut tables: Vec<TablePlan> = Vec::new();
    let mut published = Vec::new();
    for (name, section) in root.named("tables") {
        let mut table = table(name, &section);
        publish::read(&mut table, &section, &mut published);
        let twin =
            tables.iter().find(|other| !table.table.is_empty() && (&other.database, &other.table) == (&table.database, &table.table));
        if let Some(twin) = twin {
            let message = format!("`tables.{}` holds the same MySQL table", twin.name);
            section.file().fault(&section.at_key("mysql"), message, format!("join with `tables.{}` and remove this one", twin.name));
        }
        section.close();
        tables.push(table);
    }
    if tables.len() > usize::from(u16::MAX) {
        root.file().fault(&root.at_key("tables"), "there are more than 65535", "share them among several instances");
    }
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    (tables, published)
}

fn table(name: String, section: &Section<'_>) -> TablePlan {
    section.later(&[
        ("topic", "tables made of topics"),
        ("keep", "tables made of topics"),
        ("format", "tables made of topics"),
        ("index", "joins on columns other than the key"),
    ]);
    let from_topic = section.has("topic");
    let source = match section.text("mysql") {
        None if !section.has("mysql") && !section.is_faulty() && !from_topic => {
            let remedy = format!("write `mysql = \"database.{name}\"`");
            section.file().fault(&section.at_key("mysql"), "is missing", remedy);
            None
        }
        None => None,
        Some(text) => source(&text.text).or_else(|| {
            let remedy = "write \"database.table\", names with a dot or back-tick in back-ticks: \"shop.`a.b`\"";
            section.file().fault(&text.at, format!("{} does not name a MySQL table", text.quoted()), remedy);
            None
        }),
    };
    let (database, table) = source.unwrap_or_default();
    let columns = columns_not_empty(section, "columns", "name the columns to hold, or remove the key to take all");
    let key = columns_not_empty(section, "key", "name unique, not-null columns, or remove the key to take the primary key");
    let booleans = self::columns(section, "booleans");
    if let Some(columns) = &columns {
        let outside = |text: &&Text| columns.iter().all(|column| column.text != text.text);
        for text in key.iter().flatten().filter(outside) {
            let remedy = format!("add {} to `{}`", text.quoted(), section.at_key("columns").key);
            section.file().fault(&text.at, format!("the projection leaves out the key column {}", text.quoted()), remedy);
        }
        for text in booleans.iter().flatten().filter(outside) {
            let remedy = format!("add it to `{}`, or remove it here", section.at_key("columns").key);
            section.file().fault(&text.at, format!("the projection leaves out the column {}", text.quoted()), remedy);
        }
    }
    let second = Duration::from_secs(1);
    let audit = section.duration("audit", 3600 * second, 10 * second..=30 * 86_400 * second);
    let cache = section.section("cache");
    let max_bytes = cache.is_written().then(|| {
        if !cache.has("max_bytes") && !cache.is_faulty() {
            section.file().fault(
                &cache.at_key("max_bytes"),
                "is missing",
                "write how much of the table is held: `cache = { max_bytes = \"256 MiB\" }`",
            );
        }
        cache.size("max_bytes", SMALLEST_CACHE, SMALLEST_CACHE..=LARGEST_CACHE) as u64
    });
    if max_bytes.is_some() && section.has("audit") {
        let remedy = "remove one of them: what a bounded table holds comes from MySQL when it is needed";
        section.file().fault(&section.at_key("audit"), "is not done for a table with `cache`", remedy);
    }
    cache.close();
    let history = history(section.section("history"));
    if history.is_some() && section.has("cache") {
        let remedy = "remove `history` or `cache`: of rows that are not in memory no versions are known";
        section.file().fault(&section.at_key("history"), "a bounded table has no history", remedy);
    }
    let texts = |columns: Vec<Text>| columns.into_iter().map(|column| column.text).collect();
    TablePlan {
        columns: columns.map(texts),
        key: key.map(texts),
        cascades: section.choice("cascades"),
        booleans: booleans.map(texts).unwrap_or_default(),
        decimal: section.choice("decimal"),
        invalid_text: section.choice("invalid_text"),
        audit: section.has("audit").then_some(audit),
        cache: max_bytes,
        history,
        ..TablePlan::new(name, database, table)
    }
}

/// `history = { keep = "10m", max_bytes = "64 MiB" }`.
fn history(section: Section<'_>) -> Option<HistoryPlan> {
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(86_400));
    if section.is_written() && !section.has("keep") {
        let remedy = "write how far back a join may look: `history = { keep = \"10m\" }`";
        section.file().fault(&section.at_key("keep"), "is missing", remedy);
    }
    let history = HistoryPlan {
        keep: section.duration("keep", 600 * second, second..=30 * day),
        max_bytes: section.size("max_bytes", 64 << 20, 1 << 20..=1 << 40),
    };
    let is_written = section.is_written();
    section.close();
    is_written.then_some(history)
}

/// Names of columns, each once.
fn columns(section: &Section<'_>, key: &'static str) -> Option<Vec<Text>> {
    let columns = section.texts(key)?;
    for (i, column) in columns.iter().enumerate() {
        if column.text.is_empty() {
            section.file().fault(&column.at, "is no column", "write the name of a column");
        } else if columns[..i].iter().any(|earlier| earlier.text == column.text) {
            section.file().fault(&column.at, format!("{} stands here twice", column.quoted()), "remove one");
        }
    }
    Some(columns)
}

fn columns_not_empty(section: &Section<'_>, key: &'static str, remedy: &str) -> Option<Vec<Text>> {
    let columns = columns(section, key)?;
    if columns.is_empty() {
        section.file().fault(&section.at_key(key), "is empty", remedy);
    }
    Some(columns)
}

/// Splits `database.table`, each part perhaps in back-ticks as in SQL.
fn source(text: &str) -> Option<(String, String)> {
    let (database, rest) = identifier(text)?;
    let (table, rest) = identifier(rest.strip_prefix('.')?)?;
    rest.is_empty().then_some((database, table))
}

/// One identifier at the start of `text`, and what follows it.
fn identifier(text: &str) -> Option<(String, &str)> {
    let (name, rest) = match text.strip_prefix('`') {
        Some(quoted) => {
            let mut name = String::new();
            let mut rest = quoted;
            loop {
                let (part, after) = rest.split_once('`')?;
                name.push_str(part);
                match after.strip_prefix('`') {
                    Some(after) => {
                        name.push('`');
                        rest = after;
                    }
                    None => break (name, after),
                }
            }
        }
        None => {
            let end = text.find('.').unwrap_or(text.len());
            let (name, rest) = text.split_at(end);
            if name.contains(|c: char| c == '`' || c.is_whitespace()) {
                return None;
            }
            (name.to_owned(), rest)
        }
    };
    let legal = (1..=IDENTIFIER_CHARS).contains(&name.chars().count()) && !name.ends_with(' ') && !name.contains('\0');
    legal.then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_split_as_sql_does() {
        let pair = |database: &str, table: &str| Some((database.to_owned(), table.to_owned()));
        assert_eq!(source("shop.products"), pair("shop", "products"));
        assert_eq!(source("`a.b`.`c``d`"), pair("a.b", "c`d"));
        assert_eq!(source("shop.`; DROP TABLE x`"), pair("shop", "; DROP TABLE x"));
        assert_eq!(source("größe.表"), pair("größe", "表"));
        for wrong in ["", "products", "shop.", ".products", "a.b.c", "`a.b", "`a`b.c", "a b.c", "a.b`c`", "``.a", "a.`b`x"] {
            assert_eq!(source(wrong), None, "{wrong:?}");
        }
        assert_eq!(source(&format!("a.{}", "x".repeat(65))), None);
    }
}
