//! Text in MySQL's charsets to UTF-8, exactly as the server's own `CONVERT(… USING utf8mb4)`. Pure.
//!
//! Single-byte charsets are tables; multi-byte ones of East Asia are cut into characters by their own rules and decoded by
//! `encoding_rs`, but for the code points where it knows another character than MySQL (`charset_tables`). Bytes that are no
//! character of the charset are an error or, if the configuration says so, U+FFFD; they are never passed on as something else.

use std::borrow::Cow;

use encoding_rs::{BIG5, EUC_JP, EUC_KR, Encoding, GB18030, GBK, SHIFT_JIS};

use super::charset_tables::{self as tables, Patch, Upper};
use super::cursor::{Fault, big_endian};
use crate::config::plan::InvalidText;

const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Text of a column with this collation as UTF-8, and whether invalid bytes were replaced by U+FFFD.
pub fn decode(collation: u16, bytes: &[u8], invalid: InvalidText) -> Result<(Cow<'_, str>, bool), Fault> {
    Charset::of(collation).ok_or(Fault::Collation(collation))?.decode(bytes, invalid)
}

/// A charset, found once per column.
#[derive(Clone, Copy)]
pub struct Charset {
    name: &'static str,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Utf8,
    /// ASCII, and what stands above it.
    Single(&'static Upper),
    /// Seven bits, with national letters in the place of some ASCII characters.
    Swe7,
    Ucs2,
    Utf16Be,
    Utf16Le,
    Utf32,
    /// ASCII, and characters of several bytes: the length of the character that begins with these bytes, if it is one.
    Multi(&'static Encoding, &'static [Patch], fn(&[u8]) -> Option<usize>),
}

const NO_UPPER: Upper = [0; 128];

impl Charset {
    /// The collation of BINARY, VARBINARY and BLOB.
    pub const BINARY_COLLATION: u16 = 63;

    /// The charset of a collation, by `information_schema.collations` of MySQL 9.7 and of MariaDB 10.11, which gave its own collations
    /// numbers from 576 on; `None` for numbers that stand in neither.
    pub fn of(collation: u16) -> Option<Charset> {
        let single = |name, upper| (name, Form::Single(upper));
        let (name, form) = match collation {
            // MariaDB: the same without padding.
            1024..=2047 => return Self::of(collation - 1024),
            33 | 76 | 83 | 192..=215 | 223 | 576..=607 | 2048..=2303 => ("utf8mb3", Form::Utf8),
            45 | 46 | 224..=247 | 255..=323 | 608..=639 | 2304..=2559 => ("utf8mb4", Form::Utf8),
            Self::BINARY_COLLATION => ("binary", Form::Utf8),
            11 | 65 => single("ascii", &NO_UPPER),
            5 | 8 | 15 | 31 | 47..=49 | 94 => single("latin1", &tables::LATIN1),
            2 | 9 | 21 | 27 | 77 => single("latin2", &tables::LATIN2),
            30 | 78 => single("latin5", &tables::LATIN5),
            20 | 41 | 42 | 79 => single("latin7", &tables::LATIN7),
            26 | 34 | 44 | 66 | 99 => single("cp1250", &tables::CP1250),
            14 | 23 | 50..=52 => single("cp1251", &tables::CP1251),
            57 | 67 => single("cp1256", &tables::CP1256),
            29 | 58 | 59 => single("cp1257", &tables::CP1257),
            4 | 80 => single("cp850", &tables::CP850),
            40 | 81 => single("cp852", &tables::CP852),
            36 | 68 => single("cp866", &tables::CP866),
            7 | 74 => single("koi8r", &tables::KOI8R),
            22 | 75 => single("koi8u", &tables::KOI8U),
            25 | 70 => single("greek", &tables::GREEK),
            16 | 71 => single("hebrew", &tables::HEBREW),
            18 | 89 => single("tis620", &tables::TIS620),
            32 | 64 => single("armscii8", &tables::ARMSCII8),
            92 | 93 => single("geostd8", &tables::GEOSTD8),
            3 | 69 => single("dec8", &tables::DEC8),
            6 | 72 => single("hp8", &tables::HP8),
            37 | 73 => single("keybcs2", &tables::KEYBCS2),
            38 | 43 => single("macce", &tables::MACCE),
            39 | 53 => single("macroman", &tables::MACROMAN),
            10 | 82 => ("swe7", Form::Swe7),
            35 | 90 | 128..=151 | 159 | 640..=671 | 2560..=2815 => ("ucs2", Form::Ucs2),
            54 | 55 | 101..=124 | 672..=703 | 2816..=3071 => ("utf16", Form::Utf16Be),
            56 | 62 => ("utf16le", Form::Utf16Le),
            60 | 61 | 160..=183 | 736..=767 | 3072..=3327 => ("utf32", Form::Utf32),
            1 | 84 => ("big5", Form::Multi(BIG5, tables::BIG5, big5)),
            28 | 87 => ("gbk", Form::Multi(GBK, tables::GBK, gbk)),
            24 | 86 => ("gb2312", Form::Multi(GBK, tables::GB2312, gb2312)),
            248..=250 => ("gb18030", Form::Multi(GB18030, tables::GB18030, gb18030)),
            13 | 88 => ("sjis", Form::Multi(SHIFT_JIS, tables::SJIS, sjis)),
            95 | 96 => ("cp932", Form::Multi(SHIFT_JIS, &[], sjis)),
            12 | 91 => ("ujis", Form::Multi(EUC_JP, tables::UJIS, ujis)),
            97 | 98 => ("eucjpms", Form::Multi(EUC_JP, tables::EUCJPMS, ujis)),
            19 | 85 => ("euckr", Form::Multi(EUC_KR, &[], euckr)),
            _ => return None,
        };
        Some(Charset { name, form })
    }

