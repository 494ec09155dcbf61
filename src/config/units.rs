//! Durations (`"30s"`, `"100ms"`, `"2h"`) and sizes (`"256 MiB"`, `"10 MB"`, `"1024"`) as text, both ways.

use std::time::Duration;

const DURATIONS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Powers of 1024 before powers of 1000, each falling: [`show_size`] takes the first that divides.
const SIZES: [(&str, u64); 7] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("B", 1)];

/// One number with one unit; white space between them is allowed. `None` for anything else, also for what overflows.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let (_, millis) = DURATIONS.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*millis).map(Duration::from_millis)
}

/// One number with one unit or none; case of the unit does not matter. `None` for anything else.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, bytes) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// The largest unit that divides: what [`duration`] reads back as the same.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, factor) =
        DURATIONS.iter().rev().find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor)).unwrap_or(&DURATIONS[0]);
    format!("{}{unit}", millis / factor)
}

/// The first unit that divides: what [`size`] reads back as the same.
pub(super) fn show_size(bytes: u64) -> String {
    let (unit, factor) = SIZES.iter().find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor)).unwrap_or(&("B", 1));
    format!("{} {unit}", bytes / factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_have_one_number_and_one_unit() {
        assert_eq!(duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(duration(" 30 s "), Some(Duration::from_secs(30)));
        assert_eq!(duration("2h"), Some(Duration::from_secs(7_200)));
        for wrong in ["", "30", "s", "-1s", "1.5s", "1h30m", "1S", "99999999999999999999s", "9999999999999999999d"] {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_count_in_1024_or_1000() {
        assert_eq!(size("256 MiB"), Some(256 << 20));
        assert_eq!(size("10MB"), Some(10_000_000));
        assert_eq!(size("16 kib"), Some(16 << 10));
        assert_eq!(size("1024"), Some(1024));
        for wrong in ["", "MiB", "1.5 MiB", "-1", "1 XB", "99999999999999999999"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0u64..u64::MAX / 2, bytes: u64) {
            prop_assert_eq!(duration(&show_duration(Duration::from_millis(millis))), Some(Duration::from_millis(millis)));
            prop_assert_eq!(size(&show_size(bytes)), Some(bytes));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = (duration(&text), size(&text));
        }
    }
}
