//! DaemonSets: one pod of a template on every node that qualifies.
//!
//! ```text
//!   DaemonSet, its ControllerRevisions ──▶ history (which revision is the current one) ──▶ its hash
//!   nodes, pods, hash ──▶ survey (each node: its verdict, its pods) ──▶ plan (+ rolling) ──▶ apply
//!                                └──▶ status (counts) ──▶ publish
//! ```
//!
//! - `placement.rs`: whether a node runs a pod, may keep one or loses it; the pod for a node, which the scheduler binds.
//! - `history.rs`: ControllerRevisions, which `kubectl rollout history` and `undo` read.
//! - `rolling.rs`: which old pods make place, and which nodes get a second pod first.
//! - `failures.rs`: how long a node waits before a failed pod is replaced again.
//! - `nodes.rs`: which change of a node concerns which DaemonSets.
//!
//! Invariants:
//! - Nothing is created or deleted while the cache lacks something that we wrote for this DaemonSet.
//! - A rolling update takes no available pod beyond `maxUnavailable`, and adds no pod beyond `maxSurge`.
//! - A pod is as its revision's hash says: one that was made from the template that is rolled back to stays.

mod apply;
mod failures;
mod history;
mod nodes;
mod placement;
mod plan;
mod rolling;
#[cfg(test)]
mod simulation;
mod status;
mod survey;
mod task;

pub(crate) use task::start;
