//! MySQL's binary JSON to the text the server prints, white space outside strings removed; and the differences of partial updates.
//! Pure.
//!
//! Format (server source, `json_binary.h`): a type byte, then the value. Objects and arrays have an element count and their size
//! (2 bytes each when small, 4 when large), for objects a key entry each (offset, 2 bytes of length), then a value entry each (type
//! byte, offset or the value itself when it fits). Offsets count from the element count. Hostile offsets may name the same bytes many
//! times, so the text is bounded by the size of the document, and the depth by [`MAX_DEPTH`].

use super::cursor::{Cursor, Fault, little_endian};
use super::json_diff;
use super::text;
use super::wire;
use crate::model::Value;

/// The server refuses documents deeper than 100.
pub(super) const MAX_DEPTH: usize = 101;

/// No value takes more than 8 bytes of text per byte of its document (a control character in a string takes 6, an empty DECIMAL
/// its digits), but for short ones.
const TEXT_PER_BYTE: usize = 8;
const TEXT_SLACK: usize = 256;

/// Appends the text of a document. An empty one is what the server writes for NULL forced into a NOT NULL column: `null`.
pub fn write_text(document: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let Some((&kind, bytes)) = document.split_first() else {
        out.extend_from_slice(b"null");
        return Ok(());
    };
    Printer::new(document.len(), out).raw(Raw { kind, bytes }, 0)
}

/// Appends the text of a document with the differences of a partial update applied to it.
pub fn write_patched(document: &[u8], differences: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let root = json_diff::apply(document, differences)?;
    Printer::new(document.len() + differences.len(), out).node(&root, 0)
}

/// Appends JSON text of the server without the white space outside its strings.
pub fn write_compact(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = memchr::memchr2(b'"', b' ', rest) {
        out.extend_from_slice(&rest[..at]);
        let end = if rest[at] == b' ' { at + 1 } else { string_end(rest, at) };
        if rest[at] == b'"' {
            out.extend_from_slice(&rest[at..end]);
        }
        rest = &rest[end..];
    }
    out.extend_from_slice(rest);
}

/// Where the string that begins at `at` ends, its closing quote included.
fn string_end(text: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(next) = memchr::memchr2(b'"', b'\\', &text[end..]) {
        end += next;
        if text[end] == b'"' {
            return end + 1;
        }
        end = (end + 2).min(text.len());
    }
    text.len()
}

/// A value in its binary form: its type and the bytes from its own beginning on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    pub kind: u8,
    pub bytes: &'a [u8],
}

/// A document that has been taken apart where differences touch it.
#[derive(Debug, Clone)]
pub(super) enum Node<'a> {
    Raw(Raw<'a>),
    Object(Vec<(std::borrow::Cow<'a, [u8]>, Node<'a>)>),
    Array(Vec<Node<'a>>),
}

/// An object or array, its entries known to lie inside the bytes.
#[derive(Clone, Copy)]
pub(super) struct Container<'a> {
    bytes: &'a [u8],
    pub count: usize,
    pub is_object: bool,
    /// Width of counts, sizes and offsets.
    word: usize,
}

impl<'a> Raw<'a> {
    pub fn is_container(self) -> bool {
        self.kind <= 3
    }

    pub fn container(self) -> Result<Container<'a>, Fault> {
        let (is_object, word) = match self.kind {
            0 => (true, 2),
            1 => (true, 4),
            2 => (false, 2),
            3 => (false, 4),
            _ => return Err(Fault::Invalid("a JSON scalar where an object or array must be")),
        };
        let mut cursor = Cursor::new(self.bytes);
        let count = cursor.uint(word)? as usize;
        let size = cursor.uint(word)? as usize;
        let bytes = self.bytes.get(..size).ok_or(Fault::Short)?;
        let container = Container { bytes, count, is_object, word };
        let entries = count.checked_mul(container.key_entry() + container.value_entry()).and_then(|n| n.checked_add(2 * word));
        if entries.is_none_or(|entries| entries > size) {
            return Err(Fault::Short);
        }
        Ok(container)
    }
}

impl<'a> Container<'a> {
    fn key_entry(self) -> usize {
        if self.is_object { self.word + 2 } else { 0 }
    }

    fn value_entry(self) -> usize {
        1 + self.word
    }

