//! What is known of each spec: how it ended, when and on which commit. One file for each target, outside the
//! repository, written after every spec, so that a run that ends early has lost nothing.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// It looked at the cluster and would not run.
    Skipped,
}

/// How a spec ended, without where and when.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// The whole message of a failure, or why it was skipped; empty where nothing was said.
    pub(crate) message: String,
    pub(crate) seconds: f64,
}

/// What runs: results of the same build are not measured again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Build {
    /// Twelve digits, with the words "with changes" where sources differed from it.
    pub(crate) commit: String,
    /// Of our binary; upstream's version where nothing is ours.
    pub(crate) fingerprint: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) seconds: f64,
    pub(crate) commit: String,
    /// UTC, `2026-01-31`.
    pub(crate) date: String,
    /// Empty for what was read from the committed results.
    #[serde(default)]
    pub(crate) fingerprint: String,
    /// It failed and passed, both of this build.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) flaky: bool,
}

/// By name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Store(pub(crate) BTreeMap<String, Measured>);

/// Which results are good enough for a run that asks for them again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Again {
    /// Those of this build.
    No,
    /// Those of this build that did not fail.
    Failed,
    /// None.
    All,
}

impl Store {
    /// Keeps what ended, with its build; one that ended before is replaced. What fails and passes of one build is a
    /// flake, and remains one however often it passes.
    pub(crate) fn keep(&mut self, name: &str, ended: &Ended, build: &Build, date: &str) {
        let flaky = self.0.get(name).filter(|before| before.is_of(build)).is_some_and(|before| {
            before.flaky || before.outcome == Outcome::Failed && ended.outcome == Outcome::Passed
        });
        let measured = Measured {
            outcome: ended.outcome,
            message: ended.message.clone(),
            seconds: ended.seconds,
            commit: build.commit.clone(),
            date: date.to_string(),
            fingerprint: build.fingerprint.clone(),
            flaky,
        };
        self.0.insert(name.to_string(), measured);
    }

    /// Keeps that one that did not pass passed when it was tried again, alone.
    pub(crate) fn keep_flake(&mut self, name: &str) {
        if let Some(measured) = self.0.get_mut(name) {
            measured.outcome = Outcome::Passed;
            measured.flaky = true;
        }
    }

    pub(crate) fn forget(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| !names.contains(name));
    }

    /// Takes from `others` what is not known here, and what is known better there: of this build, else of a later day.
    pub(crate) fn complete(&mut self, others: BTreeMap<String, Measured>, build: &Build) {
        fn worth<'a>(measured: &'a Measured, build: &Build) -> (bool, &'a str) {
            (measured.is_of(build), &measured.date)
        }
        for (name, other) in others {
            if self.0.get(&name).is_none_or(|here| worth(here, build) < worth(&other, build)) {
                self.0.insert(name, other);
            }
        }
    }

    /// Which of these have to run.
    pub(crate) fn left(&self, wanted: &BTreeSet<String>, build: &Build, again: Again) -> BTreeSet<String> {
        let is_good = |measured: &Measured| match again {
            Again::No => measured.is_of(build),
            Again::Failed => measured.is_of(build) && measured.outcome != Outcome::Failed,
            Again::All => false,
        };
        wanted.iter().filter(|name| !self.0.get(*name).is_some_and(is_good)).cloned().collect()
    }

    pub(crate) fn outcome(&self, name: &str) -> Option<Outcome> {
        self.0.get(name).map(|measured| measured.outcome)
    }
}

impl Measured {
    /// What a flake does is no promise, and what was measured of changed sources is nobody's commit.
    pub(crate) fn is_a_promise(&self) -> bool {
        self.outcome == Outcome::Passed && !self.flaky && !self.commit.contains(' ')
    }

    pub(crate) fn build(&self) -> Build {
        Build { commit: self.commit.clone(), fingerprint: self.fingerprint.clone() }
    }

