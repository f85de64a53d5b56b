//! Pods that nobody else removes: finished ones beyond a number, those of nodes that are gone, and those
//! that were asked to go before they had a node.
//!
//! Invariant: a node counts as gone only after the API itself has said so, and after a quarantine in which
//! it may come back.

mod plan;
mod task;

pub(crate) use task::start;
