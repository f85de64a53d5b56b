//! Hosts for tests: network namespaces on one kernel, each with an address, a containerd and directories of its own.
//!
//! ```text
//!   namespace of the link: a bridge ─┬─ veth ─▶ host 1: 10.88.0.1, containerd, coracle up
//!                     10.88.0.254    └─ veth ─▶ host 2: 10.88.0.2, containerd, coracle node
//! ```
//!
//! Shared by the system tests, the benchmark and the conformance runs. Everything that a host starts ends with it, also when
//! the test fails.

mod host;
#[expect(clippy::allow_attributes, reason = "`expect` would be wrong where every part of it is used")]
#[allow(dead_code, reason = "the system tests do not listen: Ctrl-C ends them and their programs at once")]
pub(crate) mod interrupt;
mod link;
pub(crate) mod program;
pub(crate) mod upstream;

pub(crate) use host::{Host, text, tool};
pub(crate) use link::Link;
pub(crate) use program::Started;
