//! A cursor over JSON text that checks every byte it passes and keeps nothing: our own, because the enrichment needs
//! positions and no values.
//!
//! What always holds: text that was read to its end is JSON as RFC 8259 has it, and no string in it holds a lone surrogate
//! (contract E3). The text must be UTF-8 already, which `&str` promises. `serde_json` is the oracle of the tests.

use std::fmt;

/// Nesting is read by recursion, so it has a bound whatever `json_depth` says.
pub const MAX_DEPTH: usize = 512;

/// What is wrong at the place the reader stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    End,
    Unexpected,
    Control,
    Escape,
    Surrogate,
    Number,
    Depth,
    Trailing,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::End => "the text ends too early",
            Fault::Unexpected => "unexpected character",
            Fault::Control => "control character in a string",
            Fault::Escape => "unknown escape in a string",
            Fault::Surrogate => "lone surrogate in a string",
            Fault::Number => "malformed number",
            Fault::Depth => "nested deeper than limits.json_depth",
            Fault::Trailing => "more text after the value",
        })
    }
}

/// A member's name: where its inner text stands, and whether that holds escapes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Name {
    /// Of the opening quote.
    pub start: usize,
    /// After the closing quote.
    pub end: usize,
    pub escaped: bool,
}

pub(super) struct Reader<'a> {
    text: &'a [u8],
    pub at: usize,
    depth_left: usize,
}

impl<'a> Reader<'a> {
    pub fn new(text: &'a str, depth: usize) -> Self {
        Self { text: text.as_bytes(), at: 0, depth_left: depth.min(MAX_DEPTH) }
    }

    pub fn text(&self) -> &'a [u8] {
        self.text
    }

    #[inline]
    pub fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    pub fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes the opening of an object or array that ends with `close`; true when something is in it, and then the reader
    /// stands at it.
    #[inline]
    pub fn enter(&mut self, close: u8) -> Result<bool, Fault> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(Fault::Depth)?;
        self.at += 1;
        self.space();
        if self.peek() == Some(close) {
            self.leave();
            return Ok(false);
        }
        Ok(true)
    }

    /// After a member or element: true when another follows, and then the reader stands at it.
    #[inline]
    pub fn next(&mut self, close: u8) -> Result<bool, Fault> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.leave();
                Ok(false)
            }
            Some(_) => Err(Fault::Unexpected),
            None => Err(Fault::End),
        }
    }

    fn leave(&mut self) {
        self.at += 1;
        self.depth_left += 1;
    }

    /// Passes a member's name and its colon; the reader then stands at the value.
    #[inline]
    pub fn name(&mut self) -> Result<Name, Fault> {
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return Err(Fault::Unexpected),
            None => return Err(Fault::End),
        }
        let start = self.at;
        let escaped = self.string()?;
        let end = self.at;
        self.space();
        match self.peek() {
            Some(b':') => self.at += 1,
            Some(_) => return Err(Fault::Unexpected),
            None => return Err(Fault::End),
        }
        self.space();
        Ok(Name { start, end, escaped })
    }

    /// Passes one value of any kind.
    pub fn skip(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'{') => {
                let mut more = self.enter(b'}')?;
                while more {
                    self.name()?;
                    self.skip()?;
                    more = self.next(b'}')?;
                }
                Ok(())
            }
            Some(b'[') => {
                let mut more = self.enter(b']')?;
                while more {
                    self.skip()?;
                    more = self.next(b']')?;
                }
                Ok(())
            }
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(_) => Err(Fault::Unexpected),
            None => Err(Fault::End),
        }
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Result<(), Fault> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { Err(Fault::Trailing) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Fault> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(Fault::Unexpected)
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at > start { Ok(()) } else { Err(Fault::Number) }
    }

    /// Passes a string from its opening to its closing quote; true when it holds escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Fault> {
        self.at += 1;
        let mut escaped = false;
        loop {
            while let Some(word) = self.text[self.at..].first_chunk::<8>() {
                let marks = marks(u64::from_le_bytes(*word));
                if marks != 0 {
                    self.at += marks.trailing_zeros() as usize / 8;
                    break;
                }
                self.at += 8;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(Fault::Control),
                Some(_) => self.at += 1,
                None => return Err(Fault::End),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                match self.unit()? {
                    0xd800..0xdc00 if !(self.text[self.at..].starts_with(b"\\u") && (0xdc00..0xe000).contains(&self.unit()?)) => {
                        return Err(Fault::Surrogate);
                    }
                    0xdc00..0xe000 => return Err(Fault::Surrogate),
                    _ => {}
                };
            }
            Some(_) => return Err(Fault::Escape),
            None => return Err(Fault::End),
        }
        Ok(())
    }

    /// Passes `\uXXXX` and gives the UTF-16 unit.
    fn unit(&mut self) -> Result<u32, Fault> {
        let digits = self.text.get(self.at + 2..self.at + 6).ok_or(Fault::End)?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit * 16 + char::from(digit).to_digit(16).ok_or(Fault::Escape)?;
        }
        self.at += 6;
        Ok(unit)
    }
}

