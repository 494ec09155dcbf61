//! Conversions of a template: `$path | conversion` (contract E8). Null stays null; what cannot be converted says why.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{Offset, TimeZone};

use super::path::{PathError, nearest};
use super::reader::{self, MAX_DEPTH};
use crate::model::KeyKind;
use crate::model::key::text_of;
use crate::model::row::write_string;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    String,
    Integer,
    Number,
    Boolean,
    Json,
    Timestamp,
    EpochMs,
    EpochUs,
}

const NAMES: [(&str, Conversion); 8] = [
    ("string", Conversion::String),
    ("integer", Conversion::Integer),
    ("number", Conversion::Number),
    ("boolean", Conversion::Boolean),
    ("json", Conversion::Json),
    ("timestamp", Conversion::Timestamp),
    ("epoch_ms", Conversion::EpochMs),
    ("epoch_us", Conversion::EpochUs),
];

/// Why a value could not be converted; ends the sentence "`$path | conversion` …".
pub(super) type Refusal = &'static str;

impl Conversion {
    pub fn parse(name: &str) -> Result<Self, PathError> {
        if let Some(&(_, conversion)) = NAMES.iter().find(|n| n.0 == name) {
            return Ok(conversion);
        }
        let known = NAMES.map(|n| n.0);
        Err(match name {
            "cell" | "point" => {
                PathError::new(format!("conversion `{name}` is not in this version"), "remove it; places come with a later release")
            }
            _ => PathError::new(
                format!("unknown conversion `{name}`"),
                format!("conversions are `{}`{}", known.join("`, `"), nearest(name, &known)),
            ),
        })
    }

    pub fn name(self) -> &'static str {
        NAMES.iter().find(|n| n.1 == self).map_or("", |n| n.0)
    }

    /// Appends the converted value of a JSON fragment; nothing is appended when it is refused. `zone` is that of times
    /// without an offset.
    pub(super) fn write(self, fragment: &[u8], zone: &TimeZone, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if fragment == b"null" {
            out.extend_from_slice(fragment);
            return Ok(());
        }
        match self {
            Conversion::String => write_text(fragment, out),
            Conversion::Number => out.extend_from_slice(&number(fragment)?),
            Conversion::Integer => {
                let number = number(fragment)?;
                let range = KeyKind::Integer { min: i64::MIN, max: u64::MAX };
                out.extend_from_slice(&range.text(&number).ok_or("is not a whole number of 64 bits")?);
            }
            Conversion::Boolean => out.extend_from_slice(match &*text_of(fragment) {
                b"true" => b"true",
                b"false" => b"false",
                b"1" if fragment == b"1" => b"true",
                b"0" if fragment == b"0" => b"false",
                _ => return Err("is neither true nor false, 1 nor 0"),
            }),
            Conversion::Json => write_json(fragment, out)?,
            Conversion::Timestamp => Time::read(fragment, zone)?.write(out)?,
            Conversion::EpochMs => write_integer(Time::read(fragment, zone)?.at.as_microsecond().div_euclid(1000), out),
            Conversion::EpochUs => write_integer(Time::read(fragment, zone)?.at.as_microsecond(), out),
        }
        Ok(())
    }
}

/// A string as it stands, numbers and booleans in quotes, objects and arrays as the text of their JSON.
fn write_text(fragment: &[u8], out: &mut Vec<u8>) {
    match fragment.first() {
        Some(b'"') => out.extend_from_slice(fragment),
        Some(b'{' | b'[') => write_string(out, &String::from_utf8_lossy(fragment)),
        _ => {
            out.push(b'"');
            out.extend_from_slice(fragment);
            out.push(b'"');
        }
    }
}

