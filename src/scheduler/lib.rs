//! Places pods on nodes.
//!
//! ```text
//!   nodes, pods, namespaces ──changes──▶ Cluster ──┐
//!                     pending pods ──▶ Queue ──pop──┴─▶ plan (pure) ──▶ assume ──▶ binding ──▶ API
//!                          ▲                             │                            │
//!                          │                      Unschedulable                 failed, expired
//!                          └──── back-off, or until a change may help ◀───────────────┘
//! ```
//!
//! - `plan.rs` decides, over `filter.rs`, `spread.rs`, `affinity.rs` (may it?) and `score.rs` (should it?).
//! - `cluster.rs` is what we believe, `queue.rs` who waits for what; both are pure and take `now`.
//! - `task.rs` is the loop, `apply.rs` writes bindings, conditions and events.
//!
//! Invariants:
//! - No plan exceeds what a node has: bound and assumed pods both count.
//! - A pod that asks for something that is not implemented waits, and its condition says for what.
//! - Nothing is placed before nodes, pods and namespaces have been listed: what is not known is not absent.

mod affinity;
mod amounts;
mod apply;
mod cluster;
mod config;
mod diagnosis;
mod filter;
mod node;
mod plan;
#[cfg(test)]
mod plan_tests;
mod pod;
mod queue;
mod score;
mod spread;
mod task;
#[cfg(test)]
mod testing;

pub use amounts::Amounts;
pub use cluster::{Cluster, Removed};
pub use config::Config;
pub use diagnosis::{Diagnosis, Preemption, Reason, Rejection, Unschedulable};
pub use node::{NodeFacts, NodeInfo};
pub use plan::plan;
pub use pod::PodInfo;
pub use task::run;
