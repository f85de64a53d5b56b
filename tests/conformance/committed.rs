//! The files that are committed: what has to pass, what cannot, and the results with the page made of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::Context;

use crate::{ratchet, render, repository, results::Results};

const RESULTS: &str = "results.json";
const PAGE: &str = "RESULTS.md";
const PASSING: &str = "passing.txt";

const HEAD: &str = "Every test of upstream's two suites that has ever passed with everything ours. Names are only added:\n\
                    `make conformance` adds them, and a test compares this file with its whole history.";

fn path(name: &str) -> PathBuf {
    repository().join("tests/conformance").join(name)
}

fn read(name: &str) -> anyhow::Result<String> {
    fs::read_to_string(path(name)).with_context(|| path(name).display().to_string())
}

fn write(name: &str, text: &str) -> anyhow::Result<()> {
    write_file(&path(name), text)
}

/// Renamed into place: whoever is killed meanwhile leaves the old file.
pub(crate) fn write_file(file: &Path, text: &str) -> anyhow::Result<()> {
    let part = file.with_extension("part");
    fs::write(&part, text)
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("write {}", file.display()))
}

/// Nobody else changes the files until this is dropped.
pub(crate) fn lock() -> anyhow::Result<File> {
    let folder = File::open(path("")).context("lock tests/conformance")?;
    folder.lock().context("lock tests/conformance")?;
    Ok(folder)
}

pub(crate) fn ci() -> anyhow::Result<BTreeSet<String>> {
    Ok(ratchet::names(&read("ci.txt")?))
}

pub(crate) fn passing() -> anyhow::Result<BTreeSet<String>> {
    Ok(ratchet::names(&read(PASSING)?))
}

pub(crate) fn write_passing(names: &BTreeSet<String>) -> anyhow::Result<()> {
    write(PASSING, &ratchet::file(HEAD, names))
}

pub(crate) fn limits() -> anyhow::Result<BTreeMap<String, String>> {
    Ok(ratchet::limits(&read("limits.txt")?))
}

pub(crate) fn results() -> anyhow::Result<Results> {
    serde_json::from_str(&read(RESULTS)?).context("read results.json")
}

pub(crate) fn write_results(results: &Results) -> anyhow::Result<()> {
    write(RESULTS, &(serde_json::to_string_pretty(results)? + "\n"))
}

/// The page alone, without a run.
pub(crate) fn write_page_anew() -> anyhow::Result<()> {
    let _lock = lock()?;
    write_page()
}

/// The page is made from what the file says, not from what this process remembers.
pub(crate) fn write_page() -> anyhow::Result<()> {
    write(PAGE, &render::page(&results()?, &limits()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        history,
        measured::Outcome,
        results::{Column, Count},
        spec::Suite,
    };

    /// The gate's part may change, and does not shrink unseen.
    const LEAST_OF_CI: usize = 300;

    #[test]
    fn no_name_ever_leaves_passing_txt() {
        let history = history::of(&path(""), PASSING).unwrap();
        let lost = ratchet::lost(&history, &passing().unwrap());
        assert!(
            lost.is_empty(),
            "tests/conformance/passing.txt has lost names; what passed once has to pass: {lost:#?}"
        );
    }

    #[test]
    fn what_has_to_pass_does() {
        let results = results().unwrap();
        let ours = &results.columns["coracle"];
        let passing = passing().unwrap();
        let others = [&ours.failed, &ours.skipped, &ours.not_run].into_iter().flatten();
        let broken: Vec<_> = others.filter(|name| passing.contains(*name)).collect();
        assert!(broken.is_empty(), "in passing.txt, and did not pass: {broken:#?}");
    }

    #[test]
    fn what_ci_runs_is_some_of_what_passes() {
        let (passing, ci) = (passing().unwrap(), ci().unwrap());
        let strangers: Vec<_> = ci.difference(&passing).collect();
        assert!(strangers.is_empty(), "in ci.txt and not in passing.txt: {strangers:#?}");
        assert!(ci.len() >= LEAST_OF_CI, "ci.txt names {} tests, and is to name {LEAST_OF_CI}", ci.len());
    }

    #[test]
    fn a_limit_of_the_machine_is_one_of_upstreams_too() {
        let (results, passing, ci) = (results().unwrap(), passing().unwrap(), ci().unwrap());
        let upstream = results.columns.get("upstream").cloned().unwrap_or_default();
        for (name, cause) in limits().unwrap() {
            assert!(!cause.is_empty(), "limits.txt names no cause: {name}");
            assert_eq!(upstream.outcome(&name), Some(Outcome::Failed), "upstream does not fail it: {name}");
            assert!(!passing.contains(&name) && !ci.contains(&name), "it has to pass: {name}");
        }
    }

    #[test]
    fn the_page_is_made_of_the_results() {
        let page = render::page(&results().unwrap(), &limits().unwrap());
        assert!(
            page == read(PAGE).unwrap(),
            "tests/conformance/RESULTS.md is not what results.json and limits.txt say; to write it anew: \
             cargo run -p conformance page"
        );
    }

    #[test]
    fn a_column_is_of_commits() {
        for (target, column) in results().unwrap().columns {
            let commits = column.older.values().map(|when| &when.commit).chain([&column.commit]);
            let changed: Vec<_> = commits.filter(|commit| commit.contains(' ')).collect();
            assert!(
                changed.is_empty(),
                "{target} was measured with sources that nobody else has: {changed:?}"
            );
        }
    }

    #[test]
    fn counts_are_those_of_the_lists() {
        for (target, column) in results().unwrap().columns {
            for suite in Suite::ALL {
                let (tally, of) = (column.tally(suite), |list: &BTreeSet<String>| {
                    list.iter().filter(|name| suite.has(name)).count()
                });
                let listed = (of(&column.failed), of(&column.skipped), of(&column.not_run));
                let Count { failed, skipped, not_run, .. } = tally.total;
                assert_eq!((failed, skipped, not_run), listed, "{target} {suite:?}");
                let mut sum = Count::default();
                tally.by_sig.values().for_each(|count| sum.take(*count));
                assert_eq!(sum, tally.total, "{target} {suite:?}");
            }
        }
    }

    #[test]
    fn all_columns_are_of_one_list_of_tests() {
        let results = results().unwrap();
        let lists: BTreeSet<_> =
            results.columns.values().map(|column| &column.list).filter(|list| !list.is_empty()).collect();
        assert!(lists.len() < 2, "results.json has columns of several lists of tests: {lists:?}");
        let sizes = |column: &Column| Suite::ALL.map(|suite| column.tally(suite).total.all());
        let sizes: BTreeSet<_> = results.columns.values().map(sizes).collect();
        assert!(sizes.len() < 2, "results.json has columns of several lists of tests: {sizes:?}");
    }
}
