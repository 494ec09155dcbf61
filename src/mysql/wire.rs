//! How a column's values lie in a row image: the physical side of a type, from its code and metadata in the table map.
//!
//! Sources: MySQL 8.4 source documentation of the binlog row format and of the packed temporal types ("TIMEF", "DATETIMEF").

use super::cursor::{Cursor, Fault, big_endian, little_endian};
use super::table_map::code;
use super::text;
use crate::model::Value;

/// Physical form of a column. Temporal types without "Old" are those of MySQL 5.6 and later, with fraction digits 0 to 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Integer {
        bytes: u8,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        bits: u8,
    },
    Year,
    Date,
    OldTime,
    OldDateTime,
    OldTimestamp,
    Time {
        digits: u8,
    },
    DateTime {
        digits: u8,
    },
    Timestamp {
        digits: u8,
    },
    /// A little-endian length of `prefix` bytes, then so many bytes. `max` is the declared width in bytes (0 for BLOB and its kin).
    Variable {
        prefix: u8,
        max: u16,
    },
    Enum {
        bytes: u8,
    },
    Set {
        bytes: u8,
    },
}

impl Wire {
    /// Reads the metadata of a type code; `None` for a type we cannot read (its metadata has no known length either).
    pub fn read(type_code: u8, metadata: &mut Cursor<'_>) -> Result<Option<(u8, Wire)>, Fault> {
        let wire = match type_code {
            1 => Wire::Integer { bytes: 1 },
            2 => Wire::Integer { bytes: 2 },
            9 => Wire::Integer { bytes: 3 },
            3 => Wire::Integer { bytes: 4 },
            8 => Wire::Integer { bytes: 8 },
            4 => metadata.u8().map(|_| Wire::Float)?,
            5 => metadata.u8().map(|_| Wire::Double)?,
            7 => Wire::OldTimestamp,
            10 | 14 => Wire::Date,
            11 => Wire::OldTime,
            12 => Wire::OldDateTime,
            code::YEAR => Wire::Year,
            15 | 253 => {
                let max = metadata.uint(2)? as u16;
                Wire::Variable { prefix: if max > 255 { 2 } else { 1 }, max }
            }
            16 => {
                let (odd, bytes) = (metadata.u8()?, metadata.u8()?);
                let bits = u16::from(bytes) * 8 + u16::from(odd);
                Wire::Bit {
                    bits: u8::try_from(bits)
                        .ok()
                        .filter(|bits| (1..=64).contains(bits))
                        .ok_or(Fault::Invalid("a BIT of more than 64 bits"))?,
                }
            }
            17 => Wire::Timestamp { digits: fraction_digits(metadata)? },
            18 => Wire::DateTime { digits: fraction_digits(metadata)? },
            19 => Wire::Time { digits: fraction_digits(metadata)? },
            246 => {
                let (precision, scale) = (metadata.u8()?, metadata.u8()?);
                if precision == 0 || precision > 65 || scale > 30 || scale > precision {
                    return Err(Fault::Invalid("a DECIMAL beyond 65 digits or 30 fraction digits"));
                }
                Wire::Decimal { precision, scale }
            }
            code::VECTOR | code::JSON | code::GEOMETRY | 249..=252 => match metadata.u8()? {
                prefix @ 1..=4 => Wire::Variable { prefix, max: 0 },
                _ => return Err(Fault::Invalid("a BLOB length of more than 4 bytes")),
            },
            code::ENUM | code::SET | code::STRING => return string(metadata).map(Some),
            _ => return Ok(None),
        };
        Ok(Some((type_code, wire)))
    }

    /// Bytes of a value of fixed size, 0 for a variable one.
    pub fn fixed_size(self) -> usize {
        match self {
            Wire::Integer { bytes } | Wire::Enum { bytes } | Wire::Set { bytes } => usize::from(bytes),
            Wire::Float | Wire::OldTimestamp => 4,
            Wire::Double | Wire::OldDateTime => 8,
            Wire::Decimal { precision, scale } => text::decimal_size(precision, scale),
            Wire::Bit { bits } => usize::from(bits).div_ceil(8),
            Wire::Year => 1,
            Wire::Date | Wire::OldTime => 3,
            Wire::Time { digits } => 3 + fraction_size(digits),
            Wire::DateTime { digits } => 5 + fraction_size(digits),
            Wire::Timestamp { digits } => 4 + fraction_size(digits),
            Wire::Variable { .. } => 0,
        }
    }
}

/// CHAR and BINARY hide the upper two bits of a width above 255 in the type byte, inverted; ENUM and SET come as STRING with
/// their own code there.
fn string(metadata: &mut Cursor<'_>) -> Result<(u8, Wire), Fault> {
    let (first, second) = (metadata.u8()?, metadata.u8()?);
    if first & 0x30 != 0x30 {
        let max = u16::from(second) | u16::from((first & 0x30) ^ 0x30) << 4;
        return Ok((code::STRING, Wire::Variable { prefix: if max > 255 { 2 } else { 1 }, max }));
    }
    match (first, second) {
        (code::STRING, max) => Ok((code::STRING, Wire::Variable { prefix: 1, max: u16::from(max) })),
        (code::ENUM, bytes @ 1..=2) => Ok((code::ENUM, Wire::Enum { bytes })),
        (code::SET, bytes @ 1..=8) => Ok((code::SET, Wire::Set { bytes })),
        _ => Err(Fault::Invalid("a string column of an impossible type")),
    }
}

