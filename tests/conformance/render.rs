//! The results in words: the table that a run ends with, and the page that is made from `results.json`.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use crate::{
    ginkgo_report::first_line,
    measured::{Measured, Outcome},
    results::{Column, Count, Results},
    spec::{Suite, sig},
    target::Target,
};

/// Causes of what cannot be passed on this machine, by name.
type Limits = BTreeMap<String, String>;

/// How those ended that somebody asked for, whichever suite they are of.
pub(crate) fn wanted(
    target: Target,
    wanted: &BTreeMap<&String, Option<&Measured>>,
    upstream: Option<&Column>,
    limits: &Limits,
) -> String {
    let mut text = String::new();
    let (mut by_sig, mut total) = (BTreeMap::<&str, Count>::new(), Count::default());
    for (name, measured) in wanted {
        let outcome = measured.map(|measured| measured.outcome);
        by_sig.entry(sig(name)).or_default().add(outcome);
        total.add(outcome);
    }
    line(&mut text, &format!("{target}, the {} that were asked for", wanted.len()));
    for (sig, count) in by_sig.into_iter().chain([("all", total)]) {
        line(&mut text, &format!("  {sig:<24} {}", counted(count)));
    }
    for (name, measured) in wanted.iter().filter_map(|(name, measured)| Some((*name, (*measured)?))) {
        let what = match measured.outcome {
            Outcome::Passed if measured.flaky => "FLAKE, failed and passed",
            Outcome::Passed => continue,
            Outcome::Failed => "failed",
            Outcome::Skipped => "skipped",
        };
        line(&mut text, &format!("{what}: {name}"));
        if measured.outcome != Outcome::Passed {
            line(&mut text, &format!("    {}", first_line(&measured.message)));
            about_it(&mut text, name, upstream, limits);
        }
    }
    text
}

/// What others have to say of a spec that did not pass.
fn about_it(text: &mut String, name: &String, upstream: Option<&Column>, limits: &Limits) {
    match upstream.and_then(|upstream| upstream.outcome(name)) {
        Some(Outcome::Passed) => line(text, "    upstream passes it here"),
        Some(Outcome::Failed) => line(text, "    upstream fails it here too"),
        Some(Outcome::Skipped) => line(text, "    upstream skips it here"),
        None => {}
    }
    if let Some(cause) = limits.get(name) {
        line(text, &format!("    {cause}"));
    }
}

/// All that is known of one target. `upstream` is its column, if it was ever measured.
pub(crate) fn summary(target: Target, column: &Column, upstream: Option<&Column>, limits: &Limits) -> String {
    let mut text = String::new();
    for suite in Suite::ALL {
        let tally = column.tally(suite);
        line(&mut text, &format!("{target} {}", suite.tag()));
        let rows = tally.by_sig.iter().map(|(sig, count)| (sig.as_str(), count));
        for (sig, count) in rows.chain([("all", &tally.total)]) {
            line(&mut text, &format!("  {sig:<24} {}", counted(*count)));
        }
    }
    line(&mut text, &format!("measured at {}; the suite and kubelets speak JSON", column.commit));
    if !column.older.is_empty() {
        line(
            &mut text,
            &format!("{} of them at other commits (results.json names them)", column.older.len()),
        );
    }
    for name in &column.flaky {
        line(&mut text, &format!("FLAKE, failed and passed: {name}"));
    }
    if target == Target::Upstream {
        for name in &column.failed {
            let cause = limits.get(name).map_or("its cause is not known", String::as_str);
            line(&mut text, &format!("failed: {name}\n    {}\n    {cause}", reason(column, name)));
        }
        return text;
    }
    match upstream {
        None => line(&mut text, "upstream was not measured here: make conformance TARGET=upstream"),
        Some(upstream) => gap(&mut text, column, upstream, limits),
    }
    text
}

fn gap(text: &mut String, column: &Column, upstream: &Column, limits: &Limits) {
    let gap = column.gap(upstream);
    line(
        text,
        &match gap.len() {
            0 => "no gap: whatever was measured and upstream passes here, passes".to_string(),
            count => {
                format!("the gap, {count} that upstream passes here, failed or skipped, by what they say:")
            }
        },
    );
    for (said, names) in by_reason(column, gap.iter().copied()) {
        line(text, &format!("  {} × {said}", names.len()));
        for name in names {
            line(text, &format!("      {name}"));
        }
    }
    for name in column.failed.iter().filter(|name| !gap.contains(name)) {
        let why = if limits.contains_key(name) {
            "a limit of this machine"
        } else {
            "upstream does not pass it here"
        };
        line(text, &format!("failed, {why}: {name}"));
    }
}

