//! SPDY/3.1 frames: bytes to frames and back. No IO.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// Names (lower case) and values of a stream.
pub type Headers = Vec<(String, String)>;

/// The last of its kind in one direction.
const FIN: u8 = 1;
const VERSION: u16 = 3;
const HEADER: usize = 8;
/// What a control frame may measure: they carry a handful of headers.
const MAX_CONTROL: usize = 1 << 16;
/// What a header block may measure when inflated.
const MAX_HEADERS: usize = 1 << 18;
/// What a data frame can measure: three bytes of length.
pub const MAX_DATA: usize = (1 << 24) - 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        stream: u32,
        associated: u32,
        priority: u8,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    SynReply {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        stream: u32,
        status: u32,
    },
    /// Pairs of (flags and id, value).
    Settings {
        entries: Vec<(u32, u32)>,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last_stream: u32,
        status: u32,
    },
    Headers {
        stream: u32,
        fin: bool,
        headers: Headers,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    Data {
        stream: u32,
        fin: bool,
        data: Bytes,
    },
    /// A control frame of a type that nobody knows: to be ignored.
    Unknown {
        kind: u16,
    },
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("SPDY version {0}, not 3")]
    Version(u16),
    #[error("a SPDY control frame of {0} bytes")]
    TooLong(usize),
    #[error("a SPDY frame of type {0} that is too short")]
    TooShort(u16),
    #[error("SPDY headers that cannot be read")]
    Headers,
}

/// Makes bytes of frames. Its compression has a memory: all frames of one direction go through one.
pub struct Encoder {
    compress: Compress,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Default for Encoder {
    fn default() -> Encoder {
        let mut compress = Compress::new(Compression::best(), true);
        // Fails only in the middle of a stream; were it to, the peer refuses the first headers.
        drop(compress.set_dictionary(&DICTIONARY));
        Encoder { compress }
    }
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        let (kind, flags) = match frame {
            Frame::Data { stream, fin, data } => return data_frame(*stream, *fin, data, out),
            Frame::SynStream { stream, associated, priority, fin, unidirectional, headers } => {
                body.put_u32(*stream);
                body.put_u32(*associated);
                body.put_u8(priority << 5);
                body.put_u8(0);
                self.headers(headers, &mut body);
                (1, u8::from(*fin) | (u8::from(*unidirectional) << 1))
            }
            Frame::SynReply { stream, fin, headers } => {
                body.put_u32(*stream);
                self.headers(headers, &mut body);
                (2, u8::from(*fin))
            }
            Frame::RstStream { stream, status } => {
                body.put_u32(*stream);
                body.put_u32(*status);
                (3, 0)
            }
            Frame::Settings { entries } => {
                body.put_u32(u32::try_from(entries.len()).unwrap_or_default());
                for (id, value) in entries {
                    body.put_u32(*id);
                    body.put_u32(*value);
                }
                (4, 0)
            }
            Frame::Ping { id } => {
                body.put_u32(*id);
                (6, 0)
            }
            Frame::GoAway { last_stream, status } => {
                body.put_u32(*last_stream);
                body.put_u32(*status);
                (7, 0)
            }
            Frame::Headers { stream, fin, headers } => {
                body.put_u32(*stream);
                self.headers(headers, &mut body);
                (8, u8::from(*fin))
            }
            Frame::WindowUpdate { stream, delta } => {
                body.put_u32(*stream);
                body.put_u32(*delta);
                (9, 0)
            }
            Frame::Unknown { kind } => (*kind, 0),
        };
        out.put_u16(0x8000 | VERSION);
        out.put_u16(kind);
        out.put_u8(flags);
        out.put_uint(body.len() as u64, 3);
        out.extend_from_slice(&body);
    }

    fn headers(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap_or_default());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap_or_default());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut input = plain.as_slice();
        let mut chunk = [0; 1024];
        loop {
            let (read, written) = (self.compress.total_in(), self.compress.total_out());
            let done = self.compress.compress(input, &mut chunk, FlushCompress::Sync).is_err();
            let read = usize::try_from(self.compress.total_in() - read).unwrap_or_default();
            let written = usize::try_from(self.compress.total_out() - written).unwrap_or_default();
            out.extend_from_slice(&chunk[..written]);
            input = &input[read..];
            // A chunk that was not filled ends a flush.
            if done || (input.is_empty() && written < chunk.len()) {
                return;
            }
        }
    }
}

