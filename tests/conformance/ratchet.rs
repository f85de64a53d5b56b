//! `passing.txt` only ever grows, and what is in it passes.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use crate::measured::Outcome;

/// Names in a file of one name a line.
pub(crate) fn names(text: &str) -> BTreeSet<String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_string)
        .collect()
}

/// The file of these names; `head` is what its comment says.
pub(crate) fn file(head: &str, names: &BTreeSet<String>) -> String {
    let head: String = head.lines().map(|line| format!("# {line}\n")).collect();
    names.iter().fold(head, |text, name| text + name + "\n")
}

/// Names that were in the file once and are not any more. `history` is what `git log -p` says of it.
#[cfg(test)]
pub(crate) fn lost(history: &str, now: &BTreeSet<String>) -> BTreeSet<String> {
    let is_name = |line: &&str| !line.starts_with("+++ ") && !line.starts_with("--- ");
    let changed = history.lines().filter(is_name).filter_map(|line| line.strip_prefix(['+', '-']));
    let ever: BTreeSet<String> = changed.flat_map(names).collect();
    ever.difference(now).cloned().collect()
}

/// Names that have to pass, and ended otherwise.
pub(crate) fn broken(passing: &BTreeSet<String>, ended: &BTreeMap<String, Outcome>) -> BTreeSet<String> {
    let broken = |name: &&String| ended.get(*name).is_some_and(|outcome| *outcome != Outcome::Passed);
    passing.iter().filter(broken).cloned().collect()
}

/// What is wrong with a spec that was wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    Failed,
    /// It had to pass.
    Skipped,
    NotRun,
}

impl Trouble {
    pub(crate) fn in_capitals(self) -> &'static str {
        match self {
            Self::Failed => "FAILED",
            Self::Skipped => "SKIPPED",
            Self::NotRun => "NOT RUN",
        }
    }
}

/// Whoever has to pass may not skip. A limit of the machine excuses a failure of whoever has not.
pub(crate) fn trouble(outcome: Option<Outcome>, must_pass: bool, limit: bool) -> Option<Trouble> {
    match outcome {
        Some(Outcome::Passed) => None,
        Some(Outcome::Failed) => (must_pass || !limit).then_some(Trouble::Failed),
        Some(Outcome::Skipped) => must_pass.then_some(Trouble::Skipped),
        None => Some(Trouble::NotRun),
    }
}

/// What cannot be passed on this machine, by name, and why. A name at the start of a line, its cause on indented ones.
pub(crate) fn limits(text: &str) -> BTreeMap<String, String> {
    let mut limits: BTreeMap<String, String> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if !line.starts_with(' ') {
            name = line.trim_end().to_string();
            limits.insert(name.clone(), String::new());
        } else if let Some(cause) = limits.get_mut(&name) {
            if !cause.is_empty() {
                cause.push(' ');
            }
            cause.push_str(line.trim());
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "commit 2\n\n--- a/passing.txt\n+++ b/passing.txt\n-[sig-b] two\n+[sig-c] three\n\
                       commit 1\n\n+++ b/passing.txt\n+# every name\n+[sig-a] one\n+[sig-b] two\n";

    #[test]
    fn a_name_that_was_there_once_is_missed() {
        let now = names("# every name\n[sig-a] one\n\n[sig-c] three\n");
        assert_eq!(lost(LOG, &now), names("[sig-b] two"));
        assert_eq!(lost(LOG, &names("[sig-a] one\n[sig-b] two\n[sig-c] three")), BTreeSet::new());
        let removed = lost("-[sig-d] four\n", &now);
        assert_eq!(removed, names("[sig-d] four"), "whoever takes it away had it");
        assert_eq!(names(&file("every name\nthat passes", &now)), now);
    }

    #[test]
    fn only_a_pass_keeps_a_promise() {
        let ended = [
            ("one", Outcome::Failed),
            ("two", Outcome::Passed),
            ("three", Outcome::Skipped),
            ("five", Outcome::Failed),
        ];
        let ended = ended.map(|(name, outcome)| (name.to_string(), outcome)).into();
        assert_eq!(broken(&names("one\ntwo\nthree\nfour"), &ended), names("one\nthree"));
    }

    #[test]
    fn what_has_to_pass_has_no_excuse() {
        let (failed, skipped) = (Some(Outcome::Failed), Some(Outcome::Skipped));
        for (outcome, must_pass, limit, expected) in [
            (Some(Outcome::Passed), true, false, None),
            (failed, true, true, Some(Trouble::Failed)),
            (failed, false, false, Some(Trouble::Failed)),
            (failed, false, true, None),
            (skipped, true, false, Some(Trouble::Skipped)),
            (skipped, false, false, None),
            (None, false, false, Some(Trouble::NotRun)),
        ] {
            assert_eq!(trouble(outcome, must_pass, limit), expected, "{outcome:?} {must_pass} {limit}");
        }
    }

    #[test]
    fn a_limit_has_a_cause_of_some_lines() {
        let limits = limits("# comment\n[sig-a] one\n    no such\n    link\n[sig-b] two\n  other\n");
        assert_eq!(limits["[sig-a] one"], "no such link");
        assert_eq!(limits["[sig-b] two"], "other");
    }
}
