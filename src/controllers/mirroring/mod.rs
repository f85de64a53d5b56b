//! EndpointSlices for Endpoints that somebody made by hand: proxies and DNS read slices only.
//!
//! Invariants:
//! - Only Endpoints of a Service without selector are mirrored, and not those that say
//!   `endpointslice.kubernetes.io/skip-mirror` or are somebody's lock.

mod convert;
mod task;

pub(crate) use task::start;
