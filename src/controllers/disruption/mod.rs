//! How many pods of a PodDisruptionBudget may be evicted now, for the API server to give out.
//!
//! ```text
//!   budget ────────────────────────┐
//!   pod, workload ─▶ Labelled ─────┴▶ budgets that select ─▶ scales (what the owners want) ─▶ plan (pure) ─▶ status
//!   eviction, at the API server: takes one of disruptionsAllowed, notes the pod in disruptedPods ─▶ budget
//!
//!   pod that was told to go, but does not ─▶ stale (after two minutes) ─▶ the condition is taken back
//! ```
//!
//! Invariants:
//! - A status is written at the version that it was computed from: what the API server gave out meanwhile is
//!   never given out again.
//! - What cannot be computed allows nothing, and the condition says why.
//! - Nothing is done by the clock but what ends by the clock: an entry of disruptedPods, a stale condition.

mod plan;
mod scales;
mod stale;
mod task;

pub(crate) use task::start;
