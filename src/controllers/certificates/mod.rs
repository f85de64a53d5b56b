//! Certificate signing requests: approved where the requestor may have them without a person, signed when
//! approved, removed when old.
//!
//! Invariants:
//! - A request is signed only if it obeys its signer's rules, whoever approved it.
//! - A node's serving certificate is approved only for the node's own name and addresses.

mod plan;
mod task;

pub(crate) use task::start;
