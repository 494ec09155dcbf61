//! Dates, times and bytes as text: the forms that rows as JSON and change records have in common, written into a buffer of the caller.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const POWERS: [u64; 7] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// Appends a number with leading zeros to `digits` digits (at most 10).
#[inline]
pub fn padded(number: u64, digits: usize, out: &mut Vec<u8>) {
    let mut buffer = [b'0'; 10];
    let buffer = &mut buffer[..digits.min(10)];
    let mut rest = number;
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.extend_from_slice(buffer);
}

/// Appends `.` and the first `digits` digits of the microseconds; nothing for no digits.
#[inline]
pub fn fraction(micros: u32, digits: u8, out: &mut Vec<u8>) {
    if digits > 0 {
        out.push(b'.');
        let digits = usize::from(digits.min(6));
        padded(u64::from(micros) / POWERS[6 - digits], digits, out);
    }
}

pub fn date(year: u16, month: u8, day: u8, out: &mut Vec<u8>) {
    padded(u64::from(year), 4, out);
    out.push(b'-');
    padded(u64::from(month), 2, out);
    out.push(b'-');
    padded(u64::from(day), 2, out);
}

/// Appends `hh:mm:ss` and the fraction; hours take as many digits as they need, at least two.
pub fn clock(hours: u64, minutes: u64, seconds: u64, micros: u32, digits: u8, out: &mut Vec<u8>) {
    padded(hours, if hours > 99 { 3 } else { 2 }, out);
    out.push(b':');
    padded(minutes, 2, out);
    out.push(b':');
    padded(seconds, 2, out);
    fraction(micros, digits, out);
}

/// Appends a TIME given in signed microseconds, as the server prints it.
pub fn time(micros: i64, digits: u8, out: &mut Vec<u8>) {
    if micros < 0 {
        out.push(b'-');
    }
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    clock(seconds / 3600, seconds / 60 % 60, seconds % 60, (micros % 1_000_000) as u32, digits, out);
}

/// Appends seconds since the epoch as `2024-01-02T03:04:05` and the fraction, in UTC.
pub fn timestamp(seconds: i64, micros: u32, digits: u8, out: &mut Vec<u8>) {
    const DAY: i64 = 86_400;
    let (year, month, day) = civil_date(seconds.div_euclid(DAY));
    date(year, month, day, out);
    out.push(b'T');
    let second = seconds.rem_euclid(DAY) as u64;
    clock(second / 3600, second / 60 % 60, second % 60, micros, digits, out);
}

/// Year, month and day of a day counted from 1970-01-01, Gregorian.
fn civil_date(day: i64) -> (u16, u8, u8) {
    // Years of 400 begin on 1 March, so that the leap day is the last of its year (H. Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = day + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year as u16, month as u8, day as u8)
}

/// Seconds since the epoch of a date and time in UTC.
pub fn epoch_seconds(year: u16, month: u8, day: u8, hour: u8, minute: u8, second: u8) -> i64 {
    let (year, month) = (i64::from(year) - i64::from(month <= 2), i64::from(month));
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    ((days * 24 + i64::from(hour)) * 60 + i64::from(minute)) * 60 + i64::from(second)
}

/// Appends base64 with padding, without quotes.
pub fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(bytes, &mut out[begin..]).expect("base64 takes four bytes for three");
    out.truncate(begin + written);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn times_as_the_server_prints_them() {
        assert_eq!(written(|out| time(-3_020_399_000_000, 0, out)), "-838:59:59");
        assert_eq!(written(|out| time(90_000_500_000, 6, out)), "25:00:00.500000");
        assert_eq!(written(|out| time(-1, 6, out)), "-00:00:00.000001");
        assert_eq!(written(|out| fraction(678_900, 3, out)), ".678");
    }

    #[test]
    fn timestamps_there_and_back() {
        assert_eq!(written(|out| timestamp(0, 0, 0, out)), "1970-01-01T00:00:00");
        assert_eq!(written(|out| timestamp(1_709_251_199, 120_000, 2, out)), "2024-02-29T23:59:59.12");
        assert_eq!(written(|out| timestamp(2_147_483_647, 999_999, 6, out)), "2038-01-19T03:14:07.999999");
        for day in 0..50_000 {
            let (year, month, date) = civil_date(day);
            assert_eq!(epoch_seconds(year, month, date, 1, 2, 3), day * 86_400 + 3_723);
        }
    }
}
