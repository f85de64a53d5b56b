//! A series of samples and what it comes to.
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

/// Samples in the order in which they were taken, with their median and their extremes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Series {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) samples: Vec<f64>,
}

impl Series {
    /// `None` when there is no sample: nothing was measured, which is not zero.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        // Three decimals: a microsecond, a thousandth of a megabyte. More would be noise in the file.
        let samples: Vec<f64> = samples.iter().map(|sample| (sample * 1000.0).round() / 1000.0).collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Self { median: median(&sorted)?, min: *sorted.first()?, max: *sorted.last()?, samples })
    }
}

/// The middle one of a sorted slice, or the mean of the two in the middle.
fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    Some(if sorted.len() % 2 == 1 { *upper } else { f64::midpoint(sorted[middle - 1], *upper) })
}
