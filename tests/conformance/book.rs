//! What is known of each spec of a target: read from a file outside the repository and from what is committed, written
//! to the one after every spec, and to the other at the end of a run.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use crate::{
    committed::{self, write_file},
    hosts::tool,
    identity,
    measured::{Build, Ended, Measured, Outcome, Store},
    ratchet::{self, Trouble},
    render,
    results::{Column, digest},
    spec::in_a_suite,
    target::Target,
};

pub(crate) struct Book {
    pub(crate) target: Target,
    pub(crate) build: Build,
    pub(crate) store: Store,
    file: PathBuf,
    today: String,
    /// Debian's runtime is older than what the committed numbers are of: what is measured with it stays here.
    on_debians_runtime: bool,
    /// Held as long as this: two runs of one target would overwrite each other's file.
    _lock: File,
}

impl Book {
    /// Goes on from what an earlier run wrote here, or from what was committed.
    pub(crate) fn open(target: Target, all: &BTreeSet<String>) -> anyhow::Result<Self> {
        let on_debians_runtime = env::var("RUNTIME").is_ok_and(|runtime| runtime == "debian");
        let name = if on_debians_runtime { format!("{target}-debian") } else { target.to_string() };
        let cache = tool("CONFORMANCE_CACHE");
        let lock = lock(&cache.join(format!("{name}.lock")), target)?;
        let (build, file) = (identity::build(target)?, cache.join(format!("{name}.json")));
        let mut store = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| file.display().to_string())?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Store::default(),
            Err(error) => return Err(error).with_context(|| file.display().to_string()),
        };
        let results = committed::results()?;
        results.are_of(&digest(all))?;
        if let Some(column) = results.columns.get(target.name()).filter(|_| !on_debians_runtime) {
            store.complete(column.measured(all), &build);
        }
        let today = identity::today();
        Ok(Self { target, build, store, file, today, on_debians_runtime, _lock: lock })
    }

    pub(crate) fn keep(&mut self, name: &str, ended: &Ended) -> anyhow::Result<()> {
        self.store.keep(name, ended, &self.build, &self.today);
        self.write()
    }

    pub(crate) fn keep_flake(&mut self, name: &str) -> anyhow::Result<()> {
        self.store.keep_flake(name);
        self.write()
    }

    fn write(&self) -> anyhow::Result<()> {
        write_file(&self.file, &serde_json::to_string_pretty(&self.store)?)
    }

    /// What to print of those that were asked for.
    pub(crate) fn wanted(&self, wanted: &BTreeSet<String>) -> anyhow::Result<String> {
        let (results, limits) = (committed::results()?, committed::limits()?);
        let upstream =
            results.columns.get(Target::Upstream.name()).filter(|_| self.target != Target::Upstream);
        let measured = wanted.iter().map(|name| (name, self.of_this_build(name))).collect();
        Ok(render::wanted(self.target, &measured, upstream, &limits))
    }

    /// What to print of all that is known of the target.
    pub(crate) fn summary(&self, all: &BTreeSet<String>) -> anyhow::Result<String> {
        let (results, limits) = (committed::results()?, committed::limits()?);
        let upstream = results.columns.get(Target::Upstream.name());
        Ok(render::summary(self.target, &Column::of(&self.store, all), upstream, &limits))
    }

    /// Writes `results.json`, the page made from it and, with everything ours, `passing.txt`.
    pub(crate) fn commit(&self, all: &BTreeSet<String>) -> anyhow::Result<()> {
        if self.on_debians_runtime {
            return Ok(());
        }
        let _lock = committed::lock()?;
        let mut results = committed::results()?;
        results.are_of(&digest(all))?;
        results.put(self.target.name(), Column::of(&self.store, all));
        committed::write_results(&results)?;
        committed::write_page()?;
        if self.target == Target::Coracle {
            let mut passing = committed::passing()?;
            passing.extend(self.promised(all)?);
            committed::write_passing(&passing)?;
        }
        Ok(())
    }

    fn promised(&self, all: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
        let known: Vec<(&String, &Measured)> = all
            .iter()
            .filter(|name| in_a_suite(name))
            .filter_map(|name| Some((name, self.store.0.get(name)?)))
            .collect();
        let commits: BTreeSet<&str> = known.iter().map(|(_, measured)| measured.commit.as_str()).collect();
        let mut ours = BTreeSet::new();
        for commit in commits {
            if identity::is_behind_head(commit)? {
                ours.insert(commit);
            }
        }
        let promises = |measured: &Measured| {
            measured.is_a_promise()
                && (measured.fingerprint == self.build.fingerprint || ours.contains(measured.commit.as_str()))
        };
        Ok(known
            .into_iter()
            .filter(|(_, measured)| promises(measured))
            .map(|(name, _)| name.clone())
            .collect())
    }

    /// Those of what was wanted that are not as they have to be: at the gate, and where it was promised, passed.
    pub(crate) fn bad(
        &self,
        wanted: &BTreeSet<String>,
        gate: bool,
    ) -> anyhow::Result<BTreeMap<String, Trouble>> {
        let must_pass = self.must_pass(wanted, gate)?;
        let limits = committed::limits()?;
        let trouble = |name: &String| {
            ratchet::trouble(self.outcome(name), must_pass.contains(name), limits.contains_key(name))
        };
        Ok(wanted.iter().filter_map(|name| Some((name.clone(), trouble(name)?))).collect())
    }

    pub(crate) fn must_pass(
        &self,
        wanted: &BTreeSet<String>,
        gate: bool,
    ) -> anyhow::Result<BTreeSet<String>> {
        Ok(match self.target {
            Target::Coracle if gate => wanted.clone(),
            Target::Coracle => committed::passing()?,
            _ => BTreeSet::new(),
        })
    }

    fn outcome(&self, name: &str) -> Option<Outcome> {
        self.of_this_build(name).map(|measured| measured.outcome)
    }

    fn of_this_build(&self, name: &str) -> Option<&Measured> {
        self.store.0.get(name).filter(|measured| measured.is_of(&self.build))
    }
}

fn lock(path: &Path, target: Target) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another run of TARGET={target} is under way; it holds {}", path.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_one_runs_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.lock");
        let held = lock(&path, Target::Node).unwrap();
        let error = lock(&path, Target::Node).unwrap_err().to_string();
        assert!(error.contains("another run of TARGET=node"), "{error}");
        drop(held);
        assert!(lock(&path, Target::Node).is_ok());
    }
}