    /// As the server names it.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The text as UTF-8, and whether invalid bytes were replaced by U+FFFD.
    #[inline]
    pub fn decode(self, bytes: &[u8], invalid: InvalidText) -> Result<(Cow<'_, str>, bool), Fault> {
        let same_as_ascii = match self.form {
            Form::Utf8 => true,
            Form::Single(_) | Form::Multi(..) => bytes.is_ascii(),
            _ => false,
        };
        if same_as_ascii && let Ok(text) = std::str::from_utf8(bytes) {
            return Ok((Cow::Borrowed(text), false));
        }
        let (text, replaced) = self.convert(bytes, invalid == InvalidText::Replace);
        if replaced && invalid == InvalidText::Stop {
            return Err(Fault::Text(self.name));
        }
        Ok((text, replaced))
    }

    fn convert(self, bytes: &[u8], replace: bool) -> (Cow<'_, str>, bool) {
        let (text, replaced) = match self.form {
            Form::Utf8 if replace => return (String::from_utf8_lossy(bytes), true),
            Form::Utf8 => return (Cow::Borrowed(""), true),
            Form::Single(upper) => collect(bytes.iter().map(|&byte| single(upper, byte))),
            Form::Swe7 => collect(bytes.iter().map(|&byte| swe7(byte))),
            Form::Ucs2 => collect(
                bytes.chunks(2).map(|unit| <[u8; 2]>::try_from(unit).ok().and_then(|unit| char::from_u32(u16::from_be_bytes(unit).into()))),
            ),
            Form::Utf16Be => utf16(bytes, u16::from_be_bytes),
            Form::Utf16Le => utf16(bytes, u16::from_le_bytes),
            Form::Utf32 => collect(
                bytes.chunks(4).map(|unit| <[u8; 4]>::try_from(unit).ok().and_then(|unit| char::from_u32(u32::from_be_bytes(unit)))),
            ),
            Form::Multi(encoding, patches, length) => multi(bytes, encoding, patches, length),
        };
        (Cow::Owned(text), replaced)
    }
}

impl std::fmt::Debug for Charset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn collect(characters: impl Iterator<Item = Option<char>>) -> (String, bool) {
    let mut text = String::with_capacity(characters.size_hint().0);
    let mut replaced = false;
    for character in characters {
        replaced |= character.is_none();
        text.push(character.unwrap_or(REPLACEMENT));
    }
    (text, replaced)
}

fn single(upper: &Upper, byte: u8) -> Option<char> {
    match byte {
        0..=0x7F => Some(char::from(byte)),
        _ => match upper[usize::from(byte - 0x80)] {
            0 => None,
            unicode => char::from_u32(unicode.into()),
        },
    }
}

fn swe7(byte: u8) -> Option<char> {
    match byte {
        b'@' => Some('É'),
        b'[' => Some('Ä'),
        b'\\' => Some('Ö'),
        b']' => Some('Å'),
        b'^' => Some('Ü'),
        b'`' => Some('é'),
        b'{' => Some('ä'),
        b'|' => Some('ö'),
        b'}' => Some('å'),
        b'~' => Some('ü'),
        0..0x7F => Some(char::from(byte)),
        0x7F.. => None,
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> (String, bool) {
    let (units, odd) = bytes.as_chunks::<2>();
    let whole = char::decode_utf16(units.iter().map(|&bytes| unit(bytes))).map(Result::ok);
    collect(whole.chain((!odd.is_empty()).then_some(None)))
}

/// Cuts the text into characters; stretches without a patched one go through `encoding_rs` whole.
fn multi(bytes: &[u8], encoding: &'static Encoding, patches: &[Patch], length: fn(&[u8]) -> Option<usize>) -> (String, bool) {
    let mut text = String::with_capacity(bytes.len() * 3 / 2);
    let mut replaced = false;
    let mut stretch = 0..0;
    while stretch.end < bytes.len() {
        let rest = &bytes[stretch.end..];
        let character = length(rest).map(|length| &rest[..length]);
        let patched = match character {
            None => Some(None),
            Some(character) => patch(patches, character),
        };
        let size = character.map_or(1, <[u8]>::len);
        match patched {
            None => stretch.end += size,
            Some(character) => {
                replaced |= append(&mut text, encoding, &bytes[stretch.clone()]) | character.is_none();
                text.push(character.unwrap_or(REPLACEMENT));
                stretch = stretch.end + size..stretch.end + size;
            }
        }
    }
    replaced |= append(&mut text, encoding, &bytes[stretch]);
    (text, replaced)
}

/// Appends what `encoding_rs` makes of the bytes; whether it had to replace some.
fn append(text: &mut String, encoding: &'static Encoding, bytes: &[u8]) -> bool {
    let (decoded, replaced) = encoding.decode_without_bom_handling(bytes);
    text.push_str(&decoded);
    replaced
}

/// `None`: `encoding_rs` is right about this character. `Some(None)`: MySQL has none there.
fn patch(patches: &[Patch], character: &[u8]) -> Option<Option<char>> {
    let code = big_endian(character) as u32;
    let &(first, last, unicode) = patches[..patches.partition_point(|&(first, ..)| first <= code)].last()?;
    if code > last {
        return None;
    }
    Some(if unicode == 0 { None } else { char::from_u32(u32::from(unicode) + (code - first)) })
}

// === lengths of characters ===

fn big5(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0xA1..=0xF9, 0x40..=0x7E | 0xA1..=0xFE, ..] => Some(2),
        _ => None,
    }
}

fn gbk(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0x81..=0xFE, 0x40..=0x7E | 0x80..=0xFE, ..] => Some(2),
        _ => None,
    }
}