fn fraction_digits(metadata: &mut Cursor<'_>) -> Result<u8, Fault> {
    match metadata.u8()? {
        digits @ 0..=6 => Ok(digits),
        _ => Err(Fault::Invalid("more than 6 fraction digits")),
    }
}

fn fraction_size(digits: u8) -> usize {
    usize::from(digits).div_ceil(2)
}

/// Sign-extends a little-endian number of 1, 2, 3, 4 or 8 bytes.
#[inline]
pub fn signed(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    (little_endian(bytes) << unused) as i64 >> unused
}

/// YEAR: years since 1900, byte 0 for the year 0000.
pub fn year(byte: u8) -> u64 {
    if byte == 0 { 0 } else { 1900 + u64::from(byte) }
}

/// DATE, 3 bytes little-endian: day 5 bits, month 4, year 15.
pub fn date(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let packed = little_endian(bytes);
    let (year, month, day) = ((packed >> 9) as u16, (packed >> 5 & 15) as u8, (packed & 31) as u8);
    if year > 9999 || month > 12 {
        return Err(Fault::Invalid("a DATE outside 0000-00-00 to 9999-12-31"));
    }
    Ok(Value::Date { year, month, day })
}

/// TIME: 3 bytes and the fraction, big-endian, 0x800000… standing for zero.
pub fn time(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let fraction_bytes = bytes.len().checked_sub(3).ok_or(Fault::Short)?;
    let packed = big_endian(bytes) as i64 - (0x80_0000 << (8 * fraction_bytes));
    let (whole, fraction) = split(packed.unsigned_abs(), fraction_bytes);
    let micros = clock_micros(whole >> 12, whole >> 6 & 63, whole & 63, micros(fraction, fraction_bytes)?, 838)?;
    Ok(Value::Time { micros: if packed < 0 { -micros } else { micros } })
}

/// DATETIME: 5 bytes and the fraction, big-endian: 1 bit always set, year × 13 + month 17 bits, day 5, hour 5, minute 6, second 6.
pub fn date_time(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let fraction_bytes = bytes.len().checked_sub(5).ok_or(Fault::Short)?;
    let (whole, fraction) = split(big_endian(bytes), fraction_bytes);
    let whole = whole.checked_sub(0x80_0000_0000).ok_or(Fault::Invalid("a DATETIME below zero"))?;
    packed_date_time(whole, micros(fraction, fraction_bytes)?)
}

/// The whole seconds of a packed DATETIME (without the leading bit); JSON holds them too.
pub fn packed_date_time(whole: u64, micros: u32) -> Result<Value<'static>, Fault> {
    let (months, day) = (whole >> 22, (whole >> 17 & 31) as u8);
    let (year, month) = (months / 13, (months % 13) as u8);
    checked_date_time(year, month, day, (whole >> 12 & 31) as u8, (whole >> 6 & 63) as u8, (whole & 63) as u8, micros)
}

/// TIMESTAMP: 4 bytes of seconds and the fraction, big-endian.
pub fn timestamp(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let fraction_bytes = bytes.len().checked_sub(4).ok_or(Fault::Short)?;
    let (seconds, fraction) = split(big_endian(bytes), fraction_bytes);
    Ok(Value::Timestamp { seconds: seconds as i64, micros: micros(fraction, fraction_bytes)? })
}

/// TIME before MySQL 5.6: the digits hhmmss as a signed number.
pub fn old_time(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let digits = signed(bytes);
    let n = digits.unsigned_abs();
    let micros = clock_micros(n / 10_000, n / 100 % 100, n % 100, 0, 838)?;
    Ok(Value::Time { micros: if digits < 0 { -micros } else { micros } })
}

/// DATETIME before MySQL 5.6: the digits YYYYMMDDhhmmss as a number.
pub fn old_date_time(bytes: &[u8]) -> Result<Value<'static>, Fault> {
    let n = little_endian(bytes);
    let two = |power: u64| (n / power % 100) as u8;
    checked_date_time(n / 10_000_000_000, two(100_000_000), two(1_000_000), two(10_000), two(100), two(1), 0)
}

/// Microseconds of a time of day or a duration of at most `max_hours` hours.
pub fn clock_micros(hours: u64, minutes: u64, seconds: u64, micros: u32, max_hours: u64) -> Result<i64, Fault> {
    if hours > max_hours || minutes > 59 || seconds > 59 {
        return Err(Fault::Invalid("a time with more than 59 minutes or seconds, or beyond 838 hours"));
    }
    Ok(((hours * 60 + minutes) * 60 + seconds) as i64 * 1_000_000 + i64::from(micros))
}

