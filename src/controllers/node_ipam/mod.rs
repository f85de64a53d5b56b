//! Gives each node its share of the cluster's pod addresses (`spec.podCIDRs`).
//!
//! Invariants:
//! - Two nodes never get the same range: what any node holds is taken, whoever gave it.
//! - A range is given once and never changed.

mod plan;
mod task;

pub use plan::CidrError;
pub(crate) use task::start;
