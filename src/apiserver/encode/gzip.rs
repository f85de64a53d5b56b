//! Compression of big bodies, for clients that take it.

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};

/// Bodies below this are sent as they are, as upstream.
pub const THRESHOLD: usize = 128 << 10;

/// Compresses chunks as they are asked for.
pub struct Gzip<I> {
    chunks: I,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

pub fn gzip<I: Iterator<Item = Bytes>>(chunks: I) -> Gzip<I> {
    Gzip { chunks, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
}

impl<I: Iterator<Item = Bytes>> Iterator for Gzip<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut encoder = self.encoder.take()?;
        for chunk in self.chunks.by_ref() {
            // Writing to memory does not fail; if it ever did, the body would end early and be noticed as broken.
            encoder.write_all(&chunk).ok()?;
            if !encoder.get_ref().is_empty() {
                let out = std::mem::take(encoder.get_mut());
                self.encoder = Some(encoder);
                return Some(out.into());
            }
        }
        encoder.finish().ok().map(Bytes::from)
    }
}

impl<I> std::fmt::Debug for Gzip<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gzip").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_compressed_can_be_read_again() {
        let text: Vec<Bytes> = (0..5000).map(|n| Bytes::from(format!("line {n} {}\n", n * n))).collect();
        let whole: Vec<u8> = text.iter().flatten().copied().collect();
        let packed: Vec<u8> = gzip(text.into_iter()).flatten().collect();
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut read).unwrap();
        assert_eq!(read, whole);
        assert!(packed.len() < whole.len());
    }
}
