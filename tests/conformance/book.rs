//! The files: what is known of each spec of a target, outside the and what of it is committed.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{
    hosts::tool,
    identity,
    measured::{Build, Ended, Outcome, Store},
    ratchet::{self, limits},
    render, repository,
    results::{Column, Results},
    spec::Suite,
    target::Target,
};

const HEAD: &str = "Every test of upstream's two suites that has ever passed with everything ours. Names are only added:\n\
                    `make conformance` adds them, and a test compares this file with its whole history.";

pub(crate) struct Book {
    pub(crate) target: Target,
    pub(crate) build: Build,
    pub(crate) store: Store,
    file: PathBuf,
    today: String,
    /// Debian's runtime is older than what the committed numbers are of: what is measured with it stays here.
    on_debians_runtime: bool,
}

fn committed(name: &str) -> PathBuf {
    repository().join("tests/conformance").join(name)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

pub(crate) fn ci() -> anyhow::Result<BTreeSet<String>> {
    Ok(ratchet::names(&read(&committed("ci.txt"))?))
}

pub(crate) fn passing() -> anyhow::Result<BTreeSet<String>> {
    Ok(ratchet::names(&read(&committed("passing.txt"))?))
}

fn results() -> anyhow::Result<Results> {
    serde_json::from_str(&read(&committed("results.json"))?).context("read results.json")
}

impl Book {
    /// Goes on from what an earlier run wrote here, or from what was committed.
    pub(crate) fn open(target: Target, all: &BTreeSet<String>) -> anyhow::Result<Self> {
        let on_debians_runtime = env::var("RUNTIME").is_ok_and(|runtime| runtime == "debian");
        let name =
            if on_debians_runtime { format!("{target}-debian.json") } else { format!("{target}.json") };
        let file = tool("CONFORMANCE_CACHE").join(name);
        let mut store = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Store::default(),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        if let Some(column) = results()?.columns.get(target.name()).filter(|_| !on_debians_runtime) {
            store.complete(column.measured(all));
        }
        Ok(Self {
            target,
            build: identity::build(target)?,
            store,
            file,
            today: identity::today(),
            on_debians_runtime,
        })
    }

    pub(crate) fn keep(&mut self, name: &str, ended: &Ended) -> anyhow::Result<()> {
        self.store.keep(name, ended, &self.build, &self.today);
        self.write()
    }

    pub(crate) fn keep_flake(&mut self, name: &str) -> anyhow::Result<()> {
        self.store.keep_flake(name);
        self.write()
    }

    /// Renamed into place: whoever is killed meanwhile leaves the old file.
    fn write(&self) -> anyhow::Result<()> {
        let part = self.file.with_extension("part");
        fs::write(&part, serde_json::to_string_pretty(&self.store)?).context("keep what is known")?;
        fs::rename(&part, &self.file).context("keep what is known")
    }

    /// What to print at the end.
    pub(crate) fn summary(&self, all: &BTreeSet<String>) -> anyhow::Result<String> {
        let (results, limits) = (results()?, limits(&read(&committed("limits.txt"))?));
        let upstream = results.columns.get(Target::Upstream.name());
        Ok(render::summary(self.target, &Column::of(&self.store, all), upstream, &limits))
    }

    /// Writes `results.json`, the page made from it and, with everything ours, `passing.txt`.
    pub(crate) fn commit(&self, all: &BTreeSet<String>) -> anyhow::Result<()> {
        if self.on_debians_runtime {
            return Ok(());
        }
        let mut results = results()?;
        results.put(self.target.name(), Column::of(&self.store, all));
        let file = committed("results.json");
        fs::write(&file, serde_json::to_string_pretty(&results)? + "\n").context("write results.json")?;
        let limits = limits(&read(&committed("limits.txt"))?);
        fs::write(committed("RESULTS.md"), render::page(&self::results()?, &limits))
            .context("write RESULTS.md")?;
        if self.target == Target::Coracle {
            let mut passing = passing()?;
            passing.extend(all.iter().filter(|name| self.promises(name)).cloned());
            fs::write(committed("passing.txt"), ratchet::file(HEAD, &passing))
                .context("write passing.txt")?;
        }
        Ok(())
    }

    /// What a flake does is no promise.
    fn promises(&self, name: &str) -> bool {
        let passed =
            |name| self.store.0.get(name).is_some_and(|spec| spec.outcome == Outcome::Passed && !spec.flaky);
        Suite::ALL.iter().any(|suite| suite.has(name)) && passed(name)
    }

    /// Those that failed though neither upstream nor anybody else has an excuse.
    pub(crate) fn failed(&self, wanted: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
        let limits = limits(&read(&committed("limits.txt"))?);
        let failed =
            |name: &&String| self.store.outcome(name) == Some(Outcome::Failed) && !limits.contains_key(*name);
        Ok(wanted.iter().filter(failed).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn no_name_ever_leaves_passing_txt() {
        let output = Command::new("git")
            .current_dir(committed(""))
            .args(["log", "--format=commit %h", "-p", "--unified=0", "--", "passing.txt"])
            .output()
            .unwrap();
        assert!(output.status.success(), "git log: {}", String::from_utf8_lossy(&output.stderr));
        let lost = ratchet::lost(&String::from_utf8(output.stdout).unwrap(), &passing().unwrap());
        assert!(
            lost.is_empty(),
            "tests/conformance/passing.txt has lost names; what passed once has to pass: {lost:#?}"
        );
    }

    #[test]
    fn what_ci_runs_is_some_of_what_passes() {
        let (passing, ci) = (passing().unwrap(), ci().unwrap());
        let strangers: Vec<_> = ci.difference(&passing).collect();
        assert!(strangers.is_empty(), "in ci.txt and not in passing.txt: {strangers:#?}");
    }

    #[test]
    fn a_limit_of_the_machine_is_one_of_upstreams_too() {
        let results = results().unwrap();
        let upstream = results.columns.get("upstream").cloned().unwrap_or_default();
        for (name, cause) in limits(&read(&committed("limits.txt")).unwrap()) {
            assert!(!cause.is_empty(), "limits.txt names no cause: {name}");
            // Where upstream was not measured yet, nothing is known; where it was, it has to fail too.
            assert_ne!(upstream.outcome(&name), Some(Outcome::Passed), "upstream passes it: {name}");
        }
    }
}
