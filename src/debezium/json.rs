//! Strings as Kafka Connect's JSON converter writes them, so that keys have the same bytes and go to the same partitions: upper-case
//! digits in `\u00XX`, and what lies beyond U+FFFF as a pair of surrogates (Jackson 2, UTF-8 generator with its defaults).

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Length of a UTF-8 sequence whose character lies beyond U+FFFF, and the lowest first byte of one.
const LONG: usize = 4;
const LONG_LEAD: u8 = 0xF0;

/// What a byte becomes: 0 itself, `u` a `\u00XX`, `s` the begin of a pair of surrogates, else the letter after the backslash.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escapes[byte] = b'u';
        byte += 1;
    }
    escapes[0x08] = b'b';
    escapes[b'\t' as usize] = b't';
    escapes[b'\n' as usize] = b'n';
    escapes[0x0C] = b'f';
    escapes[b'\r' as usize] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    byte = LONG_LEAD as usize;
    while byte < 256 {
        escapes[byte] = b's';
        byte += 1;
    }
    escapes
};

/// Appends a text as a JSON string.
#[inline]
pub fn string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    inside(text, out);
    out.push(b'"');
}

/// Appends what stands between the quotes.
#[inline]
pub fn inside(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = first_escaped(rest) {
        out.extend_from_slice(&rest[..at]);
        rest = escape(&rest[at..], out);
    }
    out.extend_from_slice(rest);
}

/// Appends the first character of `rest`, escaped, and gives back what follows it.
fn escape<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let byte = rest[0];
    match ESCAPES[usize::from(byte)] {
        b's' => {
            let (long, after) = rest.split_at(LONG.min(rest.len()));
            let scalar = long.iter().skip(1).fold(u32::from(byte & 0x07), |scalar, &byte| scalar << 6 | u32::from(byte & 0x3F));
            let offset = scalar.wrapping_sub(0x1_0000);
            unit(0xD800 | offset >> 10 & 0x3FF, out);
            unit(0xDC00 | offset & 0x3FF, out);
            after
        }
        b'u' => {
            unit(u32::from(byte), out);
            &rest[1..]
        }
        letter => {
            out.extend_from_slice(&[b'\\', letter]);
            &rest[1..]
        }
    }
}

fn unit(unit: u32, out: &mut Vec<u8>) {
    let digit = |shift: u32| HEX[(unit >> shift & 15) as usize];
    out.extend_from_slice(&[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)]);
}

/// Where the first byte that is not itself stands: eight bytes at a time, for most text has none.
#[inline]
fn first_escaped(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = EACH << 7;
    // The high bit of every byte that is less than `limit` (at most 128), right up to the first such byte and no further, which is all
    // that is asked (S. E. Anderson, "Bit Twiddling Hacks": hasless).
    let less = |word: u64, limit: u8| word.wrapping_sub(EACH * u64::from(limit)) & !word & HIGH;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, &word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(word);
        // A byte from 0xF0 has its four highest bits set.
        let long = word & word << 1 & word << 2 & word << 3 & HIGH;
        let escaped = less(word, 0x20) | less(word ^ (EACH * u64::from(b'"')), 1) | less(word ^ (EACH * u64::from(b'\\')), 1) | long;
        if escaped != 0 {
            return Some(index * 8 + escaped.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|&byte| ESCAPES[usize::from(byte)] != 0)?;
    Some(bytes.len() - tail.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        string(text, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn escapes_are_those_of_the_converter() {
        assert_eq!(written("a\"b\\c/\u{8}\u{c}\n\r\t\u{1a}\u{0}\u{7f}"), "\"a\\\"b\\\\c/\\b\\f\\n\\r\\t\\u001A\\u0000\u{7f}\"");
        assert_eq!(written("größe 中 \u{FFFF} 🍕\u{10FFFF}."), "\"größe 中 \u{FFFF} \\uD83C\\uDF55\\uDBFF\\uDFFF.\"");
    }

    proptest! {
        #[test]
        fn strings_read_back(text: String, ascii in "[ -~\"\\\\\u{10000}-\u{10FFFF}\u{0}-\u{1F}]{0,40}") {
            for text in [text, ascii] {
                prop_assert_eq!(&serde_json::from_str::<String>(&written(&text)).expect("a string"), &text);
            }
        }
    }
}
