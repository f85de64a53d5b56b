//! Ages, sizes and counts, as a person says them; columns that line up.
#![deny(clippy::disallowed_methods)]

use std::fmt::Write as _;

use jiff::Timestamp;

/// `12s`, `3m20s`, `2h`, `5d`: the two largest units where the first is small, as kubectl prints ages.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// `1 pod`, `3 pods`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// Rows under a heading, each column as wide as its widest cell, three spaces between, none at the end.
pub(crate) fn columns(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a String cannot fail.
            let _ok = write!(line, "{cell:<width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_kubectls() {
        let ages = [
            (5, "5s"),
            (119, "119s"),
            (200, "3m20s"),
            (3600, "60m"),
            (11_000, "3h3m"),
            (90_000, "25h"),
            (260_000, "3d"),
            (864_000, "10d"),
        ];
        for (seconds, text) in ages {
            let since = Timestamp::from_second(1_000_000).unwrap();
            let now = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!(age(since, now), text);
        }
    }

    #[test]
    fn columns_line_up_and_end_without_spaces() {
        let table = columns(
            &["NAME", "READY"],
            &[vec!["a-long-name".into(), "1/1".into()], vec!["b".into(), "0/1".into()]],
        );
        assert_eq!(table, "NAME          READY\na-long-name   1/1\nb             0/1\n");
    }
}
