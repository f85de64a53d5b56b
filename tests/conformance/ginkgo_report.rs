//! The report that ginkgo writes when a suite ends, read into how each spec ended.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde::Deserialize;

use crate::measured::{Ended, Outcome};

/// What of the report matters here; see `types.Report` of ginkgo v2.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
    #[serde(default)]
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    end_time: String,
    /// Nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// What a report tells.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Told {
    pub(crate) ended: BTreeMap<String, Ended>,
    /// Those that were under way when the suite was ended.
    pub(crate) cut_short: BTreeSet<String>,
    /// Why the suite itself failed, before or beside its specs.
    pub(crate) complaints: Vec<String>,
}

/// Reads the text of a `report.json`. It lists specs that were not chosen too; of those nothing is told.
pub(crate) fn read(text: &str) -> anyhow::Result<Told> {
    let suites: Vec<Suite> = serde_json::from_str(text).context("read ginkgo's report")?;
    let mut told = Told::default();
    for suite in suites {
        told.complaints.extend(suite.special_suite_failure_reasons.unwrap_or_default());
        for spec in suite.spec_reports.unwrap_or_default() {
            told.take(spec);
        }
    }
    Ok(told)
}

impl Told {
    fn take(&mut self, spec: Spec) {
        let message = spec.failure.map(|failure| failure.message).unwrap_or_default();
        if spec.leaf_node_type != "It" {
            // What is to be ready before all specs: without it none of them runs.
            if ["failed", "panicked", "timedout"].contains(&spec.state.as_str()) {
                self.complaints.push(format!("{}: {message}", spec.leaf_node_type));
            }
            return;
        }
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let name = words.join(" ").trim_end().to_string();
        let outcome = match spec.state.as_str() {
            "passed" => Outcome::Passed,
            // Go's zero time: it never ran. It was not among the chosen, or the suite was ended before; then it has a
            // time when it began nevertheless.
            "skipped" if spec.end_time.is_empty() || spec.end_time.starts_with("0001-") => return,
            "skipped" => Outcome::Skipped,
            "interrupted" | "aborted" => {
                self.cut_short.insert(name);
                return;
            }
            "pending" => return,
            _ => Outcome::Failed,
        };
        self.ended.insert(name, Ended { outcome, message, seconds: spec.run_time as f64 / 1e9 });
    }
}

/// What a person is told of a failure: its first line, and the next one where the first only leads to it.
pub(crate) fn first_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut line = lines.next().unwrap_or("nothing was said").to_string();
    // Gomega announces a value by a colon, Go's errors by their type.
    for next in lines.take(3) {
        if !line.ends_with([':', '{']) {
            break;
        }
        line.push(' ');
        line.push_str(next);
    }
    if line.contains("/kubectl ") {
        line = nameless(&line);
    }
    const LONGEST: usize = 300;
    if line.chars().count() > LONGEST {
        line = line.chars().take(LONGEST).chain(['…']).collect();
    }
    line
}

/// A command of kubectl without where that is on this machine, which is nobody else's.
fn nameless(command: &str) -> String {
    let words = command.split_whitespace().filter(|word| !word.starts_with("--kubeconfig="));
    words.map(|word| if word.ends_with("/kubectl") { "kubectl" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecialSuiteFailureReasons": ["Interrupted by User"], "SpecReports": [
        {"LeafNodeType": "SynchronizedBeforeSuite", "LeafNodeText": "", "State": "passed"},
        {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "run [Conformance]",
         "State": "passed", "StartTime": "2026-01-31T01:02:03Z", "RunTime": 2500000000},
        {"ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "stop",
         "State": "timedout", "StartTime": "2026-01-31T01:02:03Z", "RunTime": 1, "Failure": {"Message": "too late"}},
        {"ContainerHierarchyTexts": null, "LeafNodeType": "It", "LeafNodeText": "hangs",
         "State": "interrupted", "StartTime": "2026-01-31T01:02:03Z", "RunTime": 1},
        {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "unfit",
         "State": "skipped", "EndTime": "2026-01-31T01:02:03Z", "Failure": {"Message": "one node only"}},
        {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "not chosen",
         "State": "skipped", "EndTime": "0001-01-01T00:00:00Z"},
        {"ContainerHierarchyTexts": [], "LeafNodeType": "It", "LeafNodeText": "not come to",
         "State": "skipped", "StartTime": "2026-01-31T01:02:03Z", "EndTime": "0001-01-01T00:00:00Z"}]}]"#;

    #[test]
    fn every_spec_that_began_ended_somehow() {
        let told = read(REPORT).unwrap();
        let outcomes: Vec<_> = told
            .ended
            .iter()
            .map(|(name, ended)| (name.as_str(), ended.outcome, ended.message.as_str()))
            .collect();
        assert_eq!(
            outcomes,
            [
                ("[sig-node] Pods run [Conformance]", Outcome::Passed, ""),
                ("[sig-node] Pods stop", Outcome::Failed, "too late"),
                ("unfit", Outcome::Skipped, "one node only"),
            ]
        );
        assert_eq!(told.ended["[sig-node] Pods run [Conformance]"].seconds, 2.5);
        assert_eq!(told.cut_short, ["hangs".to_string()].into());
        assert_eq!(told.complaints, ["Interrupted by User"]);
    }

    #[test]
    fn a_suite_that_does_not_start_says_why() {
        let report = r#"[{"SpecReports": [{"LeafNodeType": "SynchronizedBeforeSuite", "State": "failed",
            "Failure": {"Message": "no nodes"}}]}]"#;
        let told = read(report).unwrap();
        assert_eq!(told.complaints, ["SynchronizedBeforeSuite: no nodes"]);
        assert!(read("[{").is_err());
    }

    #[test]
    fn a_command_is_told_without_this_machines_paths() {
        let message = "error running /a/b/kubectl --server=https://c --kubeconfig=/d/e get rc:\nno such kind";
        assert_eq!(first_line(message), "error running kubectl --server=https://c get rc: no such kind");
    }

    #[test]
    fn a_line_that_leads_to_another_takes_it_along() {
        assert_eq!(first_line("\nno such pod\nmore"), "no such pod");
        assert_eq!(
            first_line("Unexpected error:\n    <*errors.X>: \n  not found\n{"),
            "Unexpected error: <*errors.X>: not found"
        );
        assert_eq!(first_line(""), "nothing was said");
        assert_eq!(first_line(&"x".repeat(400)).chars().count(), 301);
    }
}
