//! Frames over a connection.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{Decoder, Encoder, Frame};

const READ: usize = 32 * 1024;

#[derive(Debug)]
pub struct FrameReader<R> {
    from: R,
    decoder: Decoder,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(from: R) -> FrameReader<R> {
        FrameReader { from, decoder: Decoder::default(), buffer: BytesMut::with_capacity(READ) }
    }

    /// `None` at the end. Nothing is lost when it is dropped while it waits.
    ///
    /// # Errors
    /// When the connection fails, ends within a frame, or carries something else than SPDY.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            let decoded = self.decoder.decode(&mut self.buffer);
            if let Some(frame) = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                let whole = self.buffer.is_empty();
                return if whole { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }
}

#[derive(Debug)]
pub struct FrameWriter<W> {
    to: W,
    encoder: Encoder,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(to: W) -> FrameWriter<W> {
        FrameWriter { to, encoder: Encoder::default(), buffer: BytesMut::new() }
    }

    /// # Errors
    /// When the connection fails.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.buffer.clear();
        self.encoder.encode(frame, &mut self.buffer);
        self.to.write_all(&self.buffer).await?;
        self.to.flush().await
    }

    /// # Errors
    /// When the connection fails.
    pub async fn close(&mut self) -> io::Result<()> {
        self.to.shutdown().await
    }
}
