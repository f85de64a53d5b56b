//! Moments as the API writes them: RFC 3339 in UTC, in whole seconds (`Time`) or in microseconds (`MicroTime`).
#![deny(clippy::disallowed_methods)]

use jiff::{Timestamp, fmt::strtime, tz::TimeZone};

use crate::duration;

/// `2006-01-02T15:04:05Z`
pub fn seconds(at: Timestamp) -> String {
    print("%Y-%m-%dT%H:%M:%SZ", at)
}

/// `2006-01-02T15:04:05.000000Z`
pub fn micros(at: Timestamp) -> String {
    print("%Y-%m-%dT%H:%M:%S.%6fZ", at)
}

fn print(format: &'static str, at: Timestamp) -> String {
    // The formats hold nothing that a moment lacks; should one ever, the moment's own form is RFC 3339 too.
    strtime::format(format, &at.to_zoned(TimeZone::UTC)).unwrap_or_else(|_| at.to_string())
}

/// Reads RFC 3339 with any offset.
pub fn parse(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse()
}

/// `at` without what the API does not keep of it.
pub fn truncate_to_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second() - i64::from(at.subsec_nanosecond() < 0)).unwrap_or(at)
}

/// The age of something made `since`, as kubectl's tables show it; `<unknown>` without a moment.
pub fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    match since {
        Some(since) => duration::human((now.as_duration() - since.as_duration()).as_secs()),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_and_parse_as_upstreams() {
        let at = parse("2024-02-29T12:34:56.789012+02:00").unwrap();
        assert_eq!(seconds(at), "2024-02-29T10:34:56Z");
        assert_eq!(micros(at), "2024-02-29T10:34:56.789012Z");
        assert_eq!(micros(truncate_to_seconds(at)), "2024-02-29T10:34:56.000000Z");
        assert!(parse("yesterday").is_err());
    }

    #[test]
    fn an_age_needs_a_moment() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(age(Some(at(0)), at(192)), "3m12s");
        assert_eq!(age(None, at(0)), "<unknown>");
    }
}