/// The page. It says nothing that the file does not.
pub(crate) fn page(results: &Results, limits: &Limits) -> String {
    let mut page = String::from(
        "# Conformance\n\nUpstream's own e2e suite (Kubernetes 1.36.3) on two hosts of one kernel. This page is made from `results.json` by\n\
         `make conformance`; CONTRIBUTING.md says how to run it. The suite, kubelets and kube-proxies speak JSON on every target.\n\n",
    );
    let columns: Vec<(Target, &Column)> = Target::ALL
        .into_iter()
        .filter_map(|target| Some((target, results.columns.get(target.name())?)))
        .collect();
    page.push_str("| target | | Conformance | NodeConformance | commit | date |\n| --- | --- | --- | --- | --- | --- |\n");
    for (target, column) in &columns {
        let [conformance, node] = Suite::ALL.map(|suite| share(column.tally(suite).total));
        let older = match column.older.len() {
            0 => String::new(),
            count => format!(", {count} at others"),
        };
        line(
            &mut page,
            &format!(
                "| {target} | {} | {conformance} | {node} | {}{older} | {} |",
                target.described(),
                column.commit,
                column.date
            ),
        );
    }
    for suite in Suite::ALL {
        by_sig(&mut page, suite, &columns);
    }
    for (target, column) in &columns {
        failures(&mut page, *target, column, results.columns.get(Target::Upstream.name()));
    }
    if !limits.is_empty() {
        page.push_str("\n## Limits of the machine\n\nUpstream fails these here too.\n\n");
        for (name, cause) in limits {
            line(&mut page, &format!("- `{name}`: {cause}"));
        }
    }
    page
}

fn by_sig(page: &mut String, suite: Suite, columns: &[(Target, &Column)]) {
    let sigs: BTreeSet<&String> =
        columns.iter().flat_map(|(_, column)| column.tally(suite).by_sig.keys()).collect();
    let heads: String = columns.iter().map(|(target, _)| format!(" {target} |")).collect();
    let rule = " --- |".repeat(columns.len());
    line(
        page,
        &format!(
            "\n## {} by SIG\n\nPassed of all; in brackets what was skipped and what never ran.\n\n| SIG |{heads}\n| --- |{rule}",
            suite.tag()
        ),
    );
    for sig in sigs {
        let cells: String = columns
            .iter()
            .map(|(_, column)| column.tally(suite).by_sig.get(sig).copied().unwrap_or_default())
            .map(|count| format!(" {} |", share(count)))
            .collect();
        line(page, &format!("| {sig} |{cells}"));
    }
}

fn failures(page: &mut String, target: Target, column: &Column, upstream: Option<&Column>) {
    if column.failed.is_empty() && column.skipped.is_empty() && column.flaky.is_empty() {
        return;
    }
    line(page, &format!("\n## What {target} does not pass\n"));
    let (failed, skipped) = (column.failed.len(), column.skipped.len());
    let of_gap = upstream.filter(|_| target != Target::Upstream).map(|upstream| column.gap(upstream).len());
    let gap = of_gap.map(|gap| format!("; upstream passes {gap} of them here (the gap)")).unwrap_or_default();
    line(page, &format!("{failed} failed, {skipped} skipped{gap}.\n"));
    for (what, list) in [("", &column.failed), ("skipped, ", &column.skipped)] {
        for (said, names) in by_reason(column, list) {
            line(page, &format!("- {what}{} × `{}`", names.len(), said.replace('`', "'")));
            for name in names {
                line(page, &format!("  - {name}"));
            }
        }
    }
    for name in &column.flaky {
        line(page, &format!("- flaky: {name}"));
    }
}

/// Those that say the same, but for names and numbers, the most frequent first.
fn by_reason<'a>(
    column: &Column,
    names: impl IntoIterator<Item = &'a String>,
) -> Vec<(String, Vec<&'a String>)> {
    let mut groups: BTreeMap<String, (String, Vec<&String>)> = BTreeMap::new();
    for name in names {
        let said = reason(column, name);
        let (_, of_it) = groups.entry(likeness(said)).or_insert_with(|| (said.to_string(), Vec::new()));
        of_it.push(name);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|(said, names)| (usize::MAX - names.len(), said.clone()));
    groups
}

/// A line without what differs from run to run: words with digits in them, and what is quoted.
fn likeness(line: &str) -> String {
    let unquoted: String = line.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let words = unquoted
        .split_whitespace()
        .map(|word| if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn reason<'a>(column: &'a Column, name: &String) -> &'a str {
    column.reasons.get(name).map_or("nothing was said", String::as_str)
}

