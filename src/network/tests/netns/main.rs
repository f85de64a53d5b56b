//! The network against the real kernel, each test on a host that is a network namespace of its own. Needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod agent;
mod bench;
mod builtin;
mod chain;
mod nodes;
mod support;