/// The text of a number, or of a string that holds one.
fn number(fragment: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, Refusal> {
    match fragment.first() {
        Some(b'-' | b'0'..=b'9') => Ok(fragment.into()),
        Some(b'"') => {
            let text = text_of(fragment);
            if std::str::from_utf8(&text).is_ok_and(reader::is_number) { Ok(text) } else { Err("is not the text of a number") }
        }
        _ => Err("is neither a number nor its text"),
    }
}

/// The value that the text of a string stands for; anything but a string is that value already.
fn write_json(fragment: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
    if fragment.first() != Some(&b'"') {
        out.extend_from_slice(fragment);
        return Ok(());
    }
    let text = text_of(fragment);
    let value = std::str::from_utf8(&text).map_err(|_| "is not UTF-8")?;
    reader::check(value, MAX_DEPTH).map_err(|_| "does not hold JSON")?;
    out.extend_from_slice(text.trim_ascii());
    Ok(())
}

fn write_integer(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A moment, and how many fraction digits its text had.
struct Time {
    at: Timestamp,
    digits: usize,
}

const NO_TIME: Refusal = "is neither ISO time text nor a number of epoch milliseconds";

impl Time {
    fn read(fragment: &[u8], zone: &TimeZone) -> Result<Self, Refusal> {
        match fragment.first() {
            Some(b'"') => Self::from_text(&text_of(fragment), zone),
            Some(b'-' | b'0'..=b'9') => {
                let whole = KeyKind::Integer { min: i64::MIN, max: i64::MAX as u64 }
                    .text(fragment)
                    .ok_or("is not a whole number of milliseconds")?;
                let milliseconds = std::str::from_utf8(&whole).ok().and_then(|t| t.parse().ok()).ok_or(NO_TIME)?;
                let at = Timestamp::from_millisecond(milliseconds).map_err(|_| OUT_OF_RANGE)?;
                Ok(Self { at, digits: 3 })
            }
            _ => Err(NO_TIME),
        }
    }

    /// `2022-09-06T10:46:17.703283`, with a blank for the `T`, 0 to 9 fraction digits, `Z`, `+05:30`, `+0530`, `+05` or
    /// nothing; a date alone is its midnight.
    fn from_text(text: &[u8], zone: &TimeZone) -> Result<Self, Refusal> {
        let mut digits = Digits(text);
        let (year, month, day) = (digits.take(4)?, digits.after(b'-', 2)?, digits.after(b'-', 2)?);
        let (mut hour, mut minute, mut second, mut nanosecond, mut fraction) = (0, 0, 0, 0, 0);
        if let Some(b'T' | b't' | b' ') = digits.next() {
            (hour, minute, second) = (digits.take(2)?, digits.after(b':', 2)?, digits.after(b':', 2)?);
            if digits.0.first() == Some(&b'.') {
                digits.next();
                fraction = digits.0.iter().take_while(|b| b.is_ascii_digit()).count();
                if fraction == 0 || fraction > 9 {
                    return Err("has a fraction that is not of 1 to 9 digits");
                }
                nanosecond = digits.take(fraction)? * 10_i32.pow(9 - fraction as u32);
            }
        } else if text.len() != 10 {
            return Err(NO_TIME);
        }
        let small = |n: i32| i8::try_from(n).map_err(|_| NO_TIME);
        let year = i16::try_from(year).map_err(|_| NO_TIME)?;
        let civil = DateTime::new(year, small(month)?, small(day)?, small(hour)?, small(minute)?, small(second)?, nanosecond)
            .map_err(|_| "is not a date and time of the calendar")?;
        let at = match digits.offset()? {
            Some(offset) => offset.to_timestamp(civil),
            None => zone.to_timestamp(civil),
        };
        Ok(Self { at: at.map_err(|_| OUT_OF_RANGE)?, digits: fraction })
    }

    /// RFC 3339 in UTC with the fraction digits there were, as a JSON string.
    fn write(&self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let civil = Offset::UTC.to_datetime(self.at);
        let year = u32::try_from(civil.year()).map_err(|_| OUT_OF_RANGE)?;
        let parts = [(b'-', civil.month()), (b'-', civil.day()), (b'T', civil.hour()), (b':', civil.minute()), (b':', civil.second())];
        out.push(b'"');
        push_digits(out, year, 4);
        for (before, value) in parts {
            out.push(before);
            push_digits(out, value.unsigned_abs().into(), 2);
        }
        if self.digits > 0 {
            out.push(b'.');
            let fraction = civil.subsec_nanosecond().unsigned_abs() / 10_u32.pow(9 - self.digits as u32);
            push_digits(out, fraction, self.digits);
        }
        out.extend_from_slice(b"Z\"");
        Ok(())
    }
}

const OUT_OF_RANGE: Refusal = "is a time outside the years 0 to 9999";

/// The decimal digits of `value`, `width` of them.
fn push_digits(out: &mut Vec<u8>, value: u32, width: usize) {
    let mut rest = value;
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Time text, read from the left.
struct Digits<'a>(&'a [u8]);

impl Digits<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// `count` decimal digits, at most nine.
    fn take(&mut self, count: usize) -> Result<i32, Refusal> {
        let mut value = 0;
        for _ in 0..count {
            match self.next() {
                Some(digit @ b'0'..=b'9') => value = value * 10 + i32::from(digit - b'0'),
                _ => return Err(NO_TIME),
            }
        }
        Ok(value)
    }

    fn after(&mut self, separator: u8, count: usize) -> Result<i32, Refusal> {
        if self.next() != Some(separator) {
            return Err(NO_TIME);
        }
        self.take(count)
    }

    /// What is left must be an offset or nothing.
    fn offset(&mut self) -> Result<Option<Offset>, Refusal> {
        let sign = match self.next() {
            None => return Ok(None),
            Some(b'Z' | b'z') if self.0.is_empty() => return Ok(Some(Offset::UTC)),
            Some(b'+') => 1,
            Some(b'-') => -1,
            Some(_) => return Err(NO_TIME),
        };
        let hours = self.take(2)?;
        if self.0.first() == Some(&b':') {
            self.next();
        }
        let minutes = if self.0.is_empty() { 0 } else { self.take(2)? };
        if hours > 23 || minutes > 59 || !self.0.is_empty() {
            return Err(NO_TIME);
        }
        Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map(Some).map_err(|_| NO_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convert(conversion: &str, fragment: &str) -> Result<String, Refusal> {
        let zone = TimeZone::fixed(Offset::from_seconds(5 * 3600 + 1800).expect("an offset"));
        let conversion = Conversion::parse(conversion).expect("a conversion");
        let mut out = Vec::new();
        let result = conversion.write(fragment.as_bytes(), &zone, &mut out);
        assert!(result.is_ok() || out.is_empty(), "nothing is written when {fragment} is refused");
        result.map(|()| String::from_utf8(out).expect("JSON is UTF-8"))
    }

    #[test]
    fn scalars() {
        for (conversion, from, to) in [
            ("string", "45.0", r#""45.0""#),
            ("string", "true", r#""true""#),
            ("string", r#""a\n""#, r#""a\n""#),
            ("string", r#"{"a":"b"}"#, r#""{\"a\":\"b\"}""#),
            ("string", "null", "null"),
            ("number", "1e2", "1e2"),
            ("number", r#""13.01002590""#, "13.01002590"),
            ("integer", "45.0", "45"),
            ("integer", r#""45""#, "45"),
            ("integer", r#""4.5e1""#, "45"),
            ("integer", "18446744073709551615", "18446744073709551615"),
            ("boolean", "1", "true"),
            ("boolean", r#""false""#, "false"),
            ("json", r#"" {\"a\": 1.0} ""#, r#"{"a": 1.0}"#),
            ("json", "[1]", "[1]"),
        ] {
            assert_eq!(convert(conversion, from).as_deref(), Ok(to), "{from} | {conversion}");
        }
        for (conversion, from) in [
            ("number", r#""+1""#),
            ("number", r#"" 1""#),
            ("number", r#""""#),
            ("number", "true"),
            ("number", "[1]"),
            ("integer", "45.5"),
            ("integer", r#""021""#),
            ("integer", "1e400"),
            ("integer", "18446744073709551616"),
            ("boolean", r#""1""#),
            ("boolean", "2"),
            ("boolean", r#""""#),
            ("json", r#""{""#),
            ("json", r#""\ud83d""#),
        ] {
            assert!(convert(conversion, from).is_err(), "{from} | {conversion}");
        }
    }

    #[test]
    fn times() {
        for (conversion, from, to) in [
            ("timestamp", r#""2022-09-06T10:46:17.703283""#, r#""2022-09-06T05:16:17.703283Z""#),
            ("timestamp", r#""2022-09-06T10:46:17""#, r#""2022-09-06T05:16:17Z""#),
            ("timestamp", r#""2022-09-06 10:46:17.1200Z""#, r#""2022-09-06T10:46:17.1200Z""#),
            ("timestamp", r#""2022-09-06T10:46:17.123456789-0100""#, r#""2022-09-06T11:46:17.123456789Z""#),
            ("timestamp", r#""0001-01-01T12:00:00+05""#, r#""0001-01-01T07:00:00Z""#),
            ("timestamp", r#""2022-09-06""#, r#""2022-09-05T18:30:00Z""#),
            ("timestamp", "1670259362000", r#""2022-12-05T16:56:02.000Z""#),
            ("timestamp", "-1", r#""1969-12-31T23:59:59.999Z""#),
            ("timestamp", "null", "null"),
            ("epoch_ms", r#""1970-01-01T00:00:00.999999Z""#, "999"),
            ("epoch_ms", r#""1969-12-31T23:59:59.999999Z""#, "-1"),
            ("epoch_ms", "1.0", "1"),
            ("epoch_us", r#""1970-01-01T00:00:01.0000019Z""#, "1000001"),
            ("epoch_us", "7", "7000"),
        ] {
            assert_eq!(convert(conversion, from).as_deref(), Ok(to), "{from} | {conversion}");
        }
        for from in [
            r#""""#,
            r#""2022-09""#,
            r#""2022-09-06T""#,
            r#""2022-09-06Z""#,
            r#""2022-13-06T10:46:17""#,
            r#""2022-02-30T10:46:17""#,
            r#""2022-09-06T24:00:00""#,
            r#""2022-09-06T10:46""#,
            r#""2022-09-06T10:46:17.""#,
            r#""2022-09-06T10:46:17.1234567890""#,
            r#""2022-09-06T10:46:17+24:00""#,
            r#""2022-09-06T10:46:17+05:3""#,
            r#""2022-09-06T10:46:17Zx""#,
            r#""0000-01-01T00:00:00+05:00""#,
            "1e300",
            "1.5",
            "9223372036854775807",
            "true",
            "{}",
        ] {
            assert!(convert("timestamp", from).is_err(), "{from}");
        }
    }

    #[test]
    fn unknown_names() {
        assert!(Conversion::parse("strin").expect_err("unknown").remedy.contains("did you mean `string`?"));
        assert!(Conversion::parse("cell").expect_err("later").message.contains("not in this version"));
    }
}
