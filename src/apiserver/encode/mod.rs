//! Objects as bytes: how they are stored, how they are answered.
//!
//! Stored JSON begins with `{"kind":…,"apiVersion":…,"metadata":{`, and has no resourceVersion: that is the
//! store's revision, and is spliced in once when the bytes come back.

pub mod accept;
pub mod gzip;
pub mod list;
pub mod object;
pub mod partial;
mod strings;
pub mod table;