    pub fn key(self, index: usize) -> Result<&'a [u8], Fault> {
        let at = 2 * self.word + index * self.key_entry();
        let mut entry = Cursor::new(self.bytes.get(at..).ok_or(Fault::Short)?);
        let (offset, length) = (entry.uint(self.word)? as usize, entry.uint(2)? as usize);
        self.bytes.get(offset..).and_then(|bytes| bytes.get(..length)).ok_or(Fault::Short)
    }

    pub fn value(self, index: usize) -> Result<Raw<'a>, Fault> {
        let at = 2 * self.word + self.count * self.key_entry() + index * self.value_entry();
        let mut entry = Cursor::new(self.bytes.get(at..).ok_or(Fault::Short)?);
        let kind = entry.u8()?;
        let inline = entry.take(self.word)?;
        if matches!(kind, 4..=6) || matches!(kind, 7 | 8) && self.word == 4 {
            return Ok(Raw { kind, bytes: inline });
        }
        Ok(Raw { kind, bytes: self.bytes.get(little_endian(inline) as usize..).ok_or(Fault::Short)? })
    }
}

/// Writes values as text, within bounds.
struct Printer<'o> {
    out: &'o mut Vec<u8>,
    end: usize,
}

impl<'o> Printer<'o> {
    fn new(input_bytes: usize, out: &'o mut Vec<u8>) -> Self {
        let end = out.len() + input_bytes * TEXT_PER_BYTE + TEXT_SLACK;
        Self { out, end }
    }

    fn node(&mut self, node: &Node<'_>, depth: usize) -> Result<(), Fault> {
        match node {
            Node::Raw(raw) => self.raw(*raw, depth),
            Node::Object(members) => self.list(*b"{}", members.len(), depth, |printer, index| {
                text::json_string(&members[index].0, printer.out);
                printer.out.push(b':');
                printer.node(&members[index].1, depth + 1)
            }),
            Node::Array(elements) => self.list(*b"[]", elements.len(), depth, |printer, index| printer.node(&elements[index], depth + 1)),
        }
    }

    fn raw(&mut self, raw: Raw<'_>, depth: usize) -> Result<(), Fault> {
        if raw.is_container() {
            let container = raw.container()?;
            let brackets = if container.is_object { *b"{}" } else { *b"[]" };
            return self.list(brackets, container.count, depth, |printer, index| {
                if container.is_object {
                    text::json_string(container.key(index)?, printer.out);
                    printer.out.push(b':');
                }
                printer.raw(container.value(index)?, depth + 1)
            });
        }
        scalar(raw, self.out)?;
        if self.out.len() > self.end {
            return Err(Fault::Invalid("a JSON document that is many times larger as text than in the row"));
        }
        Ok(())
    }

    fn list(
        &mut self,
        brackets: [u8; 2],
        count: usize,
        depth: usize,
        mut element: impl FnMut(&mut Self, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        if depth >= MAX_DEPTH || self.out.len() > self.end {
            return Err(Fault::Invalid("a JSON document that is too deep, or many times larger as text than in the row"));
        }
        self.out.push(brackets[0]);
        for index in 0..count {
            if index > 0 {
                self.out.push(b',');
            }
            element(self, index)?;
        }
        self.out.push(brackets[1]);
        Ok(())
    }
}

fn scalar(raw: Raw<'_>, out: &mut Vec<u8>) -> Result<(), Fault> {
    let mut cursor = Cursor::new(raw.bytes);
    let mut integers = itoa::Buffer::new();
    let digits = match raw.kind {
        4 => match cursor.u8()? {
            0 => "null",
            1 => "true",
            2 => "false",
            _ => return Err(Fault::Invalid("a JSON literal other than null, true, false")),
        },
        5 => integers.format(wire::signed(cursor.take(2)?)),
        6 => integers.format(cursor.uint(2)?),
        7 => integers.format(wire::signed(cursor.take(4)?)),
        8 => integers.format(cursor.uint(4)?),
        9 => integers.format(wire::signed(cursor.take(8)?)),
        10 => integers.format(cursor.uint(8)?),
        11 => return text::json_double(f64::from_bits(cursor.uint(8)?), out),
        12 => {
            text::json_string(sized(&mut cursor)?, out);
            return Ok(());
        }
        15 => {
            let kind = cursor.u8()?;
            return opaque(kind, sized(&mut cursor)?, out);
        }
        _ => return Err(Fault::Invalid("a JSON value of a type that does not exist")),
    };
    out.extend_from_slice(digits.as_bytes());
    Ok(())
}

/// Bytes after a length in groups of seven bits, lowest first.
fn sized<'a>(cursor: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
    let mut length = 0_u64;
    for group in 0..5 {
        let byte = cursor.u8()?;
        length |= u64::from(byte & 0x7F) << (7 * group);
        if byte & 0x80 == 0 {
            return cursor.take(length as usize);
        }
    }
    Err(Fault::Invalid("a JSON string length of more than 5 bytes"))
}

