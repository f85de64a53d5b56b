//! Deployments: moves from one template to the next through ReplicaSets, one per revision.
//!
//! ```text
//!   Deployment, its ReplicaSets, their pods ──▶ plan ──▶ ReplicaSets to create, write, delete ──▶ apply
//!                                                 └────▶ status, revision annotation ─────────────▶ publish
//! ```
//!
//! - `revisions.rs`: which ReplicaSet is the new one; revision numbers and annotations, which
//!   `kubectl rollout history` and `undo` read.
//! - `scale.rs`: how many replicas each ReplicaSet gets: rolling, recreating, proportionally.
//! - `status.rs`: conditions and progress.
//!
//! Invariants:
//! - While rolling, all ReplicaSets together are never asked for more than `replicas + maxSurge`, and
//!   never so few are kept that fewer than `replicas - maxUnavailable` stay available.
//! - A ReplicaSet's name follows from its template: planning twice cannot create two.

mod apply;
mod plan;
mod revisions;
mod scale;
#[cfg(test)]
mod simulation;
mod status;
mod task;

pub(crate) use task::start;
