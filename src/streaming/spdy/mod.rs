//! SPDY/3.1, as far as remote commands use it: streams that are opened once, and data on them.
//!
//! Windows are read and ignored, as by everybody who speaks this dialect (`moby/spdystream`): the transport's own flow
//! control is all there is.

mod dictionary;
mod frame;
mod io;
#[cfg(test)]
mod tests;

pub use frame::{Decoder, Encoder, Frame, FrameError, Headers, MAX_DATA};
pub use io::{FrameReader, FrameWriter};