/// A value of a column type that JSON does not have, as the server prints it.
fn opaque(kind: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    const DECIMAL: u8 = 246;
    const DATE: u8 = 10;
    const TIME: u8 = 11;
    const DATETIME: u8 = 12;
    const TIMESTAMP: u8 = 7;
    if kind == DECIMAL {
        let [precision, scale, digits @ ..] = bytes else { return Err(Fault::Short) };
        if *precision == 0 || *precision > 65 || scale > precision || *scale > 30 {
            return Err(Fault::Invalid("a DECIMAL beyond 65 digits or 30 fraction digits"));
        }
        return text::decimal(digits, *precision, *scale, out);
    }
    out.push(b'"');
    match kind {
        DATE | DATETIME | TIMESTAMP => {
            let packed = packed(bytes)?;
            let moment = wire::packed_date_time(packed >> 24, (packed & 0xFF_FFFF) as u32)?;
            let Value::DateTime { year, month, day, hour, minute, second, micros } = moment else { return Err(Fault::Short) };
            text::date(year, month, day, out);
            if kind != DATE {
                out.push(b' ');
                text::clock(u64::from(hour), u64::from(minute), u64::from(second), micros, 6, out);
            }
        }
        TIME => {
            let packed = packed(bytes)? as i64;
            let magnitude = packed.unsigned_abs();
            let whole = magnitude >> 24;
            let micros = wire::clock_micros(whole >> 12, whole >> 6 & 63, whole & 63, (magnitude & 0xFF_FFFF) as u32, 838)?;
            text::time(if packed < 0 { -micros } else { micros }, 6, out);
        }
        _ => {
            out.extend_from_slice(b"base64:type");
            out.extend_from_slice(itoa::Buffer::new().format(kind).as_bytes());
            out.push(b':');
            // The server breaks base64 into lines of 76 characters.
            for (line, bytes) in bytes.chunks(57).enumerate() {
                if line > 0 {
                    out.extend_from_slice(b"\\n");
                }
                text::base64(bytes, out);
            }
        }
    }
    out.push(b'"');
    Ok(())
}