fn checked_date_time(year: u64, month: u8, day: u8, hour: u8, minute: u8, second: u8, micros: u32) -> Result<Value<'static>, Fault> {
    if year > 9999 || month > 12 || day > 31 || hour > 23 || minute > 59 || second > 59 {
        return Err(Fault::Invalid("a DATETIME that is no date and time"));
    }
    Ok(Value::DateTime { year: year as u16, month, day, hour, minute, second, micros })
}

/// Splits a big-endian number into what stands before its last `fraction_bytes` bytes, and those.
fn split(packed: u64, fraction_bytes: usize) -> (u64, u64) {
    let bits = 8 * fraction_bytes.min(3);
    (packed >> bits, packed & ((1 << bits) - 1))
}

/// The fraction in microseconds: 1 byte counts hundredths, 2 bytes ten-thousandths, 3 bytes millionths.
fn micros(fraction: u64, bytes: usize) -> Result<u32, Fault> {
    let unit = [1, 10_000, 100, 1].get(bytes).copied().ok_or(Fault::Invalid("a fraction of more than 3 bytes"))?;
    match fraction * unit {
        micros @ 0..=999_999 => Ok(micros as u32),
        _ => Err(Fault::Invalid("a fraction of a second or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(type_code: u8, metadata: &[u8]) -> Option<(u8, Wire)> {
        Wire::read(type_code, &mut Cursor::new(metadata)).expect("metadata is whole")
    }

    #[test]
    fn wide_char_hides_its_length_in_the_type_byte() {
        assert_eq!(read(254, &[254, 40]), Some((254, Wire::Variable { prefix: 1, max: 40 })));
        // CHAR(255) in utf8mb4: 1020 = 0x3FC bytes, upper bits 0b11 inverted into 0b00.
        assert_eq!(read(254, &[254 & !0x30, 0xFC]), Some((254, Wire::Variable { prefix: 2, max: 1020 })));
        assert_eq!(read(254, &[247, 2]), Some((247, Wire::Enum { bytes: 2 })));
        assert_eq!(read(254, &[248, 8]), Some((248, Wire::Set { bytes: 8 })));
        assert_eq!(read(20, &[]), None, "typed arrays are no column type");
        assert!(Wire::read(254, &mut Cursor::new(&[247, 3])).is_err());
    }

    #[test]
    fn integers_are_sign_extended_from_their_width() {
        assert_eq!(signed(&[0xFF, 0xFF, 0xFF]), -1);
        assert_eq!(signed(&[0, 0, 0x80]), -8_388_608);
        assert_eq!(signed(&[0xFF, 0xFF, 0x7F]), 8_388_607);
        assert_eq!(signed(&[0x80]), -128);
        assert_eq!(signed(&[0, 0, 0, 0, 0, 0, 0, 0x80]), i64::MIN);
    }

    #[test]
    fn negative_times_with_fractions() {
        assert_eq!(time(&[0x80, 0, 0]), Ok(Value::Time { micros: 0 }));
        assert_eq!(time(&[0x7F, 0xFF, 0xFF]), Ok(Value::Time { micros: -1_000_000 }));
        // -00:00:00.5 in TIME(1): one less than zero hundredths of 256ths, that is 0x8000_00 × 256 − 50.
        assert_eq!(time(&[0x7F, 0xFF, 0xFF, 206]), Ok(Value::Time { micros: -500_000 }));
        assert_eq!(time(&[0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]), Ok(Value::Time { micros: -1 }));
        assert!(time(&[0x80, 0, 60]).is_err());
        assert_eq!(old_time(&(-8_385_959_i32).to_le_bytes()[..3]), Ok(Value::Time { micros: -3_020_399_000_000 }));
    }

    #[test]
    fn dates_and_timestamps() {
        assert_eq!(date(&[0, 0, 0]), Ok(Value::Date { year: 0, month: 0, day: 0 }));
        assert_eq!(date(&(9999_u32 << 9 | 12 << 5 | 31).to_le_bytes()[..3]), Ok(Value::Date { year: 9999, month: 12, day: 31 }));
        assert!(date(&[0xE0, 1, 0]).is_err(), "month 15");
        assert_eq!(timestamp(&[0, 0, 0, 1, 99]), Ok(Value::Timestamp { seconds: 1, micros: 990_000 }));
        assert!(timestamp(&[0, 0, 0, 1, 100]).is_err());
        let packed = 0x80_0000_0000_u64 | ((2024 * 13 + 2) << 22 | 29 << 17 | 23 << 12 | 59 << 6 | 58);
        let expected = Value::DateTime { year: 2024, month: 2, day: 29, hour: 23, minute: 59, second: 58, micros: 0 };
        assert_eq!(date_time(&packed.to_be_bytes()[3..]), Ok(expected.clone()));
        assert_eq!(old_date_time(&20_240_229_235_958_u64.to_le_bytes()), Ok(expected));
        assert!(date_time(&[0; 5]).is_err());
        assert_eq!([year(0), year(1), year(255)], [0, 1901, 2155]);
    }
}
