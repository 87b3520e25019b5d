//! Human-readable durations (`"1m30s"`) and sizes (`"64KiB"`), parsed once and checked.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Parses `"250ms"`, `"30s"`, `"1h30m"`, `"7d"`. A bare number has no unit and is refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as \"250ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"";
    if text.is_empty() {
        return Err(EXPECTED.into());
    }
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, after) = split_quantity(rest).ok_or(EXPECTED)?;
        let factor = lookup(&DURATION_UNITS, unit).ok_or_else(|| match unit {
            "" if after.starts_with(['.', ',']) => format!("{text:?} has a fraction; {EXPECTED}"),
            "" if after.starts_with(' ') => format!("{text:?} has a space before its unit; {EXPECTED}"),
            "" => format!("{text:?} has no unit; {EXPECTED}"),
            unit => format!("unknown unit {unit:?}; {EXPECTED}"),
        })?;
        let sum = number.checked_mul(factor).and_then(|part| total.checked_add(part));
        total = sum.ok_or_else(|| format!("{text:?} is too long a duration"))?;
        rest = after;
    }
    Ok(Duration::from_millis(total))
}

/// Parses `"512"` (bytes), `"64KiB"`, `"1GiB"`, `"20MB"`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size such as \"64KiB\", \"20MB\" or \"1GiB\"";
    let (number, unit, rest) = split_quantity(text).ok_or(EXPECTED)?;
    if !rest.is_empty() {
        return Err(EXPECTED.into());
    }
    let factor = match unit {
        "" => 1,
        unit => lookup(&SIZE_UNITS, unit).ok_or_else(|| match binary(unit) {
            Some(meant) => format!("unknown unit {unit:?}; write \"{number}{meant}\""),
            None => format!("unknown unit {unit:?}; {EXPECTED}"),
        })?,
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large a size"))
}

/// What others mean by one letter, or by a word in another case.
fn binary(unit: &str) -> Option<&'static str> {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let is_short = |meant: &&&str| unit.eq_ignore_ascii_case(&meant[..1]) || unit.eq_ignore_ascii_case(meant);
    units.iter().find(is_short).copied()
}

/// Writes a duration the way an operator would: `90s` as `1m30s`.
pub(crate) fn format_duration(duration: Duration) -> String {
    let mut left = duration.as_millis() as u64;
    let mut out = String::new();
    // In days, but not in weeks.
    for (unit, factor) in DURATION_UNITS.into_iter().rev().skip(1) {
        if left >= factor {
            out.push_str(&format!("{}{unit}", left / factor));
            left %= factor;
        }
    }
    if out.is_empty() { "0s".into() } else { out }
}

/// Writes a size exactly, in the largest unit that does: 65,536 as `64KiB`.
pub(crate) fn format_size(bytes: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| bytes >= *factor && bytes.is_multiple_of(*factor);
    match SIZE_UNITS.iter().rev().find(fits) {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

/// A number of things, for people: `1 site`, `2 sites`.
pub(crate) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn split_quantity(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number = text[..digits].parse().ok()?;
    let rest = &text[digits..];
    let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
    Some((number, &rest[..letters], &rest[letters..]))
}

fn lookup(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("2w", 1_209_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5s", "1 s", "3x", "99999999999999999999s", "999999999999999w"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512", 512), ("64KiB", 65_536), ("1GiB", 1 << 30), ("20MB", 20_000_000), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "1.5GiB", "1 GiB", "1G", "1kib", "1KiB2", "99999999999TiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_formatted_parses_back() {
        for millis in [0, 1, 999, 1_000, 61_000, 5_400_000, 90_061_001] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }
        for bytes in [0, 1, 64, 1000, 1024, 65_536, 20_000_000, (1 << 30) + 1] {
            assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }
        assert_eq!([1 << 10, 64 << 20].map(format_size), ["1KiB", "64MiB"]);
    }

    #[test]
    fn one_thing_is_singular() {
        assert_eq!([0, 1, 2].map(|number| count(number, "site")), ["0 sites", "1 site", "2 sites"]);
    }
}
