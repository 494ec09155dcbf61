//! Numbers and strings as text: written the one way the server or the contract prints them, into a buffer of the caller. Dates, times
//! and base64 are those of `model::text`.

use super::cursor::{Fault, big_endian};
pub use crate::model::text::{base64, clock, date, epoch_seconds, fraction, padded, time, timestamp};

/// Bytes that hold 0 to 9 decimal digits.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
const POWERS: [u64; 10] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Bytes of a DECIMAL: each side of the point in groups of nine digits, the odd digits outermost.
pub fn decimal_size(precision: u8, scale: u8) -> usize {
    let side = |digits: u8| usize::from(digits / 9) * 4 + DIGIT_BYTES[usize::from(digits % 9)];
    side(precision.saturating_sub(scale)) + side(scale)
}

/// Appends a packed DECIMAL: the first bit is set for positive numbers, all bytes of negative ones are inverted.
pub fn decimal(bytes: &[u8], precision: u8, scale: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
    const MAX_BYTES: usize = 32;
    if bytes.len() != decimal_size(precision, scale) || bytes.len() > MAX_BYTES || bytes.is_empty() {
        return Err(Fault::Invalid("a DECIMAL of another size"));
    }
    let mut plain = [0; MAX_BYTES];
    let plain = &mut plain[..bytes.len()];
    plain.copy_from_slice(bytes);
    let negative = plain[0] & 0x80 == 0;
    plain[0] ^= 0x80;
    if negative {
        plain.iter_mut().for_each(|byte| *byte = !*byte);
        out.push(b'-');
    }
    let whole_digits = usize::from(precision - scale);
    let mut rest: &[u8] = plain;
    let begin = out.len();
    for digits in std::iter::once(whole_digits % 9).chain(std::iter::repeat_n(9, whole_digits / 9)) {
        group(&mut rest, digits, out)?;
    }
    let zeros = out[begin..].iter().take_while(|&&digit| digit == b'0').count();
    out.drain(begin..begin + zeros);
    if out.len() == begin {
        out.push(b'0');
    }
    if scale > 0 {
        out.push(b'.');
        let scale = usize::from(scale);
        for digits in std::iter::repeat_n(9, scale / 9).chain(std::iter::once(scale % 9)) {
            group(&mut rest, digits, out)?;
        }
    }
    Ok(())
}

fn group(rest: &mut &[u8], digits: usize, out: &mut Vec<u8>) -> Result<(), Fault> {
    let (bytes, after) = rest.split_at_checked(DIGIT_BYTES[digits]).ok_or(Fault::Short)?;
    *rest = after;
    let number = big_endian(bytes);
    if number >= POWERS[digits] {
        return Err(Fault::Invalid("a DECIMAL with a digit above 9"));
    }
    padded(number, digits, out);
    Ok(())
}

/// Appends the shortest JSON number that reads back as the same float64; `false` for one that JSON has no number for.
pub fn double(number: f64, out: &mut Vec<u8>) -> bool {
    number.is_finite() && shortest(ryu::Buffer::new().format_finite(number), out)
}

/// The same for float32.
pub fn float(number: f32, out: &mut Vec<u8>) -> bool {
    number.is_finite() && shortest(ryu::Buffer::new().format_finite(number), out)
}

fn shortest(text: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    true
}

/// Appends a float64 as the server prints it inside JSON: the shortest digits that read back the same, as plain decimals while
/// the point stands at most 15 digits from either side of the first one, or within the digits, else with an exponent; always with
/// `.` or `e`.
pub fn json_double(number: f64, out: &mut Vec<u8>) -> Result<(), Fault> {
    if !number.is_finite() {
        return Err(Fault::Invalid("a JSON number that is infinite or no number"));
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(number);
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0; 40];
    let mut count = 0;
    for digit in whole.bytes().chain(decimals.bytes()) {
        digits[count] = digit;
        count += 1;
    }
    // The number is 0.digits × 10^point.
    let mut point = whole.len() as i32 + exponent.parse::<i32>().expect("ryu writes a small exponent");
    let zeros = digits[..count].iter().take_while(|&&digit| digit == b'0').count();
    let significant = digits[zeros..count].trim_suffix_zeros();
    point -= zeros as i32;
    if negative {
        out.push(b'-');
    }
    match significant {
        [] => out.extend_from_slice(b"0.0"),
        digits if (-14..=0).contains(&point) => {
            out.extend_from_slice(b"0.");
            out.extend(std::iter::repeat_n(b'0', point.unsigned_abs() as usize));
            out.extend_from_slice(digits);
        }
        digits if (1..=15).contains(&point) || point > 15 && digits.len() > point as usize => {
            let whole = (point as usize).min(digits.len());
            out.extend_from_slice(&digits[..whole]);
            out.extend(std::iter::repeat_n(b'0', point as usize - whole));
            out.push(b'.');
            out.extend_from_slice(if whole < digits.len() { &digits[whole..] } else { b"0" });
        }
        [first, rest @ ..] => {
            out.push(*first);
            if !rest.is_empty() {
                out.push(b'.');
                out.extend_from_slice(rest);
            }
            out.push(b'e');
            out.extend_from_slice(itoa::Buffer::new().format(point - 1).as_bytes());
        }
    }
    Ok(())
}

