//! The legacy Endpoints object of each Service: what clients that predate EndpointSlices read.
//!
//! Invariants:
//! - Endpoints of a Service without selector are somebody else's and are not touched.
//! - At most 1000 addresses; more are cut off and the object says so.

mod plan;
mod task;

pub(crate) use task::start;
