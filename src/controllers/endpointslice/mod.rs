//! EndpointSlices: which pods serve a Service, in pieces of at most 100.
//!
//! ```text
//!   Service, its pods, their nodes ──convert──▶ wanted endpoints by ports ──slicing──▶ create / update / delete
//! ```
//!
//! - `convert.rs`: one pod as one endpoint.
//! - `slicing.rs`: the smallest change of slices that holds the wanted endpoints; also for mirrored
//!   Endpoints (`mirroring/`).
//!
//! Invariants:
//! - Slices that are not managed by us, and those of another Service of the same name, are not touched
//!   (ours of a dead Service are removed).
//! - Nothing is planned while the cache lacks what we wrote for this Service.

pub(crate) mod apply;
pub(crate) mod convert;
pub(crate) mod selection;
pub(crate) mod slicing;
mod task;

pub(crate) use task::start;
