//! ReplicaSets and ReplicationControllers: keeps as many pods of a template as are asked for.
//!
//! ```text
//!   ReplicaSet, its pods and orphans ──▶ plan (claims, how many to create, which to delete) ──▶ apply
//!                                                       status ◀── counts, failures ◀────────────┘
//! ```
//!
//! Only `replicated.rs` knows that there are two kinds. A ReplicationController is seen as the ReplicaSet that asks for
//! the same, as upstream does it; it has a controller of its own, whose identity writes and whose name events bear.
//!
//! Invariants:
//! - Nothing is created or deleted while the cache lacks something that we wrote for this ReplicaSet.
//! - Creations begin with one and double with each batch that succeeds: a template that is refused is
//!   refused once, not a hundred times.
//! - Which pod goes first is upstream's order (`ranking.rs`).

mod apply;
mod plan;
mod ranking;
mod replicated;
mod status;
mod task;

pub(crate) use task::start;
