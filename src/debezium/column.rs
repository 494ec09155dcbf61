//! How the values of a column are written: its type and the modes of the plan, put together once, so that a row asks no questions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use super::{json, number};
use crate::config::plan::{BigintUnsignedMode, BinaryMode, DecimalMode, PublishPlan, TimeMode};
use crate::model::Substitutions;
use crate::model::{ColumnType, Value, text};

const DAY_SECONDS: i64 = 86_400;
const SECOND: i64 = 1_000_000;

/// What a value's text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Integers as they are, YEAR too.
    Number,
    /// An unsigned integer as Connect's `Decimal`.
    PackedNumber,
    Boolean,
    /// BIT(n) in so many bytes, lowest first.
    Bits {
        bytes: u8,
    },
    Float,
    /// A FLOAT that is shown as double.
    WideFloat,
    Double,
    Decimal(DecimalMode),
    Date(TimeUnit),
    Time(TimeUnit),
    DateTime(TimeUnit),
    Timestamp {
        digits: u8,
    },
    Text,
    /// An ENUM none of whose labels is empty, so that an empty text is index 0.
    Label,
    Bytes(BinaryMode),
    Json,
    Geometry,
    Point,
    Vector,
}

/// What a date or time is counted in. Dates are counted in days unless they are text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Milliseconds, by Connect's own names.
    Connect,
    Millis,
    Micros,
    Nanos,
    /// ISO 8601 with `Z`, the fraction without trailing zeros.
    Text,
}

impl Codec {
    /// `boolean`: the plan shows this TINYINT as true and false. `wide`: a FLOAT with declared digits.
    pub fn of(kind: &ColumnType, publish: &PublishPlan, boolean: bool, wide: bool) -> Codec {
        match kind {
            ColumnType::Integer { .. } if boolean => Codec::Boolean,
            ColumnType::Integer { bytes: 8, unsigned: true } if publish.bigint_unsigned == BigintUnsignedMode::Precise => {
                Codec::PackedNumber
            }
            ColumnType::Integer { .. } | ColumnType::Year => Codec::Number,
            ColumnType::Float if wide => Codec::WideFloat,
            ColumnType::Float => Codec::Float,
            ColumnType::Double => Codec::Double,
            ColumnType::Decimal { .. } => Codec::Decimal(publish.decimal),
            ColumnType::Bit { bits: 1 } => Codec::Boolean,
            ColumnType::Bit { bits } => Codec::Bits { bytes: bits.div_ceil(8).min(8) },
            ColumnType::Date => Codec::Date(unit(publish.time, TimeUnit::Micros)),
            ColumnType::Time { .. } => Codec::Time(unit(publish.time, TimeUnit::Micros)),
            ColumnType::DateTime { digits: 0..=3 } => Codec::DateTime(unit(publish.time, TimeUnit::Millis)),
            ColumnType::DateTime { .. } => Codec::DateTime(unit(publish.time, TimeUnit::Micros)),
            &ColumnType::Timestamp { digits } => Codec::Timestamp { digits },
            ColumnType::Enum { labels } if labels.iter().all(|label| !label.is_empty()) => Codec::Label,
            ColumnType::Text { .. } | ColumnType::Enum { .. } | ColumnType::Set { .. } | ColumnType::MariaDb(_) => Codec::Text,
            ColumnType::Binary { .. } | ColumnType::Bytes => Codec::Bytes(publish.binary),
            ColumnType::Json => Codec::Json,
            ColumnType::Geometry { point: true } => Codec::Point,
            ColumnType::Geometry { point: false } => Codec::Geometry,
            ColumnType::Vector => Codec::Vector,
        }
    }

