//! Defaults of columns, from the catalogue's text to values: they stand in the schemas of change records and nowhere else. What cannot
//! be read as a value (an expression, a text of another form) is no default.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params};

use super::connect::Error;
use super::text;
use crate::config::plan::TablePlan;
use crate::debezium::{ColumnDefault, ColumnDetails, Details};
use crate::model::{Column, ColumnType, Schema, Value};

/// Reads what schemas say of a table's columns beside their types. The session's time zone must be UTC.
pub async fn details(connection: &mut Conn, plan: &TablePlan, schema: &Schema) -> Result<Details, Error> {
    let version: Option<String> = connection.query_first("SELECT VERSION()").await?;
    let quoted = version.is_some_and(|version| version.contains("MariaDB"));
    let rows: Vec<(String, String, Option<String>, String)> = connection
        .exec(
            "SELECT COLUMN_NAME, COLUMN_TYPE, COLUMN_DEFAULT, EXTRA FROM information_schema.COLUMNS \
             WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
            Params::Positional(vec![plan.database.as_str().into(), plan.table.as_str().into()]),
        )
        .await?;
    let described = rows.iter().filter_map(|(name, full_type, default, extra)| {
        let column = &schema.columns[schema.column_index(name)?];
        let default =
            default.as_deref().and_then(|text| if quoted { Declared::of_mariadb(text) } else { Some(Declared::of_mysql(text, extra)) });
        Some(described(column, full_type, default.as_ref()))
    });
    Ok(Details { columns: described.collect() })
}

/// What stands in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    text: String,
    /// The text is what gives the value, not the value.
    expression: bool,
}

/// `full_type` as the catalogue has it: `float(7,3)`.
pub fn described(column: &Column, full_type: &str, default: Option<&Declared>) -> ColumnDetails {
    ColumnDetails {
        name: column.name.clone(),
        default: default.and_then(|default| default.value(&column.kind, full_type)),
        declared_digits: column.kind == ColumnType::Float && full_type.contains('('),
    }
}

impl Declared {
    /// MySQL has values without quotes, and says in `extra` which are none.
    pub fn of_mysql(text: &str, extra: &str) -> Declared {
        Declared { text: text.to_owned(), expression: extra.contains("DEFAULT_GENERATED") }
    }

    /// MariaDB has expressions: a text stands in quotes, `NULL` is none.
    pub fn of_mariadb(text: &str) -> Option<Declared> {
        match text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
            Some(text) => Some(Declared { text: text.replace("''", "'"), expression: false }),
            None => Some(Declared { text: text.to_owned(), expression: true }).filter(|default| default.text != "NULL"),
        }
    }

    fn value(&self, kind: &ColumnType, full_type: &str) -> Option<ColumnDefault> {
        let default = self.text.as_str();
        let value = match kind {
            ColumnType::Integer { unsigned: false, .. } => Value::Int(default.parse().ok()?),
            ColumnType::Integer { unsigned: true, .. } | ColumnType::Year => Value::UInt(default.parse().ok()?),
            ColumnType::Float => Value::Float(default.parse().ok()?),
            ColumnType::Double => Value::Double(default.parse().ok()?),
            ColumnType::Decimal { .. } if is_decimal(default) => Value::Decimal(default.to_owned().into()),
            ColumnType::Bit { .. } => Value::UInt(u64::from_str_radix(default.strip_prefix("b'")?.strip_suffix('\'')?, 2).ok()?),
            ColumnType::DateTime { .. } | ColumnType::Timestamp { .. } if is_now(default) => return Some(ColumnDefault::Now),
            ColumnType::Date => {
                let [year, month, day] = numbers(default, '-')?;
                Value::Date { year: u16::try_from(year).ok()?, month: small(month)?, day: small(day)? }
            }
            ColumnType::Time { .. } => time(default)?,
            ColumnType::DateTime { .. } => moment(default)?,
            ColumnType::Timestamp { .. } => match moment(default)? {
                Value::DateTime { month: 0, .. } => Value::Timestamp { seconds: 0, micros: 0 },
                Value::DateTime { year, month, day, hour, minute, second, micros } => {
                    Value::Timestamp { seconds: text::epoch_seconds(year, month, day, hour, minute, second), micros }
                }
                _ => return None,
            },
            ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::Binary { .. } | ColumnType::Bytes
                if self.expression =>
            {
                return None;
            }
            ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } => Value::Text(default.to_owned().into()),
            ColumnType::Binary { .. } | ColumnType::Bytes => Value::Bytes(bytes_of(default, full_type)?.into()),
            ColumnType::Decimal { .. } | ColumnType::Json | ColumnType::Geometry { .. } | ColumnType::Vector => return None,
        };
        Some(ColumnDefault::Value(value))
    }
}

fn is_now(default: &str) -> bool {
    let name = default.split('(').next().unwrap_or_default();
    name.eq_ignore_ascii_case("current_timestamp") || name.eq_ignore_ascii_case("now")
}

