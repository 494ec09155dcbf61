//! Row keys in canonical form, and how a JSON value in a record becomes one (contract E4).

use std::borrow::{Borrow, Cow};

/// The key of a row: for one key column the text of its row form (unescaped), for several a compact JSON array of the
/// row fragments in key order. Equal rows have equal bytes; look-ups borrow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<[u8]>);

impl Key {
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// Builds the key from the JSON fragments of the key columns as they stand in the row, in key order.
    pub fn from_fragments<'a>(fragments: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let single = fragments.len() == 1;
        let mut bytes = Vec::with_capacity(24);
        if single {
            for fragment in fragments {
                bytes.extend_from_slice(&text_of(fragment));
            }
        } else {
            bytes.push(b'[');
            for (i, fragment) in fragments.enumerate() {
                if i > 0 {
                    bytes.push(b',');
                }
                bytes.extend_from_slice(fragment);
            }
            bytes.push(b']');
        }
        Self(bytes.into_boxed_slice())
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// How values of records meet the key column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// An integer column with its range.
    Integer { min: i64, max: u64 },
    /// Every other column: the exact text of the row form.
    Text,
}

impl KeyKind {
    /// The key text a JSON fragment of a record stands for; `None` is a miss at once: the value can be no key of this kind.
    ///
    /// Integers take a JSON number that is exactly an integer (`21`, `21.0`, `2.1e1`) or canonical decimal text (`"21"`);
    /// anything else, or a number outside the column's range, is no key. Nothing is ever wrapped or rounded.
    pub fn text<'a>(&self, fragment: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match (*self, fragment.first()?) {
            (KeyKind::Integer { min, max }, b'"') => {
                let Cow::Borrowed(text) = text_of(fragment) else { return None };
                (is_canonical_integer(text) && in_range(text, min, max)).then_some(Cow::Borrowed(text))
            }
            (KeyKind::Integer { min, max }, b'-' | b'0'..=b'9') => {
                let text = if is_canonical_integer(fragment) { Cow::Borrowed(fragment) } else { Cow::Owned(integral(fragment)?) };
                in_range(&text, min, max).then_some(text)
            }
            (KeyKind::Integer { .. }, _) => None,
            (KeyKind::Text, b'{' | b'[' | b'n') => None,
            (KeyKind::Text, _) => Some(text_of(fragment)),
        }
    }
}

/// The text of a JSON scalar: a string without quotes and escapes, anything else as it stands.
pub fn text_of(fragment: &[u8]) -> Cow<'_, [u8]> {
    match fragment {
        [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => Cow::Borrowed(inner),
        [b'"', ..] => match serde_json::from_slice::<String>(fragment) {
            Ok(text) => Cow::Owned(text.into_bytes()),
            Err(_) => Cow::Borrowed(fragment),
        },
        _ => Cow::Borrowed(fragment),
    }
}

/// `0`, or an optional minus, a digit from 1 to 9 and more digits.
fn is_canonical_integer(text: &[u8]) -> bool {
    match text {
        [b'0'] => true,
        [b'-', b'1'..=b'9', rest @ ..] | [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

fn in_range(text: &[u8], min: i64, max: u64) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    text.parse::<i128>().is_ok_and(|n| n >= i128::from(min) && n <= i128::from(max))
}

/// The canonical text of a JSON number whose value is exactly an integer (`21.0`, `2.1e1`, `-0`), worked out on its digits.
fn integral(number: &[u8]) -> Option<Vec<u8>> {
    let (negative, rest) = match number {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
        Some(at) => (&rest[..at], std::str::from_utf8(&rest[at + 1..]).ok()?.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = match mantissa.iter().position(|&b| b == b'.') {
        Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
        None => (mantissa, &[][..]),
    };
    let mut digits: Vec<u8> = whole.iter().chain(fraction).copied().collect();
    if !digits.iter().all(u8::is_ascii_digit) || digits.is_empty() {
        return None;
    }
    let scale = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    if digits.iter().all(|&d| d == b'0') {
        return Some(b"0".to_vec());
    }
    if scale < 0 {
        let cut = digits.len().checked_sub(usize::try_from(-scale).ok()?)?;
        if digits[cut..].iter().any(|&d| d != b'0') {
            return None;
        }
        digits.truncate(cut);
    } else if scale <= 20 {
        digits.resize(digits.len() + usize::try_from(scale).ok()?, b'0');
    } else {
        return None;
    }
    let first = digits.iter().position(|&d| d != b'0')?;
    let mut text = if negative { b"-".to_vec() } else { Vec::new() };
    text.extend_from_slice(&digits[first..]);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(fragment: &str) -> Option<String> {
        let kind = KeyKind::Integer { min: 0, max: u64::MAX };
        kind.text(fragment.as_bytes()).map(|t| String::from_utf8(t.into_owned()).expect("keys are text"))
    }

    #[test]
    fn k24_join_keys_of_integer_columns() {
        for same in ["21", "\"21\"", "21.0", "2.1e1", "210e-1", "21.000"] {
            assert_eq!(integer(same).as_deref(), Some("21"), "{same}");
        }
        for miss in
            ["\" 21\"", "\"021\"", "\"+21\"", "\"21abc\"", "true", "21.5", "null", "[21]", "18446744073709551616", "-1", "\"\"", "1e400"]
        {
            assert_eq!(integer(miss), None, "{miss}");
        }
        assert_eq!(integer("18446744073709551615").as_deref(), Some("18446744073709551615"));
        assert_eq!(integer("9007199254740993").as_deref(), Some("9007199254740993"));
        assert_eq!(integer("-0").as_deref(), Some("0"));
        assert_eq!(integer("0.0").as_deref(), Some("0"));
    }

    #[test]
    fn text_keys_compare_exactly() {
        assert_eq!(KeyKind::Text.text(br#""a\u0062""#).as_deref(), Some(&b"ab"[..]));
        assert_eq!(KeyKind::Text.text(b"5").as_deref(), Some(&b"5"[..]));
        assert_eq!(KeyKind::Text.text(b"null"), None);
    }

    #[test]
    fn composite_keys_are_json_arrays() {
        let key = Key::from_fragments([&b"1"[..], b"\"a\""].into_iter());
        assert_eq!(key.as_bytes(), br#"[1,"a"]"#);
        assert_eq!(Key::from_fragments([&b"\"a\\n\""[..]].into_iter()).as_bytes(), b"a\n");
    }
}