    /// Appends a value that is not null and no zero date.
    #[inline]
    fn write_plain(self, value: &Value<'_>, counts: &mut Substitutions, out: &mut Vec<u8>) -> Result<(), &'static str> {
        match (self, value) {
            (Codec::Number, &Value::Int(number)) => integer(number, out),
            (Codec::Number, &Value::UInt(number)) => integer(number, out),
            (Codec::Boolean, &Value::Int(number)) => boolean(number != 0, out),
            (Codec::Boolean, &Value::UInt(number)) => boolean(number != 0, out),
            (Codec::PackedNumber, &Value::UInt(number)) => quoted(out, |out| number::unsigned(number, out)),
            (Codec::Bits { bytes }, Value::UInt(bits)) => {
                quoted(out, |out| text::base64(&bits.to_le_bytes()[..usize::from(bytes)], out));
            }
            (Codec::Float, &Value::Float(number)) => finite(number::float(number, out))?,
            (Codec::WideFloat, &Value::Float(number)) => finite(number::double(f64::from(number), out))?,
            (Codec::Double, &Value::Double(number)) => finite(number::double(number, out))?,
            (Codec::Decimal(mode), Value::Decimal(text)) => decimal(mode, text, out)?,
            (Codec::Date(unit), &Value::Date { year, month, day }) => date(unit, year, month, day, out),
            (Codec::Time(unit), &Value::Time { micros }) => time(unit, micros, out)?,
            (Codec::DateTime(unit), &Value::DateTime { year, month, day, hour, minute, second, micros }) => {
                let seconds = text::epoch_seconds(year, month, day, hour, minute, second);
                match unit {
                    TimeUnit::Text => quoted(out, |out| {
                        text::date(year, month, day, out);
                        out.push(b'T');
                        text::clock(u64::from(hour), u64::from(minute), u64::from(second), micros, needed_digits(micros), out);
                        out.push(b'Z');
                    }),
                    _ => integer(count(unit, seconds * SECOND + i64::from(micros))?, out),
                }
            }
            (Codec::Timestamp { digits }, &Value::Timestamp { seconds, micros }) => quoted(out, |out| {
                text::timestamp(seconds, micros, digits, out);
                out.push(b'Z');
            }),
            (Codec::Text, Value::Text(text)) => json::string(text, out),
            (Codec::Label, Value::Text(text)) => {
                counts.invalid_enums += u64::from(text.is_empty());
                json::string(text, out);
            }
            (Codec::Text | Codec::Label, Value::ReplacedText(text)) => {
                counts.replaced_texts += 1;
                json::string(text, out);
            }
            (Codec::Json, Value::Json(text)) => json::string(text, out),
            (Codec::Bytes(mode), Value::Bytes(bytes)) => quoted(out, |out| binary(mode, bytes, out)),
            (Codec::Geometry, Value::Geometry { srid, wkb }) => {
                out.push(b'{');
                shape(*srid, wkb, out);
            }
            (Codec::Point, Value::Geometry { srid, wkb }) => {
                point(wkb, out)?;
                shape(*srid, wkb, out);
            }
            (Codec::Vector, Value::Vector(bytes)) => vector(bytes, out)?,
            _ => return Err("a value of another type than its column"),
        }
        Ok(())
    }

    /// Appends a value. Zero dates (month 0 or day 0) are null in a nullable column, else the epoch as Debezium has it; counted.
    #[inline]
    pub fn write(self, value: &Value<'_>, nullable: bool, counts: &mut Substitutions, out: &mut Vec<u8>) -> Result<(), &'static str> {
        let zero = match *value {
            Value::Null => {
                out.extend_from_slice(b"null");
                return Ok(());
            }
            Value::Date { month, day, .. } | Value::DateTime { month, day, .. } => month == 0 || day == 0,
            Value::Timestamp { seconds, micros } => seconds == 0 && micros == 0,
            _ => false,
        };
        if !zero {
            return self.write_plain(value, counts, out);
        }
        counts.zero_dates += 1;
        out.extend_from_slice(if nullable { b"null" } else { self.epoch() });
        Ok(())
    }

    /// What stands for a date that is none.
    pub fn epoch(self) -> &'static [u8] {
        match self {
            Codec::Date(TimeUnit::Text) => br#""1970-01-01Z""#,
            Codec::DateTime(TimeUnit::Text) | Codec::Timestamp { .. } => br#""1970-01-01T00:00:00Z""#,
            _ => b"0",
        }
    }
}

/// `adaptive` is what the mode of the plan leaves to the column.
fn unit(mode: TimeMode, adaptive: TimeUnit) -> TimeUnit {
    match mode {
        TimeMode::AdaptiveTimeMicroseconds => adaptive,
        TimeMode::Connect => TimeUnit::Connect,
        TimeMode::Isostring => TimeUnit::Text,
        TimeMode::Microseconds => TimeUnit::Micros,
        TimeMode::Nanoseconds => TimeUnit::Nanos,
    }
}

#[inline]
fn integer(number: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn boolean(value: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn finite(written: bool) -> Result<(), &'static str> {
    if written { Ok(()) } else { Err("an infinite number or none, for which JSON has no text") }
}

#[inline]
fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

fn decimal(mode: DecimalMode, decimal: &str, out: &mut Vec<u8>) -> Result<(), &'static str> {
    const NONE: &str = "a DECIMAL that is no number";
    match mode {
        DecimalMode::String => quoted(out, |out| out.extend_from_slice(decimal.as_bytes())),
        DecimalMode::Double => finite(number::double(decimal.parse().map_err(|_| NONE)?, out))?,
        DecimalMode::Precise => {
            out.push(b'"');
            if !number::unscaled(decimal, out) {
                return Err(NONE);
            }
            out.push(b'"');
        }
    }
    Ok(())
}

/// Microseconds in `unit`, towards the past where it is coarser.
fn count(unit: TimeUnit, micros: i64) -> Result<i64, &'static str> {
    match unit {
        TimeUnit::Connect | TimeUnit::Millis => Ok(micros.div_euclid(1000)),
        TimeUnit::Micros | TimeUnit::Text => Ok(micros),
        TimeUnit::Nanos => micros.checked_mul(1000).ok_or("a time that 64 bits of nanoseconds cannot hold (1677 to 2262)"),
    }
}

