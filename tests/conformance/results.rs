//! The schema of `results.json`, which is committed: a column for each target, made of what is known of each spec.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    ginkgo_report::first_line,
    measured::{Measured, Outcome, Store},
    spec::{Suite, sig},
};

/// All columns, and the commit and the day of the latest measurement in them.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Results {
    pub(crate) commit: String,
    /// UTC, `2026-01-31`.
    pub(crate) date: String,
    /// By the target's name.
    #[serde(flatten)]
    pub(crate) columns: BTreeMap<String, Column>,
}

/// What one target does. Whatever of the two suites is in no list here has passed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Column {
    #[serde(rename = "Conformance")]
    pub(crate) conformance: Tally,
    #[serde(rename = "NodeConformance")]
    pub(crate) node_conformance: Tally,
    pub(crate) failed: Vec<String>,
    /// The first line of each failure.
    pub(crate) reasons: BTreeMap<String, String>,
    pub(crate) skipped: Vec<String>,
    /// Failed first, and passed when they were tried again alone.
    pub(crate) flaky: Vec<String>,
    /// Never measured.
    pub(crate) not_run: Vec<String>,
    pub(crate) commit: String,
    pub(crate) date: String,
    /// Of the programs that were measured; an equal one is the same build, whatever its commit.
    #[serde(default)]
    pub(crate) fingerprint: String,
    /// Those that were measured of another build, and at which commit.
    pub(crate) older: BTreeMap<String, When>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct When {
    pub(crate) commit: String,
    pub(crate) date: String,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    #[serde(flatten)]
    pub(crate) total: Count,
    #[serde(rename = "bySIG")]
    pub(crate) by_sig: BTreeMap<String, Count>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
    pub(crate) not_run: usize,
}

impl Count {
    fn add(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Passed) => self.passed += 1,
            Some(Outcome::Failed) => self.failed += 1,
            Some(Outcome::Skipped) => self.skipped += 1,
            None => self.not_run += 1,
        }
    }

    pub(crate) fn all(self) -> usize {
        self.passed + self.failed + self.skipped + self.not_run
    }
}

impl Column {
    /// Of those of `all` that belong to one of the two suites.
    pub(crate) fn of(store: &Store, all: &BTreeSet<String>) -> Self {
        let mut column = Self::default();
        let known: Vec<_> = all
            .iter()
            .filter(|name| in_a_suite(name))
            .filter_map(|name| Some((name, store.0.get(name)?)))
            .collect();
        let latest = newest(known.iter().map(|(_, measured)| *measured));
        if let Some(latest) = latest {
            column.commit.clone_from(&latest.commit);
            column.date.clone_from(&latest.date);
            column.fingerprint.clone_from(&latest.fingerprint);
        }
        for (name, measured) in known {
            if latest.is_some_and(|latest| !measured.is_of(&latest.build())) {
                let when = When { commit: measured.commit.clone(), date: measured.date.clone() };
                column.older.insert(name.clone(), when);
            }
            if measured.flaky {
                column.flaky.push(name.clone());
            }
            match measured.outcome {
                Outcome::Passed => {}
                Outcome::Failed => {
                    column.reasons.insert(name.clone(), first_line(&measured.message));
                    column.failed.push(name.clone());
                }
                Outcome::Skipped => column.skipped.push(name.clone()),
            }
        }
        column.not_run =
            all.iter().filter(|name| in_a_suite(name) && !store.0.contains_key(*name)).cloned().collect();
        column.conformance = Tally::of(store, all, Suite::Conformance);
        column.node_conformance = Tally::of(store, all, Suite::NodeConformance);
        column
    }

    pub(crate) fn tally(&self, suite: Suite) -> &Tally {
        match suite {
            Suite::Conformance => &self.conformance,
            Suite::NodeConformance => &self.node_conformance,
        }
    }

    /// What it says of each spec, to go on from on another machine.
    pub(crate) fn measured(&self, all: &BTreeSet<String>) -> BTreeMap<String, Measured> {
        let has = |list: &[String], name: &String| list.binary_search(name).is_ok();
        all.iter()
            .filter(|name| in_a_suite(name) && !has(&self.not_run, name))
            .map(|name| {
                let outcome = if has(&self.failed, name) {
                    Outcome::Failed
                } else if has(&self.skipped, name) {
                    Outcome::Skipped
                } else {
                    Outcome::Passed
                };
                let latest = When { commit: self.commit.clone(), date: self.date.clone() };
                let (When { commit, date }, fingerprint) = match self.older.get(name) {
                    Some(when) => (when.clone(), String::new()),
                    None => (latest, self.fingerprint.clone()),
                };
                let measured = Measured {
                    outcome,
                    message: self.reasons.get(name).cloned().unwrap_or_default(),
                    seconds: 0.0,
                    commit,
                    date,
                    fingerprint,
                    flaky: has(&self.flaky, name),
                };
                (name.clone(), measured)
            })
            .collect()
    }

