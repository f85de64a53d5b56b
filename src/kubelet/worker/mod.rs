//! Runs pods: one task per pod.

pub mod backoff;
pub mod plan;
pub mod ports;
pub mod state;
