//! Lines of the CRI's log files: `TIME STREAM TAGS CONTENT`. A long line comes in pieces, all but the last tagged `P`.
//! No IO.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;

use super::options::{LogOptions, Wanted};

/// One line of the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    time: &'a str,
    stdout: bool,
    /// With the newline, unless it is a piece of a line.
    content: &'a [u8],
}

/// `None` for what is no line of a log.
pub(super) fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let mut fields = raw.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stdout = match fields.next()? {
        b"stdout" => true,
        b"stderr" => false,
        _ => return None,
    };
    let tags = fields.next()?;
    let content = fields.next()?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let content = if partial { content.strip_suffix(b"\n").unwrap_or(content) } else { content };
    Some(Line { time, stdout, content })
}

/// Turns lines of the file into what the reader sees.
#[derive(Debug)]
pub(super) struct Renderer {
    timestamps: bool,
    since: Option<Timestamp>,
    wanted: Wanted,
    remain: Option<usize>,
    /// The next piece begins a line.
    at_start: bool,
}

impl Renderer {
    pub(super) fn new(options: &LogOptions) -> Renderer {
        Renderer {
            timestamps: options.timestamps,
            since: options.since,
            wanted: options.wanted,
            remain: options.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            at_start: true,
        }
    }

    /// Adds one line of the file. False: the limit is reached.
    pub(super) fn add(&mut self, raw: &[u8], out: &mut Vec<u8>) -> bool {
        let Some(line) = parse(raw) else { return true };
        let Ok(time) = line.time.parse::<Timestamp>() else { return true };
        let at_start = std::mem::replace(&mut self.at_start, line.content.last().is_none_or(|b| *b == b'\n'));
        let wanted = match self.wanted {
            Wanted::All => true,
            Wanted::Stdout => line.stdout,
            Wanted::Stderr => !line.stdout,
        };
        if !wanted || self.since.is_some_and(|since| time < since) {
            return true;
        }
        let from = out.len();
        if self.timestamps && at_start {
            out.extend_from_slice(fixed(line.time).as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        let Some(remain) = &mut self.remain else { return true };
        out.truncate(out.len().min(from.saturating_add(*remain)));
        *remain -= out.len() - from;
        *remain > 0
    }
}

/// With nine digits of fraction, in the zone it was written in.
fn fixed(time: &str) -> String {
    let zone = time.rfind(['Z', '+']).or_else(|| time.rfind('-').filter(|at| *at > 10)).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone);
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    format!("{seconds}.{fraction:0<9}{zone}")
}