/// Marks, in the highest bit of its byte, the first byte of a little-endian word that is a quote, a backslash or a control
/// character; bytes above the first may be marked wrongly. The tests of Mycroft's `haszero` and `hasless`.
#[inline]
fn marks(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let quote = word ^ (ONES * 0x22);
    let backslash = word ^ (ONES * 0x5c);
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control) & (ONES * 0x80)
}

/// Whether `text` is one JSON value and nothing else.
pub(super) fn check(text: &str, depth: usize) -> Result<(), Fault> {
    let mut reader = Reader::new(text, depth);
    reader.space();
    reader.skip()?;
    reader.end()
}

/// Whether `text` is a JSON number and nothing else.
pub(super) fn is_number(text: &str) -> bool {
    let mut reader = Reader::new(text, 0);
    reader.number().is_ok() && reader.at == text.len()
}

/// The fragment at `steps` below the JSON value `text`; `None` where there is nothing, or `text` is no JSON.
pub(super) fn find<'a>(text: &'a [u8], steps: &[String]) -> Option<&'a [u8]> {
    let mut found = text;
    for step in steps {
        found = below(found, step)?;
    }
    Some(found)
}

/// One member of an object, the last of equal names, or one element of an array.
fn below<'a>(text: &'a [u8], step: &str) -> Option<&'a [u8]> {
    let mut reader = Reader::new(std::str::from_utf8(text).ok()?, MAX_DEPTH);
    reader.space();
    let mut found = None;
    match reader.peek()? {
        b'{' => {
            let mut more = reader.enter(b'}').ok()?;
            while more {
                let name = reader.name().ok()?;
                let start = reader.at;
                reader.skip().ok()?;
                if name.is(text, step.as_bytes()) {
                    found = text.get(start..reader.at);
                }
                more = reader.next(b'}').ok()?;
            }
        }
        b'[' => {
            let wanted = position(step)?;
            let mut index = 0;
            let mut more = reader.enter(b']').ok()?;
            while more && found.is_none() {
                let start = reader.at;
                reader.skip().ok()?;
                if index == wanted {
                    found = text.get(start..reader.at);
                }
                index += 1;
                more = reader.next(b']').ok()?;
            }
        }
        _ => {}
    }
    found
}

/// The array position a step stands for: decimal without leading zeros.
pub(super) fn position(step: &str) -> Option<usize> {
    let canonical = step == "0" || (!step.starts_with(['0', '+']) && !step.is_empty());
    if canonical { step.parse().ok() } else { None }
}

