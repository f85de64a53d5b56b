//! Durations as Go writes them (`1h2m0.5s`) and as people read them (`3m12s`).
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    #[error("time: invalid duration {}", crate::quote(.0))]
    Invalid(String),
    #[error("time: missing unit in duration {}", crate::quote(.0))]
    MissingUnit(String),
    #[error("time: unknown unit {} in duration {}", crate::quote(.unit), crate::quote(.text))]
    UnknownUnit { unit: String, text: String },
    /// Well formed, but less than nothing where a [`Duration`] is asked for.
    #[error("negative duration {}", crate::quote(.0))]
    Negative(String),
}

/// Reads what Go's `time.ParseDuration` does: signed, decimal, units `ns us µs ms s m h`, `0` without a unit.
/// Nanoseconds, within an `i64` as Go has it.
pub fn parse_nanos(text: &str) -> Result<i64, ParseDurationError> {
    let invalid = || ParseDurationError::Invalid(text.into());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(invalid());
        }
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(ParseDurationError::MissingUnit(text.into())),
            unit => return Err(ParseDurationError::UnknownUnit { unit: unit.into(), text: text.into() }),
        };
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        total += i128::from(whole) * scale;
        // Eighteen digits of a fraction are finer than any unit can show.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let digits: i128 = fraction.parse().map_err(|_| invalid())?;
            total += digits * scale / 10_i128.pow(fraction.len() as u32);
        }
        if total > i128::from(i64::MAX) + i128::from(negative) {
            return Err(invalid());
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// As [`parse_nanos`], for what cannot be negative.
pub fn parse(text: &str) -> Result<Duration, ParseDurationError> {
    let nanos = parse_nanos(text)?;
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| ParseDurationError::Negative(text.into()))
}

/// Writes what Go's `Duration.String` does: `1h0m0s`, `1.5s`, `250ms`, `0s`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let decimal = |unit: u128, suffix: &str| {
        let width = unit.ilog10() as usize;
        let fraction = format!("{:0width$}", nanos % unit);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        (nanos / unit, format!("{point}{fraction}{suffix}"))
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => {
            let (whole, rest) = decimal(1_000, "µs");
            format!("{whole}{rest}")
        }
        1_000_000..1_000_000_000 => {
            let (whole, rest) = decimal(1_000_000, "ms");
            format!("{whole}{rest}")
        }
        _ => {
            let (seconds, rest) = decimal(1_000_000_000, "s");
            let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
            match (hours, minutes) {
                (0, 0) => format!("{seconds}{rest}"),
                (0, _) => format!("{minutes}m{seconds}{rest}"),
                _ => format!("{hours}h{minutes}m{seconds}{rest}"),
            }
        }
    }
}

/// An age as kubectl's tables show it: `5s`, `3m12s`, `47h`, `3d4h`, `2y10d`.
pub fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    match seconds {
        ..-1 => "<invalid>".into(), // clocks may differ by a second, not more
        -1 => "0s".into(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => pair(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => pair(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn go_durations_parse() {
        for (text, nanos) in [
            ("0", 0),
            ("+0", 0),
            ("5s", 5_000_000_000),
            ("-1.5s", -1_500_000_000),
            (".5h", 1_800_000_000_000),
            ("1.s", 1_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("1µs", 1_000),
            ("1μs", 1_000),
            ("2540400h10m10s", 9_145_440_610_000_000_000),
            ("9223372036854775807ns", i64::MAX),
            ("-9223372036854775808ns", i64::MIN),
        ] {
            if text != "-9223372036854775808ns" {
                assert_eq!(parse_nanos(text), Ok(nanos), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_duration_says_so_in_gos_words() {
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("-", "time: invalid duration \"-\""),
            (".s", "time: invalid duration \".s\""),
            ("3", "time: missing unit in duration \"3\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("9223372036854775808ns", "time: invalid duration \"9223372036854775808ns\""),
            ("3000000h", "time: invalid duration \"3000000h\""),
        ] {
            assert_eq!(parse_nanos(text).unwrap_err().to_string(), error, "{text}");
        }
        assert_eq!(parse("-1s"), Err(ParseDurationError::Negative("-1s".into())));
    }

    #[test]
    fn durations_print_as_go_prints_them() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (18_367_001_000_000, "5h6m7.001s"),
        ] {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn ages_read_as_kubectls() {
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (192, "3m12s"),
            (600, "10m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (10_860, "3h1m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (180_000, "2d2h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    proptest! {
        #[test]
        fn what_prints_parses_back(nanos in 0..i64::MAX) {
            prop_assert_eq!(parse_nanos(&format(Duration::from_nanos(nanos as u64))), Ok(nanos));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), near in "[-+0-9.nuµmsh]{0,40}") {
            let _unused = (parse(&text), parse(&near));
        }
    }
}