fn counted(count: Count) -> String {
    let Count { passed, failed, skipped, not_run } = count;
    let mut text = format!("{passed:4} passed {failed:4} failed {skipped:4} skipped");
    if not_run > 0 {
        write!(text, " {not_run:4} not run").ok();
    }
    text
}

/// `150 of 250 (3 skipped, 5 not run)`.
fn share(count: Count) -> String {
    let rest: Vec<String> = [(count.skipped, "skipped"), (count.not_run, "not run")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let share = format!("{} of {}", count.passed, count.all());
    if rest.is_empty() { share } else { format!("{share} ({})", rest.join(", ")) }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::{results, store};

    #[test]
    fn a_run_ends_with_counts_by_sig_and_the_gap() {
        let results = results();
        let text = summary(
            Target::Coracle,
            &results.columns["coracle"],
            results.columns.get("upstream"),
            &Limits::new(),
        );
        for expected in [
            "coracle [Conformance]\n  sig-apps                    0 passed    0 failed    0 skipped    1 not run\n",
            "  all                         1 passed    1 failed    0 skipped    1 not run\n",
            "the gap, 1 that upstream passes here, failed or skipped",
            "  1 × first\n      [sig-node] Probing [NodeConformance] [Conformance]\n",
            "speak JSON",
            "1 of them at other commits",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn upstreams_failures_come_with_their_causes() {
        let results = results();
        let name = results.columns["upstream"].failed.first().unwrap();
        let limits = [(name.clone(), "no such link".to_string())].into();
        let text = summary(Target::Upstream, &results.columns["upstream"], None, &limits);
        assert!(text.contains("no such link"), "{text}");
        assert!(page(&results, &limits).contains(&format!("- `{name}`: no such link")));
    }

    #[test]
    fn the_page_has_a_column_for_each_target_that_was_measured() {
        let page = page(&results(), &Limits::new());
        assert!(
            page.contains(
                "| coracle | all ours | 1 of 3 (1 not run) | 1 of 2 | new, 1 at others | 2026-01-31 |"
            ),
            "{page}"
        );
        assert!(
            page.contains(
                "| SIG | coracle | upstream |\n| --- | --- | --- |\n| sig-apps | 0 of 1 (1 not run) | 0 of 1 |"
            ),
            "{page}"
        );
        assert!(page.contains("1 failed, 0 skipped; upstream passes 1 of them here (the gap).\n"), "{page}");
        assert!(!page.contains("control-plane |"), "{page}");
    }

    #[test]
    fn a_run_tells_first_of_what_was_asked_for() {
        let (probes, other) =
            ("[sig-node] Probing [NodeConformance] [Conformance]", "[sig-apps] of no suite");
        let store = store(&[(probes, Outcome::Failed, "new"), (other, Outcome::Skipped, "new")]);
        let names = [probes, other, "[sig-apps] never ran"].map(str::to_string);
        let asked = names.iter().map(|name| (name, store.0.get(name))).collect();
        let results = results();
        let limits = [(probes.to_string(), "no such link".to_string())].into();
        let text = wanted(Target::Coracle, &asked, results.columns.get("upstream"), &limits);
        for expected in [
            "coracle, the 3 that were asked for\n",
            "  sig-apps                    0 passed    0 failed    1 skipped    1 not run\n",
            "  all                         0 passed    1 failed    1 skipped    1 not run\n",
            "failed: [sig-node] Probing [NodeConformance] [Conformance]\n    first\n    upstream passes it here\n    no such link\n",
            "skipped: [sig-apps] of no suite\n    first\n",
        ] {
            assert!(text.contains(expected), "{expected:?} in\n{text}");
        }
    }

    #[test]
    fn what_is_skipped_is_counted_and_listed() {
        let mut results = results();
        let skips =
            store(&[("[sig-node] Pods run [NodeConformance] [Conformance]", Outcome::Skipped, "new")]);
        results.put("node", Column::of(&skips, &crate::results::tests::all()));
        let page = page(&results, &Limits::new());
        assert!(page.contains("0 of 2 (1 skipped, 1 not run)"), "{page}");
        assert!(page.contains("- skipped, 1 × `first`\n  - [sig-node] Pods run"), "{page}");
    }

    #[test]
    fn failures_that_say_the_same_are_one_group() {
        assert_eq!(likeness("pod \"pod-1\" after 300.01s: no"), likeness("pod \"other\" after 12s: no"));
        assert_ne!(likeness("not found"), likeness("not ready"));
    }
}
