//! The schema of `results.json`.
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

use super::statistics::Series;

/// One run of the benchmark.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Results {
    pub(crate) run: Run,
    pub(crate) measurements: Vec<Measurement>,
    /// What this run should have measured and did not. Absent is not good: it is told in the table too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) missing: Vec<Missing>,
}

/// What was measured, and on what.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Run {
    pub(crate) commit: String,
    /// UTC, `2026-01-31`.
    pub(crate) date: String,
    pub(crate) cores: usize,
    #[serde(rename = "memoryGB")]
    pub(crate) memory_gb: u64,
    pub(crate) kernel: String,
    pub(crate) containerd: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Measurement {
    /// A name that stays, for comparing runs: `pod-create-to-ready`.
    pub(crate) name: String,
    /// A row's first cell.
    pub(crate) what: String,
    /// From where to where, with what: enough to measure the same thing elsewhere.
    pub(crate) how: String,
    pub(crate) unit: Unit,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aim: Option<Aim>,
    pub(crate) ours: Series,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) against: Option<Against>,
}

/// What the same work takes without us, or with upstream in our place: measured in the same run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Against {
    pub(crate) who: String,
    pub(crate) series: Series,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Unit {
    Milliseconds,
    /// Of 1,000,000 bytes.
    Megabytes,
    PerSecond,
    /// 1,000,000,000 bits in a second.
    GigabitsPerSecond,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::enum_variant_names, reason = "the words of results.json, which stay")]
pub(crate) enum Aim {
    /// The median is at most this, in the measurement's unit.
    AtMost(f64),
    /// The median is at most this many times the other side's.
    AtMostTimes(f64),
    /// The median is at least this many times the other side's.
    AtLeastTimes(f64),
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Missing {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// A measurement's place in the table, before its samples are there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Title {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) how: &'static str,
    pub(crate) unit: Unit,
    pub(crate) aim: Option<Aim>,
}

impl Title {
    /// `None` when there is no sample of ours: then there is no row.
    pub(crate) fn measured(self, ours: &[f64], against: Option<(&str, &[f64])>) -> Option<Measurement> {
        let against = against
            .and_then(|(who, samples)| Some(Against { who: who.to_string(), series: Series::of(samples)? }));
        Some(Measurement {
            name: self.name.to_string(),
            what: self.what.to_string(),
            how: self.how.to_string(),
            unit: self.unit,
            aim: self.aim,
            ours: Series::of(ours)?,
            against,
        })
    }
}

impl Measurement {
    /// How many times the other side's median ours is.
    pub(crate) fn ratio(&self) -> Option<f64> {
        let other = self.against.as_ref()?.series.median;
        (other > 0.0).then(|| self.ours.median / other)
    }

    /// `None` when there is no aim, or nothing to hold it against.
    pub(crate) fn met(&self) -> Option<bool> {
        Some(match self.aim? {
            Aim::AtMost(limit) => self.ours.median <= limit,
            Aim::AtMostTimes(limit) => self.ratio()? <= limit,
            Aim::AtLeastTimes(limit) => self.ratio()? >= limit,
        })
    }
}
