//! One decoded value of a column, borrowed from the bytes it was read from.

use std::borrow::Cow;

/// A value as MySQL means it, before it is printed for a join, an answer or a change topic.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Int(i64),
    /// Unsigned integers, YEAR and BIT.
    UInt(u64),
    Float(f32),
    Double(f64),
    /// The text the server prints.
    Decimal(Cow<'a, str>),
    Date {
        year: u16,
        month: u8,
        day: u8,
    },
    /// Signed microseconds, -838:59:59.000000 to 838:59:59.000000.
    Time {
        micros: i64,
    },
    DateTime {
        year: u16,
        month: u8,
        day: u8,
        hour: u8,
        minute: u8,
        second: u8,
        micros: u32,
    },
    /// Seconds and microseconds since the epoch, UTC; 0 and 0 is MySQL's zero timestamp.
    Timestamp {
        seconds: i64,
        micros: u32,
    },
    /// CHAR, VARCHAR, TEXT, and the label text of ENUM and SET, as UTF-8.
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Compact JSON text as the server prints it, white space outside strings removed.
    Json(Cow<'a, str>),
    Geometry {
        srid: u32,
        wkb: Cow<'a, [u8]>,
    },
    Vector(Vec<f32>),
}
