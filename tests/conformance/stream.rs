//! What ginkgo prints while it runs (`-v`), read into how each spec ended. The suite's own reports of progress
//! (`--progress-report-url`) tell only of its start and its end in 1.36.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, iter};

use crate::measured::Outcome;

/// A spec that has ended; one that failed is told of again when its message is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) outcome: Outcome,
    pub(crate) seconds: f64,
    /// The first line of why it failed; empty at first.
    pub(crate) message: String,
}

/// Follows the lines of a log.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    names: &'a BTreeSet<String>,
    /// The last one that was named: where specs run one after another, the one that runs.
    current: Option<&'a String>,
    /// How one ended whose name may be on the next line, and after how many seconds.
    pending: Option<(Outcome, f64)>,
    /// One that failed and whose message may follow.
    failed: Option<Event>,
    /// A line that has not come to its end.
    rest: Vec<u8>,
}

impl<'a> Stream<'a> {
    pub(crate) fn of(names: &'a BTreeSet<String>) -> Self {
        Self { names, current: None, pending: None, failed: None, rest: Vec::new() }
    }

    /// What more of the log tells; it may end in the middle of a line.
    pub(crate) fn on(&mut self, more: &[u8]) -> Vec<Event> {
        self.rest.extend_from_slice(more);
        let mut events = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            events.extend(self.line(String::from_utf8_lossy(&line).trim_end()));
        }
        events
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        let named = self.named(line);
        if named.is_some() {
            self.current = named;
        }
        let ended = self.pending.take();
        self.pending = header(line);
        if let Some((outcome, seconds)) = ended {
            let event =
                Event { name: named.or(self.current)?.clone(), outcome, seconds, message: String::new() };
            self.failed = (outcome == Outcome::Failed).then(|| event.clone());
            return Some(event);
        }
        // The timeline before it has `[FAILED] in [It] - FILE:LINE`.
        let message = line.strip_prefix("  [FAILED] ").filter(|message| !message.starts_with("in ["))?;
        Some(Event { message: message.to_string(), ..self.failed.take()? })
    }

    /// A name at the start of a line, with its labels behind it.
    fn named(&self, line: &str) -> Option<&'a String> {
        if !line.starts_with('[') && !line.starts_with("TOP-LEVEL [") {
            return None;
        }
        let line = unmarked(line);
        let is_it = |name: &&String| {
            line.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ["))
        };
        self.names.iter().filter(is_it).max_by_key(|name| name.len())
    }
}

/// `• [1.2 seconds]`, `• [FAILED] [1.2 seconds]`, `S [SKIPPED] [0.1 seconds]`: the first line of what is told of a spec.
fn header(line: &str) -> Option<(Outcome, f64)> {
    let (mark, rest) = line.split_once(" [")?;
    let mut words = rest.split(" [").map(|word| word.trim_end_matches(']'));
    let word = words.next()?;
    let outcome = match (mark, word) {
        ("S", "SKIPPED") => Outcome::Skipped,
        // It was asked to end: nothing is known of it.
        ("•", "INTERRUPTED" | "ABORTED") => return None,
        ("•", word) if word.ends_with(" seconds") => Outcome::Passed,
        ("•", _) => Outcome::Failed,
        _ => return None,
    };
    let seconds = iter::once(word).chain(words).find_map(|word| word.strip_suffix(" seconds")?.parse().ok());
    Some((outcome, seconds.unwrap_or_default()))
}

/// Where a failure was is marked in the middle of the name.
fn unmarked(line: &str) -> String {
    const NODES: [&str; 8] = [
        "It",
        "BeforeEach",
        "JustBeforeEach",
        "AfterEach",
        "JustAfterEach",
        "DeferCleanup (Each)",
        "ReportBeforeEach",
        "ReportAfterEach",
    ];
    let mut line = line.to_string();
    for node in NODES {
        if let Some(rest) = line.strip_prefix(&format!("TOP-LEVEL [{node}] ")) {
            line = rest.to_string();
        }
        line = line.replacen(&format!(" [{node}]"), "", 1);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> BTreeSet<String> {
        ["[sig-node] Pods run [Conformance]", "[sig-node] Pods run", "[sig-apps] Jobs stop"]
            .map(str::to_string)
            .into()
    }

    fn events(chunks: &[&str]) -> Vec<(String, Outcome, f64)> {
        let names = names();
        let mut stream = Stream::of(&names);
        let told = chunks.iter().flat_map(|chunk| stream.on(chunk.as_bytes()));
        told.filter(|event| event.message.is_empty())
            .map(|event| (event.name, event.outcome, event.seconds))
            .collect()
    }

    #[test]
    fn beside_others_a_spec_is_named_after_how_it_ended() {
        let log = "------------------------------\n• [1.234 seconds]\n[sig-node] Pods run [Conformance] [sig-node, Conformance]\n/x.go:1\n\
                   \x20 • [FAILED] not at the start of a line\n------------------------------\n\
                   • [FAILED] [301.0 seconds]\n[sig-apps] Jobs [It] stop [sig-apps]\n/x.go:2\n\
                   S [SKIPPED] [0.1 seconds]\n[sig-node] Pods [BeforeEach] run [sig-node]\n";
        let expected = [
            ("[sig-node] Pods run [Conformance]".to_string(), Outcome::Passed, 1.234),
            ("[sig-apps] Jobs stop".to_string(), Outcome::Failed, 301.0),
            ("[sig-node] Pods run".to_string(), Outcome::Skipped, 0.1),
        ];
        assert_eq!(events(&[log]), expected);
        // However the log is cut.
        let (one, two) = log.split_at(61);
        assert_eq!(events(&[one, two]), expected);
    }

    #[test]
    fn alone_a_spec_is_named_before_it_runs() {
        let log = "------------------------------\n[sig-apps] Jobs stop [sig-apps]\n/x.go:2\n  STEP: x\n• [1.2 seconds]\n\
                   ------------------------------\n";
        assert_eq!(events(&[log]), [("[sig-apps] Jobs stop".to_string(), Outcome::Passed, 1.2)]);
    }

    #[test]
    fn what_was_cut_short_or_is_of_the_suite_itself_is_no_spec() {
        let log = "• [INTERRUPTED] [1.2 seconds]\n[sig-apps] Jobs [It] stop\n[SynchronizedBeforeSuite] PASSED [0.5 seconds]\n\
                   [SynchronizedBeforeSuite]\n• [PANICKED!] [1 seconds]\nTOP-LEVEL [AfterEach] [sig-apps] Jobs stop [sig-apps]\n";
        assert_eq!(events(&[log]), [("[sig-apps] Jobs stop".to_string(), Outcome::Failed, 1.0)]);
    }

    #[test]
    fn a_failure_is_told_again_with_its_message() {
        let log = b"\xe2\x80\xa2 [FAILED] [3 seconds]\n[sig-apps] Jobs [It] stop\n  Timeline >>\n\
                    \x20 [FAILED] in [It] - /x.go:3 @ 11/29\n  << Timeline\n\n  [FAILED] no such job\n  [FAILED] not twice\n";
        let names = names();
        let told = Stream::of(&names).on(log);
        let expected = ["", "no such job"].map(|message| Event {
            name: "[sig-apps] Jobs stop".into(),
            outcome: Outcome::Failed,
            seconds: 3.0,
            message: message.into(),
        });
        assert_eq!(told, expected);
    }
}
