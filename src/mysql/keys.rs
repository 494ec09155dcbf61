//! Keys of rows ([`Key`]) as conditions of a SELECT. Pure.
//!
//! What always holds: if a row with exactly this key exists, the condition finds it, by the key's index. It may find another one
//! too, where the server's comparison is looser than ours (case and trailing spaces of text): the caller compares the keys of what
//! was found. Literals have the type of their column, so nothing is converted (case C10: `"21abc"` never meets 21), and are made of checked
//! characters or hexadecimal digits, so a key can be no other SQL.

use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::connect::quote;
use crate::model::key::text_of;
use crate::model::{ColumnType, Key, KeyKind, Schema};

/// The key columns of a table.
pub struct KeyColumns(Vec<KeyColumn>);

struct KeyColumn {
    name: String,
    kind: ColumnType,
    /// Charset and collation of a text column.
    text: Option<(String, String)>,
}

impl KeyColumns {
    /// `text` gives charset and collation of a text column by its name.
    pub fn new(schema: &Schema, text: impl Fn(&str) -> Option<(String, String)>) -> Self {
        let column = |&index: &usize| {
            let column = &schema.columns[index];
            KeyColumn { name: quote(&column.name), kind: column.kind.clone(), text: text(&column.name) }
        };
        Self(schema.key.iter().map(column).collect())
    }

    /// A key as a literal; `None` when no row of the table can have it.
    pub fn literal(&self, key: &Key) -> Option<String> {
        if let [column] = self.0.as_slice() {
            return column.literal(std::str::from_utf8(key.as_bytes()).ok()?);
        }
        let fragments: Vec<&RawValue> = serde_json::from_slice(key.as_bytes()).ok()?;
        if fragments.len() != self.0.len() {
            return None;
        }
        let mut literals = Vec::with_capacity(fragments.len());
        for (column, fragment) in self.0.iter().zip(fragments) {
            literals.push(column.literal(std::str::from_utf8(&text_of(fragment.get().as_bytes())).ok()?)?);
        }
        Some(format!("({})", literals.join(", ")))
    }

    /// The condition that finds the rows of these literals.
    pub fn condition(&self, literals: &[String]) -> String {
        let names: Vec<&str> = self.0.iter().map(|column| column.name.as_str()).collect();
        match names.as_slice() {
            [name] => format!("{name} IN ({})", literals.join(", ")),
            names => format!("({}) IN ({})", names.join(", "), literals.join(", ")),
        }
    }
}

impl KeyColumn {
    /// The text of a value's row form (contract C) as a literal of its column.
    fn literal(&self, text: &str) -> Option<String> {
        match &self.kind {
            ColumnType::Integer { .. } | ColumnType::Year => integer(self.kind.key_kind(), text),
            ColumnType::Bit { bits: 1 } => match text {
                "true" => Some("1".into()),
                "false" => Some("0".into()),
                _ => None,
            },
            ColumnType::Bit { .. } => integer(KeyKind::Integer { min: 0, max: u64::MAX }, text),
            // The text is the shortest of its float: only that float, exactly, is equal to what the column holds.
            ColumnType::Float => {
                has_only(text, b"0123456789+-.eE").then(|| text.parse::<f32>().ok().map(|n| format!("{:e}", f64::from(n))))?
            }
            ColumnType::Double => has_only(text, b"0123456789+-.eE").then(|| text.parse::<f64>().ok().map(|n| format!("{n:e}")))?,
            ColumnType::Decimal { precision, scale } => {
                has_only(text, b"0123456789-.").then(|| format!("CAST('{text}' AS DECIMAL({precision},{scale}))"))
            }
            // A cast of what is no date is NULL, where a comparison would be an error.
            ColumnType::Date => has_only(text, b"0123456789-").then(|| format!("CAST('{text}' AS DATE)")),
            ColumnType::Time { .. } => has_only(text, b"0123456789-:.").then(|| format!("CAST('{text}' AS TIME(6))")),
            ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } => {
                let moment = text.strip_suffix('Z').unwrap_or(text).replacen('T', " ", 1);
                has_only(&moment, b"0123456789-:. ").then(|| format!("CAST('{moment}' AS DATETIME(6))"))
            }
            ColumnType::Text { .. } => {
                let (charset, collation) = self.text.as_ref()?;
                Some(format!("CONVERT(CONVERT(X'{}' USING utf8mb4) USING {charset}) COLLATE {collation}", hex(text.as_bytes())))
            }
            ColumnType::Binary { .. } | ColumnType::Bytes => {
                let is_base64 = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
                is_base64.then(|| format!("FROM_BASE64('{text}')"))
            }
            ColumnType::MariaDb(kind) => has_only(text, b"0123456789abcdefABCDEF.:-").then(|| format!("CAST('{text}' AS {})", kind.name())),
            // Numbers are compared by number: in the index these are numbers.
            ColumnType::Enum { labels } => match labels.iter().position(|label| label == text) {
                Some(index) => Some((index + 1).to_string()),
                None => text.is_empty().then(|| "0".into()),
            },
            ColumnType::Set { labels } => {
                let chosen = text.split(',').filter(|_| !text.is_empty());
                let bits: Option<Vec<usize>> = chosen.map(|one| labels.iter().position(|label| label == one)).collect();
                Some(bits?.into_iter().filter(|&bit| bit < 64).fold(0_u64, |set, bit| set | 1 << bit).to_string())
            }
            // MySQL makes no key of these.
            ColumnType::Json | ColumnType::Geometry { .. } | ColumnType::Vector => None,
        }
    }
}

