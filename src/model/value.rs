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
    /// The text the server prints, without the zeros of ZEROFILL.
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
    /// Text some bytes of which are invalid in the column's charset and became U+FFFD (`invalid_text = "replace"`).
    ReplacedText(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Compact JSON text as the server prints it, white space outside strings removed.
    Json(Cow<'a, str>),
    Geometry {
        srid: u32,
        wkb: Cow<'a, [u8]>,
    },
    /// Little-endian float32 numbers, one after the other.
    Vector(Cow<'a, [u8]>),
}

/// What went out differently than it stands in MySQL, since it was taken last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Substitutions {
    /// Dates with month 0 or day 0.
    pub zero_dates: u64,
    /// Texts with bytes invalid in their charset, now U+FFFD.
    pub replaced_texts: u64,
    /// ENUM values that are none of the labels (index 0), now an empty text.
    pub invalid_enums: u64,
}

impl Substitutions {
    pub fn add(&mut self, more: Substitutions) {
        self.zero_dates += more.zero_dates;
        self.replaced_texts += more.replaced_texts;
        self.invalid_enums += more.invalid_enums;
    }
}
