//! Kubernetes objects we use, and pure rules about them.
//!
//! A leaf: no I/O, no clock, no threads. Everything here is a function of its arguments, in upstream's words:
//! the sentences that these rules answer with end up in API errors, events and conditions that clients compare.
//!
//! Objects are `k8s_openapi` types where a component holds them, and `serde_json::Value` where the API server does.

pub mod conditions;
pub mod constants;
pub mod duration;
pub mod int_or_string;
pub mod names;
pub mod node_affinity;
pub mod node_labels;
pub mod patch;
pub mod pods;
pub mod protobuf;
pub mod quantity;
mod quote;
pub mod references;
pub mod schema;
pub mod selector;
pub mod taints;
pub mod time;

pub use quote::quote;
