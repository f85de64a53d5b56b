//! Specs by their full names, which say everything about them in brackets, and which of them are wanted.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use regex_lite::Regex;

/// The two suites that every column has rows for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Suite {
    Conformance,
    NodeConformance,
}

impl Suite {
    pub(crate) const ALL: [Self; 2] = [Self::Conformance, Self::NodeConformance];

    /// As names have it.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::Conformance => "[Conformance]",
            Self::NodeConformance => "[NodeConformance]",
        }
    }

    pub(crate) fn has(self, name: &str) -> bool {
        name.contains(self.tag())
    }
}

/// Whether a column has a row for it.
pub(crate) fn in_a_suite(name: &str) -> bool {
    Suite::ALL.iter().any(|suite| suite.has(name))
}

/// `sig-node` of `[sig-node] Pods should ...`.
pub(crate) fn sig(name: &str) -> &str {
    let start = name.find("[sig-").map_or(name.len(), |at| at + 1);
    let rest = name.get(start..).unwrap_or_default();
    let end = rest.find(']').unwrap_or(0);
    match rest.get(..end) {
        Some(sig) if !sig.is_empty() => sig,
        _ => "no SIG",
    }
}

/// Whether it disturbs others: such a spec runs alone.
pub(crate) fn runs_alone(name: &str) -> bool {
    name.contains("[Serial]") || name.contains("[Disruptive]")
}

/// The names in what `e2e.test --list-tests` prints: indented lines, each `FILE:LINE: NAME`.
pub(crate) fn listed(output: &str) -> BTreeSet<String> {
    output
        .lines()
        .filter_map(|line| {
            let (place, name) = line.strip_prefix(' ')?.trim_start().split_once(": ")?;
            let (_, number) = place.rsplit_once(':')?;
            number.parse::<u32>().is_ok().then(|| name.trim_end().to_string())
        })
        .collect()
}

/// Which specs somebody asks for.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Exactly these.
    Names(BTreeSet<String>),
    /// Those that the one matches and the other does not; never those that upstream calls flaky.
    Matching { focus: Regex, skip: Option<Regex> },
}

impl Wanted {
    /// `focus` may be empty (all of Conformance), `node` (all of NodeConformance) or a regular expression.
    pub(crate) fn matching(focus: &str, skip: &str) -> anyhow::Result<Self> {
        let focus = match focus {
            "" => r"\[Conformance\]",
            "node" => r"\[NodeConformance\]",
            expression => expression,
        };
        let focus = Regex::new(focus).with_context(|| format!("FOCUS is no regular expression: {focus}"))?;
        let skip = match skip {
            "" => None,
            expression => Some(
                Regex::new(expression)
                    .with_context(|| format!("SKIP is no regular expression: {expression}"))?,
            ),
        };
        Ok(Self::Matching { focus, skip })
    }

    /// An error if there is none, or if one that was named does not exist.
    pub(crate) fn among(&self, all: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
        let found: BTreeSet<String> = match self {
            Self::Names(names) => {
                if let Some(unknown) = names.iter().find(|name| !all.contains(*name)) {
                    bail!("upstream's suite has no test of this name: {unknown}");
                }
                names.clone()
            }
            Self::Matching { focus, skip } => all
                .iter()
                .filter(|name| !name.contains("[Flaky]"))
                .filter(|name| focus.is_match(name))
                .filter(|name| skip.as_ref().is_none_or(|skip| !skip.is_match(name)))
                .cloned()
                .collect(),
        };
        if found.is_empty() {
            bail!("no test of upstream's suite matches FOCUS and SKIP");
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "The following spec names can be used with 'ginkgo run --focus/skip':\n\
        \x20   test/e2e/common/node/pods.go:12: [sig-node] Pods should be updated [NodeConformance] [Conformance]\n\
        \x20   test/e2e/apps/daemon.go:9: [sig-apps] Daemon set [Serial] should run: and stop [Conformance]\n\
        \x20   test/e2e/x.go:9: [sig-apps] Sometimes [Flaky] [Conformance]\n\n";

    #[test]
    fn the_list_has_one_name_a_line_whatever_is_in_it() {
        let all = listed(LIST);
        assert_eq!(all.len(), 3);
        assert!(all.contains("[sig-apps] Daemon set [Serial] should run: and stop [Conformance]"), "{all:?}");
    }

    #[test]
    fn a_name_says_its_sig_and_whether_it_runs_alone() {
        assert_eq!(sig("[sig-node] Pods"), "sig-node");
        assert_eq!(sig("Pods [sig-"), "no SIG");
        assert_eq!(sig("Pods"), "no SIG");
        assert!(runs_alone("[sig-apps] Daemon set [Serial] runs"));
        assert!(!runs_alone("[sig-apps] Deployment runs"));
    }

    #[test]
    fn nothing_asked_for_is_all_of_conformance_without_the_flaky() {
        let all = listed(LIST);
        let names = |focus, skip| Wanted::matching(focus, skip).unwrap().among(&all);
        assert_eq!(names("", "").unwrap().len(), 2);
        assert_eq!(names("node", "").unwrap().len(), 1);
        assert_eq!(names("", "Daemon").unwrap().len(), 1);
        assert_eq!(names("sig-apps.*and", "").unwrap().len(), 1);
        assert!(names("nothing", "").unwrap_err().to_string().contains("no test"));
        assert!(Wanted::matching("(", "").unwrap_err().to_string().contains("FOCUS"));
    }

    #[test]
    fn a_name_is_taken_literally() {
        let all = listed(LIST);
        let name = "[sig-node] Pods should be updated [NodeConformance] [Conformance]".to_string();
        assert_eq!(Wanted::Names([name.clone()].into()).among(&all).unwrap(), [name].into());
        let error = Wanted::Names(["[sig-node] Pods".to_string()].into()).among(&all).unwrap_err();
        assert!(error.to_string().ends_with(": [sig-node] Pods"), "{error}");
    }
}