/// Slices of ASCII digits.
trait Digits {
    fn trim_suffix_zeros(&self) -> &Self;
}

impl Digits for [u8] {
    fn trim_suffix_zeros(&self) -> &[u8] {
        let end = self.iter().rposition(|&digit| digit != b'0').map_or(0, |at| at + 1);
        &self[..end]
    }
}

/// What a byte becomes in a JSON string: 0 itself, `u` a `\u00xx`, else the letter after the backslash.
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
    escapes
};

/// Appends UTF-8 as a JSON string with the escapes JSON asks for and no others; the server escapes the same.
#[inline]
pub fn json_string(utf8: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(utf8.len() + 2);
    out.push(b'"');
    let mut rest = utf8;
    while let Some(at) = first_escaped(rest) {
        let byte = rest[at];
        let escape = ESCAPES[usize::from(byte)];
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', escape]);
        if escape == b'u' {
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Where the first byte that JSON escapes stands: eight bytes at a time, for most text has none.
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
        let escaped = less(word, 0x20) | less(word ^ (EACH * u64::from(b'"')), 1) | less(word ^ (EACH * u64::from(b'\\')), 1);
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

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn json_double_text(number: f64) -> String {
        written(|out| json_double(number, out).expect("finite"))
    }

    #[test]
    fn decimals_as_the_server_prints_them() {
        let text = |bytes: &[u8], precision, scale| written(|out| decimal(bytes, precision, scale, out).expect("a decimal"));
        // The example of the server's own documentation of the format: 1234567890.1234 in DECIMAL(14,4).
        assert_eq!(text(&[0x81, 0x0D, 0xFB, 0x38, 0xD2, 0x04, 0xD2], 14, 4), "1234567890.1234");
        assert_eq!(text(&[0x7E, 0xF2, 0x04, 0xC7, 0x2D, 0xFB, 0x2D], 14, 4), "-1234567890.1234");
        assert_eq!(text(&[0x80, 0x00], 4, 2), "0.00");
        assert_eq!(text(&[0x80 | 5], 1, 1), "0.5");
        assert_eq!(text(&[0x80], 1, 0), "0");
        let mut out = Vec::new();
        assert!(decimal(&[0x80 | 10], 1, 0, &mut out).is_err(), "digit above 9");
        assert!(decimal(&[0x80, 0], 1, 0, &mut out).is_err());
    }

    #[test]
    fn doubles_in_json_as_the_server_prints_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (100.0, "100.0"),
            (-0.0, "-0.0"),
            (0.0, "0.0"),
            (1e20, "1e20"),
            (1.5e-7, "0.00000015"),
            (1e15, "1e15"),
            (1e14, "100000000000000.0"),
            (123456789012345.6, "123456789012345.6"),
            (1.2345e-20, "1.2345e-20"),
            (f64::MAX, "1.7976931348623157e308"),
            (5e-324, "5e-324"),
            // Seventeen digits, of which one stands behind the point.
            (-1044737528192986.4, "-1044737528192986.4"),
            (1044737528192986.0, "1.044737528192986e15"),
            (10447375281929864.0, "1.0447375281929864e16"),
        ] {
            assert_eq!(json_double_text(number), text);
        }
    }

    #[test]
    fn floats_are_shortest() {
        assert_eq!(written(|out| assert!(float(0.1, out))), "0.1");
        assert_eq!(written(|out| assert!(double(100.0, out))), "100");
        assert_eq!(written(|out| assert!(double(-0.0, out))), "-0");
        assert!(!double(f64::NAN, &mut Vec::new()));
    }

    proptest! {
        #[test]
        fn strings_are_what_serde_json_writes(text: String) {
            prop_assert_eq!(written(|out| json_string(text.as_bytes(), out)), serde_json::to_string(&text).expect("strings are JSON"));
        }

        #[test]
        fn numbers_read_back(bits: u64) {
            let number = f64::from_bits(bits);
            if number.is_finite() {
                prop_assert_eq!(json_double_text(number).parse::<f64>().expect("a number").to_bits(), bits);
                prop_assert_eq!(written(|out| assert!(double(number, out))).parse::<f64>().expect("a number").to_bits(), bits);
            }
        }

        #[test]
        fn decimals_never_panic(bytes: Vec<u8>, precision in 0_u8..=65, scale in 0_u8..=30) {
            let _ = decimal(&bytes, precision.max(scale), scale, &mut Vec::new());
        }
    }
}
