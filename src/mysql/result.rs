//! Values of a result set read by a prepared statement (binary protocol) to [`Value`]: what the snapshot reads.
//!
//! What the session must be: `character_set_results = NULL`, so that text arrives in the column's own charset, and
//! `time_zone = '+00:00'`, so that TIMESTAMP arrives in UTC. Columns are selected by [`select_expression`]; the binary protocol then
//! carries FLOAT and DOUBLE exactly, also with declared digits, and ENUM and SET as label text in UTF-8.

use mysql_async::Value as Sent;

use super::charset::Charset;
use super::cursor::{Fault, big_endian};
use super::decode::{DecodeError, geometry};
use super::{json, text, wire};
use crate::config::plan::InvalidText;
use crate::model::{Column, ColumnType, Value};

/// How to select a column so that [`value`] can read it: the column itself, or for ENUM and SET its text in UTF-8 (the labels'
/// own charset does not stand in the schema).
pub fn select_expression(column: &str, kind: &ColumnType) -> String {
    let quoted = format!("`{}`", column.replace('`', "``"));
    match kind {
        ColumnType::Enum { .. } | ColumnType::Set { .. } => format!("CONVERT({quoted} USING utf8mb4)"),
        _ => quoted,
    }
}

/// Reads a value of `column` as it arrived.
pub fn value<'a>(sent: &'a Sent, column: &Column, invalid: InvalidText) -> Result<Value<'a>, DecodeError> {
    read(sent, &column.kind, invalid).map_err(|fault| DecodeError::Column { column: column.name.clone(), fault })
}

fn read<'a>(sent: &'a Sent, kind: &ColumnType, invalid: InvalidText) -> Result<Value<'a>, Fault> {
    const OTHER: Fault = Fault::Invalid("the server sent a value of another type than its column's");
    Ok(match (kind, sent) {
        (_, Sent::NULL) => Value::Null,
        (ColumnType::Integer { unsigned: false, .. }, &Sent::Int(number)) => Value::Int(number),
        (ColumnType::Integer { unsigned: true, .. } | ColumnType::Year, &Sent::UInt(number)) => Value::UInt(number),
        (ColumnType::Integer { unsigned: true, .. } | ColumnType::Year, &Sent::Int(number)) => {
            Value::UInt(u64::try_from(number).map_err(|_| OTHER)?)
        }
        (ColumnType::Float, &Sent::Float(number)) => Value::Float(number),
        (ColumnType::Double, &Sent::Double(number)) => Value::Double(number),
        (ColumnType::Decimal { .. }, Sent::Bytes(bytes)) => Value::Decimal(decimal(bytes)?.into()),
        (ColumnType::Bit { .. }, Sent::Bytes(bytes)) if bytes.len() <= 8 => Value::UInt(big_endian(bytes)),
        (ColumnType::Date, &Sent::Date(year, month, day, ..)) => Value::Date { year, month, day },
        (ColumnType::DateTime { .. }, &Sent::Date(year, month, day, hour, minute, second, micros)) => {
            Value::DateTime { year, month, day, hour, minute, second, micros }
        }
        (ColumnType::Timestamp { .. }, &Sent::Date(0, 0, 0, ..)) => Value::Timestamp { seconds: 0, micros: 0 },
        (ColumnType::Timestamp { .. }, &Sent::Date(year, month, day, hour, minute, second, micros)) => {
            Value::Timestamp { seconds: text::epoch_seconds(year, month, day, hour, minute, second), micros }
        }
        (ColumnType::Time { .. }, &Sent::Time(negative, days, hours, minutes, seconds, micros)) => {
            let hours = u64::from(days) * 24 + u64::from(hours);
            let micros = wire::clock_micros(hours, minutes.into(), seconds.into(), micros, 838)?;
            Value::Time { micros: if negative { -micros } else { micros } }
        }
        (ColumnType::Text { collation }, Sent::Bytes(bytes)) => {
            match Charset::of(*collation).ok_or(Fault::Collation(*collation))?.decode(bytes, invalid)? {
                (text, false) => Value::Text(text),
                (text, true) => Value::ReplacedText(text),
            }
        }
        (ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::MariaDb(_), Sent::Bytes(bytes)) => Value::Text(utf8(bytes)?.into()),
        (ColumnType::Binary { .. } | ColumnType::Bytes, Sent::Bytes(bytes)) => Value::Bytes(bytes.as_slice().into()),
        (ColumnType::Json, Sent::Bytes(bytes)) => {
            let mut compact = Vec::with_capacity(bytes.len());
            json::write_compact(bytes, &mut compact);
            Value::Json(String::from_utf8(compact).map_err(|_| Fault::Text("utf8mb4"))?.into())
        }
        (ColumnType::Geometry { .. }, Sent::Bytes(bytes)) => geometry(bytes)?,
        (ColumnType::Vector, Sent::Bytes(bytes)) if bytes.len().is_multiple_of(4) => Value::Vector(bytes.as_slice().into()),
        _ => return Err(OTHER),
    })
}

/// DECIMAL text without the leading zeros that ZEROFILL adds.
fn decimal(bytes: &[u8]) -> Result<&str, Fault> {
    let zeros = bytes.iter().take_while(|&&digit| digit == b'0').count();
    let needed = !matches!(bytes.get(zeros), Some(b'0'..=b'9'));
    utf8(&bytes[zeros - usize::from(needed && zeros > 0)..])
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Text("utf8mb4"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_as<'a>(sent: &'a Sent, kind: ColumnType) -> Result<Value<'a>, DecodeError> {
        value(sent, &Column { name: "c".into(), kind, nullable: true }, InvalidText::Stop)
    }

    #[test]
    fn decimals_lose_the_zeros_of_zerofill() {
        for (sent, expected) in
            [("000001.50", "1.50"), ("0000.00", "0.00"), ("00007", "7"), ("0000", "0"), ("0", "0"), ("-0.50", "-0.50"), ("10", "10")]
        {
            assert_eq!(decimal(sent.as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn moments_and_zero_moments() {
        let stamp = ColumnType::Timestamp { digits: 3 };
        assert_eq!(read_as(&Sent::Date(0, 0, 0, 0, 0, 0, 0), stamp.clone()), Ok(Value::Timestamp { seconds: 0, micros: 0 }));
        assert_eq!(
            read_as(&Sent::Date(2024, 2, 29, 23, 59, 59, 120_000), stamp),
            Ok(Value::Timestamp { seconds: 1_709_251_199, micros: 120_000 })
        );
        let time = Sent::Time(true, 34, 22, 59, 59, 0);
        assert_eq!(read_as(&time, ColumnType::Time { digits: 0 }), Ok(Value::Time { micros: -3_020_399_000_000 }));
    }

    #[test]
    fn a_value_of_another_type_is_an_error_that_names_the_column() {
        let error = read_as(&Sent::Bytes(vec![1]), ColumnType::Double).expect_err("bytes are no double");
        assert!(error.to_string().starts_with("column c: "), "{error}");
        assert!(read_as(&Sent::Bytes(vec![1, 2, 3]), ColumnType::Vector).is_err());
        assert!(read_as(&Sent::Int(-1), ColumnType::Integer { bytes: 8, unsigned: true }).is_err());
    }

    #[test]
    fn names_are_quoted() {
        assert_eq!(select_expression("a`b", &ColumnType::Json), "`a``b`");
        assert_eq!(select_expression("e", &ColumnType::Enum { labels: vec![] }), "CONVERT(`e` USING utf8mb4)");
    }
}
