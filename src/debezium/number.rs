//! Numbers as Java prints them, and as Connect's `Decimal` packs them.

use std::io::Write as _;

use crate::model::text;

/// More digits than any DECIMAL has; below 2^255, so that the sign has a bit.
const MAX_DIGITS: usize = 76;

/// Appends a float64 as `Double.toString` gives it: plain from 0.001 to below 10,000,000, else with an exponent, always with a digit
/// after the point. `false` for one that JSON has no number for.
#[inline]
pub fn double(number: f64, out: &mut Vec<u8>) -> bool {
    let plain = (1e-3..1e7).contains(&number.abs()) || number == 0.0;
    number.is_finite() && as_java(plain, ryu::Buffer::new().format_finite(number), number, out)
}

/// The same for float32.
#[inline]
pub fn float(number: f32, out: &mut Vec<u8>) -> bool {
    let plain = (1e-3..1e7).contains(&number.abs()) || number == 0.0;
    number.is_finite() && as_java(plain, ryu::Buffer::new().format_finite(number), number, out)
}

#[inline]
fn as_java(plain: bool, shortest: &str, number: impl std::fmt::LowerExp, out: &mut Vec<u8>) -> bool {
    if plain {
        out.extend_from_slice(shortest.as_bytes());
    } else if !scientific(shortest, out) {
        // One digit is enough, but Java gives two: the two nearest.
        let begin = out.len();
        write!(out, "{number:.1e}").expect("writing to memory does not fail");
        out[begin..].make_ascii_uppercase();
    }
    true
}

/// Appends the shortest text of a number as `d.dddE±n`; `false`, and nothing appended, where it has one digit only.
fn scientific(text: &str, out: &mut Vec<u8>) -> bool {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0; 40];
    let mut count = 0;
    for digit in whole.bytes().chain(decimals.bytes()).take(digits.len()) {
        digits[count] = digit;
        count += 1;
    }
    let zeros = digits[..count].iter().take_while(|&&digit| digit == b'0').count();
    let end = digits[..count].iter().rposition(|&digit| digit != b'0').map_or(zeros, |at| at + 1);
    let [first, rest @ ..] = &digits[zeros..end] else { return false };
    if rest.is_empty() {
        return false;
    }
    if negative {
        out.push(b'-');
    }
    out.extend_from_slice(&[*first, b'.']);
    out.extend_from_slice(rest);
    out.push(b'E');
    let point = whole.len() as i32 - zeros as i32 - 1 + exponent.parse::<i32>().expect("ryu writes a small exponent");
    out.extend_from_slice(itoa::Buffer::new().format(point).as_bytes());
    true
}

/// Appends base64 of the unscaled number of a decimal text, in the fewest bytes of two's complement, highest first; `false` for a text
/// that is no number or too long.
#[inline]
pub fn unscaled(decimal: &str, out: &mut Vec<u8>) -> bool {
    let (negative, digits) = decimal.strip_prefix('-').map_or((false, decimal), |digits| (true, digits));
    // Least significant first.
    let mut limbs = [0_u64; 4];
    let (mut chunk, mut power, mut count) = (0_u64, 1_u64, 0);
    for digit in digits.bytes().filter(|&byte| byte != b'.') {
        if !digit.is_ascii_digit() || count == MAX_DIGITS {
            return false;
        }
        count += 1;
        chunk = chunk * 10 + u64::from(digit - b'0');
        power *= 10;
        if power == 1_000_000_000_000_000_000 {
            multiply_add(&mut limbs, power, chunk);
            (chunk, power) = (0, 1);
        }
    }
    multiply_add(&mut limbs, power, chunk);
    let mut bytes = [0_u8; 32];
    for (place, limb) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(limbs.iter().rev()) {
        *place = limb.to_be_bytes();
    }
    if negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    twos_complement(&bytes, out);
    count > 0
}

/// The same for an unsigned number.
pub fn unsigned(number: u64, out: &mut Vec<u8>) {
    let mut bytes = [0; 9];
    bytes[1..].copy_from_slice(&number.to_be_bytes());
    twos_complement(&bytes, out);
}