fn gb2312(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0xA1..=0xF7, 0xA1..=0xFE, ..] => Some(2),
        _ => None,
    }
}

fn gb18030(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0x81..=0xFE, 0x30..=0x39, 0x81..=0xFE, 0x30..=0x39, ..] => Some(4),
        [0x81..=0xFE, 0x40..=0x7E | 0x80..=0xFE, ..] => Some(2),
        _ => None,
    }
}

fn sjis(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F | 0xA1..=0xDF, ..] => Some(1),
        [0x81..=0x9F | 0xE0..=0xFC, 0x40..=0x7E | 0x80..=0xFC, ..] => Some(2),
        _ => None,
    }
}

fn ujis(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0x8F, 0xA1..=0xFE, 0xA1..=0xFE, ..] => Some(3),
        [0x8E, 0xA1..=0xDF, ..] | [0xA1..=0xFE, 0xA1..=0xFE, ..] => Some(2),
        _ => None,
    }
}

fn euckr(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [0..=0x7F, ..] => Some(1),
        [0x81..=0xFE, 0x41..=0x5A | 0x61..=0x7A | 0x81..=0xFE, ..] => Some(2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(collation: u16, bytes: &[u8]) -> Option<String> {
        decode(collation, bytes, InvalidText::Stop).ok().map(|(text, _)| text.into_owned())
    }

    #[test]
    fn t18_characters_that_mysql_reads_its_own_way() {
        assert_eq!(text(8, b"a\x80\x81").as_deref(), Some("a€\u{81}"), "latin1 is windows-1252 with C1 in the gaps");
        assert_eq!(text(13, b"\x81\x5F\x81\x60").as_deref(), Some("\\〜"), "sjis");
        assert_eq!(text(95, b"\x81\x5F\x81\x60\x87\x40").as_deref(), Some("＼～①"), "cp932");
        assert_eq!(text(13, b"\x87\x40"), None, "sjis has no NEC row");
        assert_eq!(text(1, b"\xA1\x45\xC6\xA1").as_deref(), Some("•ヾ"), "big5");
        assert_eq!(text(12, b"\xF5\xA1\x8F\xF5\xA1").as_deref(), Some("\u{E000}\u{E3AC}"), "ujis private use");
        assert_eq!(text(28, b"\xC4\xE3\xBA\xC3").as_deref(), Some("你好"), "gbk");
        assert_eq!(text(248, b"\x94\x39\xDA\x33").as_deref(), Some("💩"), "gb18030");
        assert_eq!(text(54, &[0xD8, 0x3D, 0xDC, 0xA9, 0, b'a']).as_deref(), Some("💩a"), "utf16");
        assert_eq!(text(56, &[0x3D, 0xD8, 0xA9, 0xDC]).as_deref(), Some("💩"), "utf16le");
        assert_eq!(text(60, &[0, 1, 0xF4, 0xA9]).as_deref(), Some("💩"), "utf32");
        assert_eq!(text(35, &[0x20, 0xAC]).as_deref(), Some("€"), "ucs2");
        assert_eq!(text(10, b"[\\]").as_deref(), Some("ÄÖÅ"), "swe7");
    }

    #[test]
    fn invalid_bytes_stop_or_are_replaced() {
        for (collation, bytes, expected) in [
            (255, &b"a\xFFb"[..], "a\u{FFFD}b"),
            (11, b"a\x80", "a\u{FFFD}"),
            (26, b"\x81", "\u{FFFD}"),
            (35, b"\xD8\x00a", "\u{FFFD}\u{FFFD}"),
            (54, b"\xDC\x00\x00a", "\u{FFFD}a"),
            (60, b"\x00\x11\x00\x00", "\u{FFFD}"),
            (28, b"\x80a\xFF", "\u{FFFD}a\u{FFFD}"),
            (28, b"\xC4", "\u{FFFD}"),
        ] {
            assert!(matches!(decode(collation, bytes, InvalidText::Stop), Err(Fault::Text(_))), "{collation}");
            let (text, replaced) = decode(collation, bytes, InvalidText::Replace).expect("replaced");
            assert_eq!((text.as_ref(), replaced), (expected, true), "{collation}");
        }
        assert_eq!(decode(9999, b"a", InvalidText::Replace).err(), Some(Fault::Collation(9999)));
    }

    proptest! {
        #[test]
        fn nothing_panics(collation in 0_u16..330, bytes: Vec<u8>) {
            drop(decode(collation, &bytes, InvalidText::Stop));
            drop(decode(collation, &bytes, InvalidText::Replace));
        }
    }
}
