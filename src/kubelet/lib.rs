//! Runs pods on this node.

pub mod cgroups;
pub mod clock;
pub mod config;
pub mod env;
pub mod events;
pub mod images;
pub mod pods;
pub mod probes;
mod resources;
pub mod runtime;
pub mod server;
pub mod status;
pub mod volumes;
pub mod worker;
