//! Whole clusters, as a user runs them: real containerd, real kernel, real kubectl. Needs root.
//!
//! `make test` runs these one after another, with the programs that they need built before
//! (`CORACLE_BIN`, `CORACLE_KUBECTL`, `CORACLE_IMAGES`).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../hosts/mod.rs"]
mod hosts;

mod chain;
mod dns;
mod kubectl;
mod machines;
mod outages;
mod parts;
mod pods;
mod resilience;
mod up_down;
mod upstream;

/// One step of a long scenario on one cluster, and what it is called.
type Step = (&'static str, fn(&hosts::Host));