/// Canonical digits in the column's range, and nothing else.
fn integer(kind: KeyKind, text: &str) -> Option<String> {
    let canonical = kind.text(text.as_bytes())?;
    (*canonical == *text.as_bytes()).then(|| text.to_owned())
}

fn has_only(text: &str, allowed: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|byte| allowed.contains(&byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Column;

    fn keys(kinds: &[ColumnType]) -> KeyColumns {
        let column = |(index, kind): (usize, &ColumnType)| Column { name: format!("k{index}"), kind: kind.clone(), nullable: false };
        let columns: Vec<Column> = kinds.iter().enumerate().map(column).collect();
        let schema = Schema { key: (0..columns.len()).collect(), columns };
        KeyColumns::new(&schema, |_| Some(("latin1".into(), "latin1_swedish_ci".into())))
    }

    fn literal(kind: ColumnType, text: &str) -> Option<String> {
        keys(&[kind]).literal(&Key::new(text.as_bytes()))
    }

    #[test]
    fn c10_no_key_is_converted_to_another_type() {
        let int = || ColumnType::Integer { bytes: 4, unsigned: false };
        assert_eq!(literal(int(), "21").as_deref(), Some("21"));
        assert_eq!(literal(int(), "-21").as_deref(), Some("-21"));
        for none in ["21abc", "021", " 21", "21.0", "", "2147483648", "true", "0x15", "21 OR 1"] {
            assert_eq!(literal(int(), none), None, "{none}");
        }
        let text = literal(ColumnType::Text { collation: 8 }, "0").expect("a text");
        assert_eq!(text, "CONVERT(CONVERT(X'30' USING utf8mb4) USING latin1) COLLATE latin1_swedish_ci");
    }

    #[test]
    fn literals_have_the_type_of_their_column() {
        let of = |kind, text: &str| literal(kind, text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(of(ColumnType::Float, "0.1"), "1.0000000149011612e-1");
        assert_eq!(of(ColumnType::Double, "0.1"), "1e-1");
        assert_eq!(of(ColumnType::Decimal { precision: 10, scale: 2 }, "1.50"), "CAST('1.50' AS DECIMAL(10,2))");
        assert_eq!(of(ColumnType::Timestamp { digits: 3 }, "2024-01-02T03:04:05.678Z"), "CAST('2024-01-02 03:04:05.678' AS DATETIME(6))");
        assert_eq!(of(ColumnType::Time { digits: 0 }, "-838:59:59"), "CAST('-838:59:59' AS TIME(6))");
        assert_eq!(of(ColumnType::Bytes, "AP8="), "FROM_BASE64('AP8=')");
        let labels = || vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(of(ColumnType::Enum { labels: labels() }, "b"), "2");
        assert_eq!(of(ColumnType::Enum { labels: labels() }, ""), "0");
        assert_eq!(of(ColumnType::Set { labels: labels() }, "a,b"), "3");
        for (kind, none) in [
            (ColumnType::Date, "2024-01-02' OR '1"),
            (ColumnType::Double, "nan"),
            (ColumnType::Enum { labels: labels() }, "c"),
            (ColumnType::Set { labels: labels() }, "a,c"),
            (ColumnType::Bytes, "'"),
        ] {
            assert_eq!(literal(kind, none), None, "{none}");
        }
    }

    #[test]
    fn keys_of_several_columns() {
        let keys = keys(&[ColumnType::Integer { bytes: 8, unsigned: true }, ColumnType::Date]);
        let key = Key::from_fragments([&b"7"[..], b"\"2024-01-02\""].into_iter());
        let literal = keys.literal(&key).expect("a key");
        assert_eq!(keys.condition(&[literal]), "(`k0`, `k1`) IN ((7, CAST('2024-01-02' AS DATE)))");
        assert_eq!(keys.literal(&Key::new(&b"[7]"[..])), None);
        assert_eq!(keys.literal(&Key::new(&b"7"[..])), None);
    }
}
