//! The schema of `results.json`, which is committed: a column for each target, made of what is known of each spec.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use serde::{Deserialize, Serialize};

use crate::{
    ginkgo_report::first_line,
    measured::{Measured, Outcome, Store},
    spec::{Suite, in_a_suite, sig},
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
    pub(crate) failed: BTreeSet<String>,
    /// The first line of why each failed or was skipped.
    pub(crate) reasons: BTreeMap<String, String>,
    pub(crate) skipped: BTreeSet<String>,
    /// Failed and passed, both of one build.
    pub(crate) flaky: BTreeSet<String>,
    /// Never measured.
    pub(crate) not_run: BTreeSet<String>,
    /// Of which list of tests it is, by that list's `digest`. Empty in a column that was written before there were any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) list: String,
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
    pub(crate) fn add(&mut self, outcome: Option<Outcome>) {
        match outcome {
            Some(Outcome::Passed) => self.passed += 1,
            Some(Outcome::Failed) => self.failed += 1,
            Some(Outcome::Skipped) => self.skipped += 1,
            None => self.not_run += 1,
        }
    }

    /// What was counted elsewhere.
    #[cfg(test)]
    pub(crate) fn take(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.not_run += other.not_run;
    }

    pub(crate) fn all(self) -> usize {
        self.passed + self.failed + self.skipped + self.not_run
    }
}

impl Column {
    /// Of those of `all` that belong to one of the two suites.
    pub(crate) fn of(store: &Store, all: &BTreeSet<String>) -> Self {
        let mut column = Self { list: digest(all), ..Self::default() };
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
                column.flaky.insert(name.clone());
            }
            let list = match measured.outcome {
                Outcome::Passed => continue,
                Outcome::Failed => &mut column.failed,
                Outcome::Skipped => &mut column.skipped,
            };
            list.insert(name.clone());
            column.reasons.insert(name.clone(), first_line(&measured.message));
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
        all.iter()
            .filter_map(|name| {
                let outcome = self.outcome(name)?;
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
                    flaky: self.flaky.contains(name),
                };
                Some((name.clone(), measured))
            })
            .collect()
    }

    /// `None` where it was not measured, as nothing outside the two suites is.
    pub(crate) fn outcome(&self, name: &String) -> Option<Outcome> {
        if self.commit.is_empty() || !in_a_suite(name) || self.not_run.contains(name) {
            None
        } else if self.failed.contains(name) {
            Some(Outcome::Failed)
        } else if self.skipped.contains(name) {
            Some(Outcome::Skipped)
        } else {
            Some(Outcome::Passed)
        }
    }

    /// What upstream passes here and this one fails or skips.
    pub(crate) fn gap<'a>(&'a self, upstream: &Self) -> BTreeSet<&'a String> {
        let passes = |name: &&String| upstream.outcome(name) == Some(Outcome::Passed);
        self.failed.union(&self.skipped).filter(passes).collect()
    }
}

/// Stands for the names of the two suites: columns of other names cannot be read or compared. FNV-1a, since nobody has
/// an interest in two lists of one digest.
pub(crate) fn digest(all: &BTreeSet<String>) -> String {
    let bytes = all.iter().filter(|name| in_a_suite(name)).flat_map(|name| name.bytes().chain([b'\n']));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
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
    /// An error if a column is of another list of tests than the one of this digest.
    pub(crate) fn are_of(&self, list: &str) -> anyhow::Result<()> {
        for (target, column) in &self.columns {
            ensure!(
                column.list.is_empty() || column.list == list,
                "the column {target} of tests/conformance/results.json is of other tests than e2e.test has now, so what is \
                 in none of its lists did not pass: take the column out of the file, then measure it anew \
                 (make conformance TARGET={target})"
            );
        }
        Ok(())
    }

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
        assert_eq!(column.not_run, [DAEMONS.to_string()].into());
        assert_eq!(column.reasons[PROBES], "first");
        assert_eq!((column.commit.as_str(), column.date.as_str()), ("new", "2026-01-31"));
        let when = When { commit: "old".into(), date: "2026-01-30".into() };
        assert_eq!(column.older, [(PROBES.to_string(), when)].into());
    }

    #[test]
    fn the_gap_is_what_upstream_passes_here_and_we_do_not() {
        let results = results();
        let (ours, upstream) = (&results.columns["coracle"], &results.columns["upstream"]);
        assert_eq!(ours.gap(upstream), [&PROBES.to_string()].into());
        assert!(ours.gap(&Column::default()).is_empty(), "unknown is not passed");
        let skips = store(&[(PODS, Outcome::Skipped, "new"), (DAEMONS, Outcome::Skipped, "new")]);
        let skips = Column::of(&skips, &all());
        assert_eq!(skips.gap(upstream), [&PODS.to_string()].into(), "whoever skips does not pass");
        assert_eq!(upstream.outcome(&OTHER.to_string()), None, "of no suite, in no list");
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
        store.complete(column.measured(&all()), &Build { commit: "x".into(), fingerprint: "x".into() });
        assert_eq!(Column::of(&store, &all()), *column);
    }

    #[test]
    fn a_column_of_other_tests_is_refused() {
        let mut results = results();
        assert!(results.are_of(&digest(&all())).is_ok());
        let mut more = all();
        more.insert("[sig-apps] of no suite either".into());
        assert!(results.are_of(&digest(&more)).is_ok(), "only names of the two suites count");
        more.insert("[sig-apps] Jobs run [Conformance]".into());
        let error = results.are_of(&digest(&more)).unwrap_err().to_string();
        assert!(error.contains("TARGET=coracle"), "{error}");
        results.columns.values_mut().for_each(|column| column.list.clear());
        assert!(results.are_of(&digest(&more)).is_ok(), "written before there were digests");
    }
}