impl Name {
    /// Whether this name, escapes undone, is `wanted`.
    #[inline]
    pub fn is(&self, text: &[u8], wanted: &[u8]) -> bool {
        let raw = text.get(self.start..self.end).unwrap_or_default();
        if self.escaped {
            return *crate::model::key::text_of(raw) == *wanted;
        }
        raw.len() == wanted.len() + 2 && &raw[1..raw.len() - 1] == wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_json_and_what_is_not() {
        for good in ["{}", " [ ] ", "0", "-0.5e+10", r#""\u00e9\ud83d\ude00\/""#, r#"{"a":[1,{"b":null}],"a":true}"#, "\"é😀\"", "1e400"]
        {
            assert_eq!(check(good, 64), Ok(()), "{good}");
        }
        for (bad, fault) in [
            ("", Fault::End),
            ("  ", Fault::End),
            ("{", Fault::End),
            (r#"{"a""#, Fault::End),
            (r#"{"a":1,}"#, Fault::Unexpected),
            ("[1,]", Fault::Unexpected),
            ("[1 2]", Fault::Unexpected),
            ("{a:1}", Fault::Unexpected),
            ("NaN", Fault::Unexpected),
            ("nul", Fault::Unexpected),
            ("\u{feff}{}", Fault::Unexpected),
            ("01", Fault::Trailing),
            ("{}{}", Fault::Trailing),
            ("-", Fault::Number),
            ("1.", Fault::Number),
            ("1e", Fault::Number),
            ("\"a\nb\"", Fault::Control),
            ("\"12345678\u{1}\"", Fault::Control),
            (r#""\x""#, Fault::Escape),
            (r#""\u12g4""#, Fault::Escape),
            (r#""\u12"#, Fault::End),
            (r#""\ud800""#, Fault::Surrogate),
            (r#""\ud800\u0041""#, Fault::Surrogate),
            (r#""\ud800x""#, Fault::Surrogate),
            (r#""\udc00""#, Fault::Surrogate),
            ("\"", Fault::End),
        ] {
            assert_eq!(check(bad, 64), Err(fault), "{bad:?}");
        }
    }

    #[test]
    fn depth_counts_open_brackets() {
        assert_eq!(check("[[1]]", 2), Ok(()));
        assert_eq!(check("[[1],{},[]]", 1), Err(Fault::Depth));
        assert_eq!(check(&"[".repeat(100_000), usize::MAX), Err(Fault::Depth));
    }

    #[test]
    fn finding_below() {
        let text = br#"{"a":1,"b":[{"x":"y"},[2]],"\u0061":{"c":3}}"#;
        let find = |path: &str| {
            find(text, &path.split('.').map(str::to_owned).collect::<Vec<_>>()).map(|f| String::from_utf8_lossy(f).into_owned())
        };
        assert_eq!(find("a").as_deref(), Some(r#"{"c":3}"#));
        assert_eq!(find("a.c").as_deref(), Some("3"));
        assert_eq!(find("b.0.x").as_deref(), Some("\"y\""));
        assert_eq!(find("b.1.0").as_deref(), Some("2"));
        for nothing in ["c", "b.2", "b.00", "b.+1", "b.x", "a.c.d"] {
            assert_eq!(find(nothing), None, "{nothing}");
        }
    }

    /// JSON-like text: pieces that meet in every order, so that near misses are common.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            "\"a\"",
            "\"\\u00e9\"",
            "\\n",
            "0",
            "1",
            "-",
            ".",
            "e",
            "12.5",
            "true",
            "null",
            " ",
            "\n",
            "é",
            "\u{1}",
            "{\"a\":1}",
            "[1,2]",
            "\"a\":",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in pieces()) {
            let ours = check(&text, 64);
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(&text);
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?}: {:?} / {:?}", text, ours, theirs);
        }

        #[test]
        fn strings_agree_with_serde_json(inner in "(\\\\u[dD][89abcdef][0-9a-f]{2}|\\\\u00[0-9a-f]{2}|[a-z\"\\\\é\u{0}\u{1f} ]){0,12}") {
            let text = format!("\"{inner}\"");
            prop_assert_eq!(check(&text, 64).is_ok(), serde_json::from_str::<String>(&text).is_ok(), "{:?}", text);
        }
    }
}
