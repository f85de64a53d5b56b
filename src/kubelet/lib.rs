//! Runs pods on this node.

pub mod cgroups;
pub mod env;
pub mod pods;
pub mod probes;
pub mod runtime;
pub mod server;
pub mod status;
pub mod volumes;
pub mod worker;
