//! Runs pods: one task per pod.

pub mod ports;