    /// A commit names one state of the sources only where they were not changed.
    pub(crate) fn is_of(&self, build: &Build) -> bool {
        let same_binary = !self.fingerprint.is_empty() && self.fingerprint == build.fingerprint;
        same_binary || self.commit == build.commit && !build.commit.contains(' ')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(commit: &str, fingerprint: &str) -> Build {
        Build { commit: commit.into(), fingerprint: fingerprint.into() }
    }

    fn ended(outcome: Outcome) -> Ended {
        Ended { outcome, message: String::new(), seconds: 1.0 }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn store() -> Store {
        let mut store = Store::default();
        store.keep("good", &ended(Outcome::Passed), &build("1", "x"), "2026-01-31");
        store.keep("bad", &ended(Outcome::Failed), &build("1", "x"), "2026-01-31");
        store
    }

    #[test]
    fn what_this_build_has_done_is_not_done_again_unless_asked() {
        let wanted = names(&["bad", "good", "new"]);
        let left = |build, again| store().left(&wanted, &build, again);
        assert_eq!(left(build("1", "x"), Again::No), names(&["new"]));
        assert_eq!(left(build("1", "x"), Again::Failed), names(&["bad", "new"]));
        assert_eq!(left(build("1", "x"), Again::All), wanted);
        assert_eq!(left(build("2", "y"), Again::No), wanted);
    }

    #[test]
    fn a_build_is_known_by_its_binary_or_by_a_commit_without_changes() {
        let wanted = names(&["good"]);
        let left = |build| store().left(&wanted, &build, Again::No).len();
        assert_eq!(left(build("2", "x")), 0, "another commit, the same binary");
        assert_eq!(left(build("1", "y")), 0, "the same commit, built elsewhere");
        let mut changed = Store::default();
        changed.keep("good", &ended(Outcome::Passed), &build("1 with changes", "x"), "2026-01-31");
        assert_eq!(changed.left(&wanted, &build("1 with changes", "y"), Again::No).len(), 1);
    }

    #[test]
    fn what_is_known_here_is_better_than_what_was_committed() {
        let mut other = store();
        other.keep("good", &ended(Outcome::Failed), &build("0", ""), "2026-01-01");
        other.keep("old", &ended(Outcome::Passed), &build("0", ""), "2026-01-01");
        let mut store = store();
        store.complete(other.0, &build("2", "y"));
        assert_eq!(store.outcome("good"), Some(Outcome::Passed));
        assert_eq!(store.outcome("old"), Some(Outcome::Passed));
        assert_eq!(store.outcome("unheard of"), None);
    }

    #[test]
    fn what_was_committed_is_better_if_it_is_of_this_build_or_else_of_a_later_day() {
        let later = |commit, date| {
            let mut other = Store::default();
            other.keep("good", &ended(Outcome::Failed), &build(commit, ""), date);
            other.0
        };
        let after = |others, build| {
            let mut store = store();
            store.complete(others, &build);
            store.outcome("good").unwrap()
        };
        assert_eq!(after(later("2", "2026-02-01"), build("3", "y")), Outcome::Failed, "a later day");
        assert_eq!(after(later("2", "2026-01-31"), build("3", "y")), Outcome::Passed, "the same day");
        assert_eq!(after(later("2", "2026-01-01"), build("2", "y")), Outcome::Failed, "this build there");
        assert_eq!(after(later("2", "2026-02-01"), build("1", "x")), Outcome::Passed, "this build here");
    }

    #[test]
    fn what_fails_and_passes_of_one_build_is_a_flake_for_good() {
        let mut store = store();
        let keep =
            |store: &mut Store, outcome, build| store.keep("bad", &ended(outcome), &build, "2026-02-01");
        keep(&mut store, Outcome::Passed, build("1", "x"));
        assert!(store.0["bad"].flaky);
        keep(&mut store, Outcome::Passed, build("1", "x"));
        assert!(store.0["bad"].flaky && !store.0["bad"].is_a_promise());
        keep(&mut store, Outcome::Passed, build("2", "y"));
        assert!(!store.0["bad"].flaky && store.0["bad"].is_a_promise(), "another build is another matter");
        keep(&mut store, Outcome::Failed, build("2", "y"));
        keep(&mut store, Outcome::Passed, build("3", "z"));
        assert!(!store.0["bad"].flaky, "mended");
    }

    #[test]
    fn a_flake_passes_and_is_told() {
        let mut store = store();
        store.keep_flake("bad");
        assert_eq!(store.outcome("bad"), Some(Outcome::Passed));
        let text = serde_json::to_string(&store).unwrap();
        assert_eq!(serde_json::from_str::<Store>(&text).unwrap(), store);
        assert!(store.0["bad"].flaky && !store.0["good"].flaky);
    }
}
