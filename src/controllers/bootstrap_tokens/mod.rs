//! Bootstrap tokens: each signs what `kube-public/cluster-info` says of the cluster, so that a joining machine can trust
//! it, and is removed when its time is over.
//!
//! Invariants:
//! - Only the signatures of a token that may still be used stand in `cluster-info`.
//! - A Secret without an end is never removed, and nothing but a bootstrap token is.

mod plan;
mod task;

pub(crate) use task::start;