    /// `None` where it was not measured.
    pub(crate) fn outcome(&self, name: &String) -> Option<Outcome> {
        if self.commit.is_empty() || self.not_run.binary_search(name).is_ok() {
            None
        } else if self.failed.binary_search(name).is_ok() {
            Some(Outcome::Failed)
        } else if self.skipped.binary_search(name).is_ok() {
            Some(Outcome::Skipped)
        } else {
            Some(Outcome::Passed)
        }
    }

    /// What it fails and upstream passes here.
    pub(crate) fn gap<'a>(&'a self, upstream: &Self) -> Vec<&'a String> {
        self.failed.iter().filter(|name| upstream.outcome(name) == Some(Outcome::Passed)).collect()
    }
}

fn in_a_suite(name: &str) -> bool {
    Suite::ALL.iter().any(|suite| suite.has(name))
}

/// Days are compared as text; on one day the commit of most counts as the newest.
fn newest<'a>(measured: impl Iterator<Item = &'a Measured>) -> Option<&'a Measured> {
    let mut by_commit: BTreeMap<&str, (&Measured, usize)> = BTreeMap::new();
    for measured in measured {
        let (newest, count) = by_commit.entry(&measured.commit).or_insert((measured, 0));
        if measured.date > newest.date {
            *newest = measured;
        }
        *count += 1;
    }
    by_commit
        .into_values()
        .max_by_key(|(measured, count)| (measured.date.clone(), *count))
        .map(|(measured, _)| measured)
}

impl Tally {
    fn of(store: &Store, all: &BTreeSet<String>, suite: Suite) -> Self {
        let mut tally = Self::default();
        for name in all.iter().filter(|name| suite.has(name)) {
            let outcome = store.outcome(name);
            tally.total.add(outcome);
            tally.by_sig.entry(sig(name).to_string()).or_default().add(outcome);
        }
        tally
    }
}

impl Results {
    /// Puts a column in the place of the one that was there.
    pub(crate) fn put(&mut self, target: &str, column: Column) {
        if column.date >= self.date {
            self.commit.clone_from(&column.commit);
            self.date.clone_from(&column.date);
        }
        self.columns.insert(target.to_string(), column);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measured::{Build, Ended};

    const PODS: &str = "[sig-node] Pods run [NodeConformance] [Conformance]";
    const PROBES: &str = "[sig-node] Probing [NodeConformance] [Conformance]";
    const DAEMONS: &str = "[sig-apps] Daemon set [Serial] [Conformance]";
    const OTHER: &str = "[sig-apps] of no suite";

    pub(crate) fn all() -> BTreeSet<String> {
        [PODS, PROBES, DAEMONS, OTHER].map(str::to_string).into()
    }

    pub(crate) fn store(outcomes: &[(&str, Outcome, &str)]) -> Store {
        let mut store = Store::default();
        for (name, outcome, commit) in outcomes {
            let ended = Ended { outcome: *outcome, message: "first\nsecond".into(), seconds: 1.0 };
            let build = Build { commit: commit.to_string(), fingerprint: format!("of {commit}") };
            store.keep(name, &ended, &build, if *commit == "old" { "2026-01-30" } else { "2026-01-31" });
        }
        store
    }

    pub(crate) fn results() -> Results {
        let mut results = Results::default();
        let ours = store(&[
            (PODS, Outcome::Passed, "new"),
            (PROBES, Outcome::Failed, "old"),
            (OTHER, Outcome::Failed, "new"),
        ]);
        results.put("coracle", Column::of(&ours, &all()));
        let theirs = store(&[
            (PODS, Outcome::Passed, "old"),
            (PROBES, Outcome::Passed, "old"),
            (DAEMONS, Outcome::Failed, "old"),
        ]);
        results.put("upstream", Column::of(&theirs, &all()));
        results
    }

    #[test]
    fn a_column_counts_what_is_known_and_what_is_not() {
        let column = &results().columns["coracle"];
        assert_eq!(column.conformance.total, Count { passed: 1, failed: 1, skipped: 0, not_run: 1 });
        assert_eq!(column.node_conformance.total, Count { passed: 1, failed: 1, skipped: 0, not_run: 0 });
        assert_eq!(column.conformance.by_sig["sig-apps"].not_run, 1);
        assert_eq!(column.not_run, [DAEMONS]);
        assert_eq!(column.reasons[PROBES], "first");
        assert_eq!((column.commit.as_str(), column.date.as_str()), ("new", "2026-01-31"));
        let when = When { commit: "old".into(), date: "2026-01-30".into() };
        assert_eq!(column.older, [(PROBES.to_string(), when)].into());
    }

    #[test]
    fn the_gap_is_what_upstream_passes_here_and_we_do_not() {
        let results = results();
        assert_eq!(results.columns["coracle"].gap(&results.columns["upstream"]), [PROBES]);
        assert!(results.columns["coracle"].gap(&Column::default()).is_empty(), "unknown is not passed");
    }

    #[test]
    fn a_column_is_taken_up_again_from_the_file() {
        let results = results();
        let text = serde_json::to_string(&results).unwrap();
        let read: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(read, results);
        assert_eq!(read.commit, "new");
        let column = &read.columns["coracle"];
        let mut store = Store::default();
        store.complete(column.measured(&all()));
        assert_eq!(Column::of(&store, &all()), *column);
    }
}
