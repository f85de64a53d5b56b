//! Hosts for tests: network namespaces on one kernel, each with an address, a containerd and directories of its own.
//!
//! ```text
//!   namespace of the link: a bridge ─┬─ veth ─▶ host 1: 10.88.0.1, containerd, coracle up
//!                     10.88.0.254    └─ veth ─▶ host 2: 10.88.0.2, containerd, coracle node
//! ```
//!
//! Shared by the system tests, the benchmark and the conformance runs. Everything that a host starts ends with it, also when the test fails.

mod host;
mod link;
pub(crate) mod upstream;

pub(crate) use host::{Host, Started, text, tool};
pub(crate) use link::Link;
