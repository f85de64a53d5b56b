//! Nodes that fall silent, and the pods on them.
//!
//! ```text
//!   Lease, status ──▶ health (how long silent) ──▶ plan ──▶ conditions Unknown, taints, pods not ready
//!                                                              │ NoExecute taints
//!   pods on tainted nodes ◀────────────────────────────────────┘
//!        └──▶ eviction: deleted when the last toleration runs out
//! ```
//!
//! Invariants:
//! - Silence is measured by our own clock from the moment we last saw a change: a node's wrong clock is
//!   no reason to evict, nor is a restart of ours.
//! - While no node at all is ready, nobody is evicted: it is more likely that we are cut off.
//! - Of many nodes that fail together, one is tainted for eviction every ten seconds.

mod eviction;
mod health;
mod plan;
mod task;

pub(crate) use task::start;