fn data_frame(stream: u32, fin: bool, data: &Bytes, out: &mut BytesMut) {
    let mut rest = data.clone();
    loop {
        let piece = rest.split_to(rest.len().min(MAX_DATA));
        out.put_u32(stream & 0x7fff_ffff);
        out.put_u8(u8::from(fin && rest.is_empty()));
        out.put_uint(piece.len() as u64, 3);
        out.extend_from_slice(&piece);
        if rest.is_empty() {
            return;
        }
    }
}

/// Makes frames of bytes, as they come.
pub struct Decoder {
    decompress: Decompress,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { decompress: Decompress::new(true) }
    }
}

impl Decoder {
    /// Takes the next frame off `input`; `None` if it is not whole yet.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = input.first_chunk::<HEADER>() else { return Ok(None) };
        let control = head[0] & 0x80 != 0;
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if control && length > MAX_CONTROL {
            return Err(FrameError::TooLong(length));
        }
        if input.len() < HEADER + length {
            input.reserve(HEADER + length - input.len());
            return Ok(None);
        }
        let mut frame = input.split_to(HEADER + length).freeze();
        let word = frame.get_u32();
        let flags = frame.get_u8();
        frame.advance(3);
        if !control {
            return Ok(Some(Frame::Data { stream: word, fin: flags & FIN != 0, data: frame }));
        }
        let version = u16::try_from(word >> 16 & 0x7fff).unwrap_or_default();
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        self.control(u16::try_from(word & 0xffff).unwrap_or_default(), flags, frame).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let least = match kind {
            1 => 10,
            2 | 4 | 6 | 8 => 4,
            3 | 7 | 9 => 8,
            _ => return Ok(Frame::Unknown { kind }),
        };
        if body.len() < least {
            return Err(FrameError::TooShort(kind));
        }
        let fin = flags & FIN != 0;
        let first = body.get_u32();
        let stream = first & 0x7fff_ffff;
        Ok(match kind {
            1 => {
                let associated = body.get_u32() & 0x7fff_ffff;
                let priority = body.get_u8() >> 5;
                body.advance(1);
                let headers = self.headers(&body)?;
                Frame::SynStream {
                    stream,
                    associated,
                    priority,
                    fin,
                    unidirectional: flags & 2 != 0,
                    headers,
                }
            }
            2 => Frame::SynReply { stream, fin, headers: self.headers(&body)? },
            3 => Frame::RstStream { stream, status: body.get_u32() },
            4 => {
                let mut entries = Vec::new();
                while body.len() >= 8 {
                    entries.push((body.get_u32(), body.get_u32()));
                }
                Frame::Settings { entries }
            }
            6 => Frame::Ping { id: first },
            7 => Frame::GoAway { last_stream: stream, status: body.get_u32() },
            8 => Frame::Headers { stream, fin, headers: self.headers(&body)? },
            _ => Frame::WindowUpdate { stream, delta: body.get_u32() & 0x7fff_ffff },
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let count = number(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?;
            headers.push((name, text(&mut rest)?));
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut plain = Vec::new();
        let mut input = block;
        let mut chunk = [0; 1024];
        loop {
            let (read, written) = (self.decompress.total_in(), self.decompress.total_out());
            let step = self.decompress.decompress(input, &mut chunk, FlushDecompress::Sync);
            let read = usize::try_from(self.decompress.total_in() - read).unwrap_or_default();
            let written = usize::try_from(self.decompress.total_out() - written).unwrap_or_default();
            plain.extend_from_slice(&chunk[..written]);
            input = &input[read..];
            match step {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.decompress.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Headers)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Headers),
                Ok(Status::StreamEnd) => return Ok(plain),
                Ok(_) if plain.len() > MAX_HEADERS => return Err(FrameError::Headers),
                Ok(_) => {}
            }
            if written < chunk.len() && (input.is_empty() || read == 0) {
                return Ok(plain);
            }
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, FrameError> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(FrameError::Headers)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| FrameError::Headers)
}

fn text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let length = number(rest)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(FrameError::Headers)?;
    *rest = after;
    String::from_utf8(bytes.to_vec()).map_err(|_| FrameError::Headers)
}
