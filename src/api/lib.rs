//! Kubernetes objects we use, and pure rules about them.
//!
//! A leaf: no I/O, no clock, no threads. Everything here is a function of its arguments, in upstream's words:
//! the sentences that these rules answer with end up in API errors, events and conditions that clients compare.
//!
//! Objects are `k8s_openapi` types where a component holds them, and `serde_json::Value` where the API server does.

pub mod names;
pub mod quantity;
mod quote;
pub mod selector;

pub use quote::quote;