fn date(unit: TimeUnit, year: u16, month: u8, day: u8, out: &mut Vec<u8>) {
    if unit == TimeUnit::Text {
        return quoted(out, |out| {
            text::date(year, month, day, out);
            out.push(b'Z');
        });
    }
    integer(text::epoch_seconds(year, month, day, 0, 0, 0).div_euclid(DAY_SECONDS), out);
}

/// A TIME is a span, which may be negative or longer than a day. Connect's and ISO's times may not: they are written all the same.
fn time(unit: TimeUnit, micros: i64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match unit {
        TimeUnit::Text => quoted(out, |out| {
            text::time(micros, needed_digits((micros.unsigned_abs() % SECOND.unsigned_abs()) as u32), out);
            out.push(b'Z');
        }),
        TimeUnit::Connect | TimeUnit::Millis => integer(micros / 1000, out),
        TimeUnit::Micros | TimeUnit::Nanos => integer(count(unit, micros)?, out),
    }
    Ok(())
}

/// Fraction digits up to the last that is not zero.
fn needed_digits(micros: u32) -> u8 {
    let mut digits = 6;
    let mut rest = micros;
    while digits > 0 && rest.is_multiple_of(10) {
        rest /= 10;
        digits -= 1;
    }
    digits
}

fn binary(mode: BinaryMode, bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match mode {
        BinaryMode::Bytes | BinaryMode::Base64 => text::base64(bytes, out),
        BinaryMode::Base64UrlSafe => {
            let begin = out.len();
            out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
            let written = URL_SAFE.encode_slice(bytes, &mut out[begin..]).expect("base64 takes four bytes for three");
            out.truncate(begin + written);
        }
        BinaryMode::Hex => out.extend(bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]])),
    }
}

/// The members `wkb` and `srid` and the end of the object. SRID 0 is none.
fn shape(srid: u32, wkb: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#""wkb":""#);
    text::base64(wkb, out);
    out.extend_from_slice(br#"","srid":"#);
    if srid == 0 {
        out.extend_from_slice(b"null");
    } else {
        integer(srid, out);
    }
    out.push(b'}');
}

/// `{"x":1.0,"y":2.0,` of the WKB of a point: byte order 1 (little-endian, the only one MySQL stores), type 1, two float64.
fn point(wkb: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    let coordinates = wkb.strip_prefix(&[1, 1, 0, 0, 0]).map(<[u8]>::as_chunks::<8>);
    let Some(([x, y], [])) = coordinates else { return Err("a POINT that is no point") };
    out.extend_from_slice(br#"{"x":"#);
    finite(number::double(f64::from_le_bytes(*x), out))?;
    out.extend_from_slice(br#","y":"#);
    finite(number::double(f64::from_le_bytes(*y), out))?;
    out.push(b',');
    Ok(())
}

fn vector(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.push(b'[');
    for (index, float) in bytes.as_chunks::<4>().0.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        finite(number::float(f32::from_le_bytes(*float), out))?;
    }
    out.push(b']');
    Ok(())
}
