//! Garbage collection by owner references.
//!
//! ```text
//!   discovery ──▶ monitors (metadata only, of all that can be deleted) ──▶ graph ──▶ what changed and its kin
//!                                                                                        │
//!   API ◀── delete, drop references, drop finalizers ◀── plan (pure) ◀── observe ◀───────┘
//! ```
//!
//! - `monitor.rs`: which resources are watched; follows discovery.
//! - `graph.rs`: owners and dependents by UID. Names are never trusted: a successor of the same name is
//!   another object.
//! - `plan.rs`: what becomes of one object.
//!
//! Invariants:
//! - An object is deleted only if each of its owners is gone, or is being deleted in the foreground and
//!   waits for it. "Gone" is asked of the API, by UID, at the time: the graph alone is no proof.
//! - Finalizers that wait for dependents are removed only when every monitor has seen its resource.

mod apply;
mod graph;
mod monitor;
mod plan;
mod task;

pub(crate) use task::start;
