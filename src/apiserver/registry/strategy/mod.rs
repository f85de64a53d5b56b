//! What is particular to each kind: defaults, validation, status reset, warnings.
//!
//! A kind is a [`rules::Rules`] value: a table of the few functions that it has. Only Services, which depend on the
//! cluster's address families, are a strategy of their own. All of it is pure.
//!
//! ```text
//!   fill.rs      writing defaults         at.rs        reading a place, with its path
//!   meta.rs      labels and selectors     findings.rs  what is wrong, in the API's words
//! ```

pub mod addresses;
pub mod at;
pub mod certificate;
pub mod config;
pub mod daemon_set;
pub mod device;
pub mod endpoints;
pub mod event;
pub mod fill;
pub mod findings;
pub mod job;
pub mod meta;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod rbac;
pub mod replication_controller;
pub mod revision;
pub mod rules;
pub mod service;
pub mod small;
pub mod stateful_set;
pub mod volume;
pub mod workload;