fn is_decimal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().any(|byte| byte.is_ascii_digit()) && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `2024-01-02 03:04:05.678901`
fn moment(text: &str) -> Option<Value<'static>> {
    let (date, clock) = text.split_once(' ')?;
    let [year, month, day] = numbers(date, '-')?;
    let (clock, micros) = fraction(clock)?;
    let [hour, minute, second] = numbers(clock, ':')?;
    Some(Value::DateTime {
        year: u16::try_from(year).ok()?,
        month: small(month)?,
        day: small(day)?,
        hour: small(hour)?,
        minute: small(minute)?,
        second: small(second)?,
        micros,
    })
}

/// `-838:59:59.5`
fn time(text: &str) -> Option<Value<'static>> {
    let (negative, clock) = text.strip_prefix('-').map_or((false, text), |clock| (true, clock));
    let (clock, micros) = fraction(clock)?;
    let [hours, minutes, seconds] = numbers(clock, ':')?;
    let micros = ((i64::from(hours) * 60 + i64::from(minutes)) * 60 + i64::from(seconds)) * 1_000_000 + i64::from(micros);
    Some(Value::Time { micros: if negative { -micros } else { micros } })
}

/// What stands before the point, and the microseconds after it.
fn fraction(clock: &str) -> Option<(&str, u32)> {
    let (clock, digits) = clock.split_once('.').unwrap_or((clock, ""));
    if digits.len() > 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((clock, format!("{digits:0<6}").parse().ok()?))
}

/// Three numbers of at most four digits.
fn numbers(text: &str, between: char) -> Option<[u32; 3]> {
    let mut parts = text.split(between).map(|part| part.parse().ok().filter(|_| part.len() <= 4));
    let numbers = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(numbers)
}

fn small(number: u32) -> Option<u8> {
    u8::try_from(number).ok().filter(|&number| number < 100)
}

/// `0x61FF41`. The catalogue cuts a value at its first zero byte, so only one that fills its column is known to be whole.
fn bytes_of(default: &str, full_type: &str) -> Option<Vec<u8>> {
    let width: usize = full_type.split_once('(')?.1.strip_suffix(')')?.parse().ok()?;
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Vec<u8> = default.strip_prefix("0x")?.as_bytes().chunks(2).map(pair).collect::<Option<_>>()?;
    (bytes.len() == width).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(kind: ColumnType, text: &str) -> Option<ColumnDefault> {
        Declared::of_mysql(text, "").value(&kind, "varbinary(3)")
    }

    fn value(kind: ColumnType, text: &str) -> Option<Value<'static>> {
        match read(kind, text)? {
            ColumnDefault::Value(value) => Some(value),
            ColumnDefault::Now => None,
        }
    }

    #[test]
    fn defaults_as_the_catalogue_prints_them() {
        let digits = 6;
        assert_eq!(value(ColumnType::Integer { bytes: 8, unsigned: true }, "18446744073709551615"), Some(Value::UInt(u64::MAX)));
        assert_eq!(value(ColumnType::Bit { bits: 9 }, "b'100000001'"), Some(Value::UInt(257)));
        assert_eq!(value(ColumnType::Time { digits }, "-01:02:03.004"), Some(Value::Time { micros: -3_723_004_000 }));
        assert_eq!(value(ColumnType::Date, "0000-00-00"), Some(Value::Date { year: 0, month: 0, day: 0 }));
        assert_eq!(
            value(ColumnType::Timestamp { digits }, "2001-02-03 04:05:06.7"),
            Some(Value::Timestamp { seconds: 981_173_106, micros: 700_000 })
        );
        assert_eq!(value(ColumnType::Timestamp { digits }, "0000-00-00 00:00:00"), Some(Value::Timestamp { seconds: 0, micros: 0 }));
        assert_eq!(bytes_of("0x61FF41", "varbinary(3)"), Some(vec![0x61, 0xFF, 0x41]));
        assert_eq!((bytes_of("0x61", "binary(3)"), bytes_of("0x", "varbinary(5)"), bytes_of("abc", "binary(3)")), (None, None, None));
        assert_eq!(read(ColumnType::DateTime { digits }, "CURRENT_TIMESTAMP(6)"), Some(ColumnDefault::Now));
        assert_eq!(read(ColumnType::DateTime { digits }, "(now() + interval 1 day)"), None);
        assert_eq!(read(ColumnType::Decimal { precision: 5, scale: 2 }, "pi()"), None);
    }

    #[test]
    fn mariadb_quotes_texts() {
        let text = |text: &str| Declared::of_mariadb(text)?.value(&ColumnType::Text { collation: 45 }, "text");
        let value = |text: &str| Some(ColumnDefault::Value(Value::Text(text.to_owned().into())));
        assert_eq!(text("'it''s'"), value("it's"));
        assert_eq!(text("'NULL'"), value("NULL"));
        assert_eq!((text("NULL"), text("uuid()")), (None, None));
        let now = Declared::of_mariadb("current_timestamp()").expect("an expression");
        assert_eq!(now.value(&ColumnType::DateTime { digits: 0 }, "datetime"), Some(ColumnDefault::Now));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, digits in "[-0-9:. b'x]{0,20}") {
            for kind in [
                ColumnType::Date,
                ColumnType::Time { digits: 6 },
                ColumnType::Timestamp { digits: 6 },
                ColumnType::Bit { bits: 64 },
                ColumnType::Bytes,
                ColumnType::Decimal { precision: 65, scale: 30 },
            ] {
                let _ = (read(kind.clone(), &text), read(kind, &digits));
            }
        }
    }
}
