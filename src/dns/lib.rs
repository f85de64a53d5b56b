//! Cluster DNS: the names of Services, endpoints and pods, by Kubernetes' DNS specification 1.1.0.
//!
//! ```text
//!   message ──respond──▶ is it ours? ──yes──▶ zone (pure): Services, slices, Namespaces ─▶ Answer ─▶ reply
//!                            └──────no──▶ forward: replies kept for a while, upstream resolvers ───▶ reply
//! ```
//!
//! - `zone/` says what names mean; `wire.rs` and `resolv.rs` read what others wrote; all of them are pure.
//! - `clients.rs` knows for whom: strangers are answered the cluster's names alone.
//! - `forward/` asks upstream resolvers; `serve.rs` has the sockets; `observe.rs` the shared read cache.
//! - `publish/` keeps the Service kube-system/kube-dns and the slice that leads to us, until somebody takes it over.
//!
//! Invariants:
//! - No object is copied, and no name is made before it is asked for: what changes costs nothing here but its place in
//!   an index.
//! - Before the objects were listed once, the cluster's names are answered SERVFAIL: an unknown is not an absence.
//! - What waits for others has a bound and a deadline, and does not hold up what is answered from memory.
//! - A name of the cluster is never asked of anybody else, and nobody is asked who would ask us.

mod clients;
mod forward;
mod observe;
mod publish;
mod resolv;
mod respond;
mod serve;
mod task;
#[cfg(test)]
mod tests;
mod wire;
pub mod zone;

use k8s_openapi::api::discovery::v1::EndpointSlice;

pub use task::{Config, DnsError, run};

/// The label that names a slice's Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

pub(crate) fn service_name(slice: &EndpointSlice) -> Option<&str> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME).map(String::as_str)
}
