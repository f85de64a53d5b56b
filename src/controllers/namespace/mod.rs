//! The end of a namespace: everything in it is deleted, then the namespace itself is let go.
//!
//! ```text
//!   Terminating ──▶ discover ──▶ pods ──gone──▶ everything else ──gone──▶ finalize
//!                                  └── some left: conditions say what, look again ──┘
//! ```
//!
//! Invariants:
//! - The namespace is finalized only when every resource was listed and found empty: a group that does
//!   not answer holds it.
//! - Pods go first: they may still need the Secrets and policies of their namespace while they end.

mod apply;
mod status;
mod task;

pub(crate) use task::start;
