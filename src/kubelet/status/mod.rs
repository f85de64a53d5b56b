//! What the API shows of a pod: made from its spec and what was observed, published by one task for the node.
//!
//! ```text
//!   Pod, PodObservation, Readings, why starts failed ──▶ generate (pure) ──▶ PodStatus ──▶ publish ──PATCH──▶ API
//!                                                          │ containers.rs, phase.rs, conditions.rs
//! ```
//!
//! Invariants:
//! - A terminal phase is never left, and never published while a container may still run.
//! - Conditions that others own are left alone.

mod conditions;
mod containers;
mod generate;
mod patch;
mod phase;
mod publish;

pub use generate::{Generated, Inputs, generate};
pub use phase::is_terminal;
pub use publish::{Outbox, publish};

/// Why a container is not running, as `state.waiting` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}
