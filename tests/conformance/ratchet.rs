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
    let added =
        history.lines().filter(|line| !line.starts_with("+++ ")).filter_map(|line| line.strip_prefix('+'));
    let ever: BTreeSet<String> = added.flat_map(names).collect();
    ever.difference(now).cloned().collect()
}

/// Names that have to pass and failed.
pub(crate) fn broken(passing: &BTreeSet<String>, ended: &BTreeMap<String, Outcome>) -> BTreeSet<String> {
    let failed = |name: &&String| ended.get(*name) == Some(&Outcome::Failed);
    passing.iter().filter(failed).cloned().collect()
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
        assert_eq!(names(&file("every name\nthat passes", &now)), now);
    }

    #[test]
    fn only_a_failure_breaks_a_promise() {
        let ended = [("one", Outcome::Failed), ("two", Outcome::Passed), ("four", Outcome::Failed)];
        let ended = ended.map(|(name, outcome)| (name.to_string(), outcome)).into();
        assert_eq!(broken(&names("one\ntwo\nthree"), &ended), names("one"));
    }

    #[test]
    fn a_limit_has_a_cause_of_some_lines() {
        let limits = limits("# comment\n[sig-a] one\n    no such\n    link\n[sig-b] two\n  other\n");
        assert_eq!(limits["[sig-a] one"], "no such link");
        assert_eq!(limits["[sig-b] two"], "other");
    }
}
