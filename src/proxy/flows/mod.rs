//! UDP flows that the kernel still sends where their Service does not lead any more.
//!
//! A connection is translated as its first packet was, for as long as packets come: a UDP client that never pauses would
//! talk to an endpoint that is gone, or to nobody at all if it began before the Service had rules, for ever.
//! `plan.rs` says when to look and which flows are stale; `apply.rs` looks and forgets them.
//!
//! Invariants:
//! - Judged by level: a flow is held against what its Service leads to now, whatever happened in between.
//! - Only flows to addresses and node ports of our Services are forgotten, and only those that lead elsewhere.
//! - The kernel's table is read only after a UDP port changed such that a flow could have become stale.

mod apply;
mod plan;

pub use apply::{FlowsError, forget};
pub use plan::{Flows, Leads};
