//! Durations and sizes as people write them: `5s`, `64MiB`. Refuses to know which option they
//! belong to; the sentence of an error says what is wrong and what to write instead.
//!
//! Invariant: what [`duration_text`] and [`size_text`] write, the parsers read back unchanged.

use std::time::Duration;

/// Far past any sensible value, and safely inside what an `Instant` can carry.
const DURATION_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Largest first, so that the writer finds the shortest exact text.
const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Binary units for memory, decimal ones as SI means them. (redis.conf reads `1mb` as MiB: who
/// copies a value from there gets 5 % less, never more than meant.)
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// `5s`, `250ms`, `1h`, `0`. A number without a unit is refused: seconds or milliseconds is a guess.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text, "a number with a unit, such as 5s, 250ms, 1h, or 0")?;
    if unit.is_empty() {
        return match number {
            0 => Ok(Duration::ZERO),
            n => Err(format!("`{text}` has no unit; write {n}s or {n}ms")),
        };
    }
    let Some((_, micros)) = DURATIONS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("`{unit}` is no unit of time; use us, ms, s, m, h or d"));
    };
    number
        .checked_mul(*micros)
        .map(Duration::from_micros)
        .filter(|d| *d <= DURATION_MAX)
        .ok_or_else(|| format!("`{text}` is too long; at most 366d, and 0 switches the limit off"))
}

/// `64MiB`, `1MB`, `4096`. Case is ignored.
pub fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text, "a number of bytes, such as 64MiB, 1MB or 4096")?;
    if unit.is_empty() {
        return Ok(number);
    }
    let Some((_, bytes)) = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)) else {
        return Err(format!("`{unit}` is no unit of size; use B, KiB, MiB, GiB, KB, MB or GB"));
    };
    number.checked_mul(*bytes).ok_or_else(|| format!("`{text}` is more bytes than any machine has"))
}

/// A whole number.
pub fn count(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not a whole number from 0 to {}", u64::MAX))
}

/// The shortest exact text.
pub fn duration_text(value: Duration) -> String {
    text(u64::try_from(value.as_micros()).unwrap_or(u64::MAX), &DURATIONS)
}

/// The shortest exact text, in binary units.
pub fn size_text(bytes: u64) -> String {
    text(bytes, &[SIZES[0], SIZES[2], SIZES[4]])
}

fn text(value: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, one)| value > 0 && value.is_multiple_of(*one))
        .map_or_else(|| value.to_string(), |(unit, one)| format!("{}{unit}", value / one))
}

fn split<'a>(text: &'a str, wanted: &str) -> Result<(u64, &'a str), String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if digits == 0 {
        return Err(format!("`{text}` is not {wanted}"));
    }
    let number = number.parse().map_err(|_| format!("`{text}` is too large"))?;
    Ok((number, unit.trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let good = [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000),
            ("250ms", 250_000),
            ("1h", 3_600_000_000),
            ("2 m", 120_000_000),
            ("7d", 604_800_000_000),
            ("10us", 10),
        ];
        for (text, micros) in good {
            assert_eq!(duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        for (text, says) in [
            ("", "is not a number with a unit"),
            ("5", "write 5s or 5ms"),
            ("s", "is not a number with a unit"),
            ("-1s", "is not a number with a unit"),
            ("1.5s", "no unit of time"),
            ("5S", "no unit of time"),
            ("5sec", "no unit of time"),
            ("400d", "too long"),
            ("99999999999999999999s", "too large"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_read_as_people_write_them() {
        let good = [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("1MB", 1_000_000),
            ("1mb", 1_000_000),
            ("2 GiB", 2 << 30),
            ("3kib", 3072),
            ("7B", 7),
        ];
        for (text, bytes) in good {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, says) in [
            ("", "is not a number of bytes"),
            ("MiB", "is not a number of bytes"),
            ("1M", "no unit of size"),
            ("-1", "is not a number of bytes"),
            ("99999999999GiB", "more bytes"),
        ] {
            let error = size(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(micros in 0..DURATION_MAX.as_micros() as u64, bytes: u64) {
            let value = Duration::from_micros(micros);
            prop_assert_eq!(duration(&duration_text(value)), Ok(value));
            prop_assert_eq!(size(&size_text(bytes)), Ok(bytes));
        }
    }
}