fn multiply_add(limbs: &mut [u64; 4], factor: u64, summand: u64) {
    let mut carry = u128::from(summand);
    for limb in limbs {
        let product = u128::from(*limb) * u128::from(factor) + carry;
        *limb = product as u64;
        carry = product >> 64;
    }
}

/// Appends base64 of the bytes without those that only repeat the sign.
fn twos_complement(bytes: &[u8], out: &mut Vec<u8>) {
    let redundant = |pair: &[u8]| matches!(pair, [0x00, next] if *next < 0x80) || matches!(pair, [0xFF, next] if *next >= 0x80);
    let skipped = bytes.windows(2).take_while(|pair| redundant(pair)).count();
    text::base64(&bytes[skipped..], out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn double_text(number: f64) -> String {
        let mut out = Vec::new();
        assert!(double(number, &mut out));
        String::from_utf8(out).expect("text")
    }

    fn float_text(number: f32) -> String {
        let mut out = Vec::new();
        assert!(float(number, &mut out));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn doubles_as_java_prints_them() {
        for (number, text) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (100.0, "100.0"),
            (0.001, "0.001"),
            (9.5e-5, "9.5E-5"),
            (9_999_999.5, "9999999.5"),
            (1e7, "1.0E7"),
            (123_456_789.5, "1.234567895E8"),
            (1e21, "1.0E21"),
            (-1e-5, "-1.0E-5"),
            (f64::MAX, "1.7976931348623157E308"),
            (f64::MIN_POSITIVE, "2.2250738585072014E-308"),
            (5e-324, "4.9E-324"),
            (2e-323, "2.0E-323"),
        ] {
            assert_eq!(double_text(number), text);
        }
        for (number, text) in [(3.402_823_5e38, "3.4028235E38"), (16_777_216.0, "1.6777216E7"), (0.1, "0.1"), (2e-45, "1.4E-45")] {
            assert_eq!(float_text(number), text);
        }
        assert!(!double(f64::NAN, &mut Vec::new()) && !float(f32::INFINITY, &mut Vec::new()));
    }

    #[test]
    fn unscaled_numbers_as_connect_packs_them() {
        for (decimal, base64) in [
            ("0.00", "AA=="),
            ("1.28", "AIA="),
            ("-1.28", "gA=="),
            ("-1.29", "/38="),
            ("255", "AP8="),
            ("-256", "/wA="),
            ("10000000", "AJiWgA=="),
            ("-99999999999999999999999999999999999.999999999999999999999999999999", "/wzp2OOAPG91dBC5sca6EIXayfYAAAAAAAAAAQ=="),
        ] {
            let mut out = Vec::new();
            assert!(unscaled(decimal, &mut out));
            assert_eq!(String::from_utf8(out).expect("text"), base64, "{decimal}");
        }
        for wrong in ["", "-", "1e5", "1,5", &"9".repeat(77)] {
            assert!(!unscaled(wrong, &mut Vec::new()), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn numbers_read_back(bits: u64, small: u32) {
            let number = f64::from_bits(bits);
            if number.is_finite() {
                prop_assert_eq!(double_text(number).parse::<f64>().expect("a number").to_bits(), bits);
            }
            let number = f32::from_bits(small);
            if number.is_finite() {
                prop_assert_eq!(float_text(number).parse::<f32>().expect("a number").to_bits(), small);
            }
        }

        #[test]
        fn unscaled_numbers_fit_their_value(number: i128) {
            let mut out = Vec::new();
            prop_assert!(unscaled(&number.to_string(), &mut out));
            let mut expected = Vec::new();
            twos_complement(&number.to_be_bytes(), &mut expected);
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn unsigned_numbers_are_positive(number: u64) {
            let (mut out, mut expected) = (Vec::new(), Vec::new());
            unsigned(number, &mut out);
            unscaled(&number.to_string(), &mut expected);
            prop_assert_eq!(out, expected);
        }
    }
}