/// Eight bytes, little-endian: the packed time and three bytes of microseconds.
fn packed(bytes: &[u8]) -> Result<u64, Fault> {
    let packed = Cursor::new(bytes).uint(8)?;
    if packed & 0xFF_FFFF > 999_999 && (packed as i64) >= 0 {
        return Err(Fault::Invalid("a fraction of a second or more"));
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(document: &[u8]) -> Result<String, Fault> {
        let mut out = Vec::new();
        write_text(document, &mut out).map(|()| String::from_utf8_lossy(&out).into_owned())
    }

    /// A small array of values that follow one another.
    fn array(values: &[(u8, &[u8])]) -> Vec<u8> {
        let mut entries = Vec::new();
        let mut bytes = Vec::new();
        for (kind, value) in values {
            let offset = 4 + 3 * values.len() + bytes.len();
            entries.push(*kind);
            entries.extend_from_slice(&(offset as u16).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        let size = (4 + entries.len() + bytes.len()) as u16;
        [&[2], &(values.len() as u16).to_le_bytes()[..], &size.to_le_bytes(), &entries, &bytes].concat()
    }

    #[test]
    fn scalars() {
        for (document, expected) in [
            (&b""[..], "null"),
            (b"\x04\x00", "null"),
            (b"\x04\x01", "true"),
            (b"\x04\x02", "false"),
            (b"\x05\xFF\xFF", "-1"),
            (b"\x06\xFF\xFF", "65535"),
            (b"\x07\0\0\0\x80", "-2147483648"),
            (b"\x08\xFF\xFF\xFF\xFF", "4294967295"),
            (b"\x09\0\0\0\0\0\0\0\x80", "-9223372036854775808"),
            (b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "18446744073709551615"),
            (b"\x0B\0\0\0\0\0\0\x59\x40", "100.0"),
            (b"\x0C\x03a\"\n", r#""a\"\n""#),
            (b"\x0F\xF6\x04\x03\x01\x81\x05", "1.5"),
            (b"\x0F\x0F\x02\x00\xFF", r#""base64:type15:AP8=""#),
        ] {
            assert_eq!(text(document).as_deref(), Ok(expected));
        }
        assert!(text(b"\x04\x03").is_err() && text(b"\x0D").is_err() && text(b"\x0C\xFF\xFF\xFF\xFF\xFF\x01").is_err());
    }

    #[test]
    fn times_are_printed_with_six_digits() {
        let packed = ((2024_u64 * 13 + 2) << 22 | 29 << 17 | 23 << 12 | 59 << 6 | 58) << 24 | 120_000;
        let opaque = |kind: u8, packed: u64| [&[kind, 8], &packed.to_le_bytes()[..]].concat();
        let time = (-((10_i64 << 12 | 11 << 6 | 12) << 24 | 500_000)) as u64;
        let document = array(&[(15, &opaque(12, packed)), (15, &opaque(10, packed >> 41 << 41)), (15, &opaque(11, time))]);
        assert_eq!(text(&document).as_deref(), Ok(r#"["2024-02-29 23:59:58.120000","2024-02-29","-10:11:12.500000"]"#));
    }

    #[test]
    fn documents_that_name_the_same_bytes_many_times_are_refused() {
        // An array of arrays, each element of which is the next level: 40 levels of 2 would be 2^40 values.
        let mut document = vec![2];
        for level in 0..40_u16 {
            let left = 40 - level;
            document.extend_from_slice(&2_u16.to_le_bytes());
            document.extend_from_slice(&(left * 10).to_le_bytes());
            let kind = if left > 1 { 2 } else { 4 };
            for _ in 0..2 {
                document.push(kind);
                document.extend_from_slice(&10_u16.to_le_bytes());
            }
        }
        assert!(matches!(text(&document), Err(Fault::Invalid(_))));
        // A level that names itself would go on for ever.
        assert!(matches!(text(b"\x02\x01\0\x07\0\x02\0\0"), Err(Fault::Invalid(_))));
    }

    #[test]
    fn white_space_goes_only_outside_strings() {
        let mut out = Vec::new();
        write_compact(br#"{"a b": [1, "x \" y", "\\"], "c": " , : "}"#, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), r#"{"a b":[1,"x \" y","\\"],"c":" , : "}"#);
    }

    #[test]
    fn differences_in_order() {
        let document = array(&[(12, b"\x01x"), (12, b"\x01y")]);
        for (differences, expected) in [
            (&b"\x00\x04$[1]\x02\x04\x01"[..], r#"["x",true]"#),
            (b"\x01\x04$[0]\x02\x04\x01", r#"[true,"x","y"]"#),
            (b"\x01\x04$[9]\x02\x04\x01\x02\x04$[0]", r#"["y",true]"#),
            (b"\x00\x01$\x02\x04\x00", "null"),
            (b"", r#"["x","y"]"#),
        ] {
            let mut out = Vec::new();
            write_patched(&document, differences, &mut out).expect("differences");
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
        for wrong in [
            &b"\x00\x04$[2]\x02\x04\x01"[..],
            b"\x02\x03$.a",
            b"\x00\x02.a\x02\x04\x01",
            b"\x03\x01$",
            b"\x00\x03$[]\x02\x04\x01",
            b"\x00\x04$.\"a\x02\x04\x01",
        ] {
            assert!(write_patched(&document, wrong, &mut Vec::new()).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn damaged_documents_never_panic(mut document: Vec<u8>, differences: Vec<u8>, kind in 0_u8..16) {
            if let Some(first) = document.first_mut() {
                *first = kind;
            }
            let mut out = Vec::new();
            let _ = write_text(&document, &mut out);
            prop_assert!(out.len() <= document.len() * 16 + 1024);
            let _ = write_patched(&document, &differences, &mut out);
            let _ = write_patched(&array(&[(12, b"\x01x"), (4, b"\0")]), &differences, &mut out);
            write_compact(&document, &mut out);
        }
    }
}
