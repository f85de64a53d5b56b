//! The report as text for a terminal.
#![deny(clippy::disallowed_methods)]

use super::plan::Report;
use crate::words::{columns, count};

#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = format!("Kubernetes {}\n\n", report.version);
    text +=
        &columns(&["NODE", "STATUS", "ADDRESS", "PODS", "CPU", "MEMORY", "RUNTIME", "AGE"], &report.nodes);
    text.push('\n');
    if report.pods.is_empty() {
        text += "No pods yet.\n";
    } else {
        text += &columns(&["POD", "READY", "STATUS", "RESTARTS", "IP", "NODE", "AGE"], &report.pods);
    }
    text.push('\n');
    text += &columns(&["SERVICE", "TYPE", "ADDRESS", "PORTS", "READY"], &report.services);
    text.push('\n');
    if report.unhealthy.is_empty() {
        text += "Nothing is unhealthy.\n";
    } else {
        text += &format!("{} unhealthy:\n", count(report.unhealthy.len(), "thing"));
        for sentence in &report.unhealthy {
            text += &format!("  - {sentence}\n");
        }
    }
    text
}
