//! The channels of a remote command in WebSocket messages (`v4.channel.k8s.io`, `v5.channel.k8s.io`): the first byte
//! of each message says which stream it belongs to.

use bytes::{BufMut, Bytes, BytesMut};

/// With this one, a client can end its stdin.
pub const V5: &str = "v5.channel.k8s.io";
pub const V4: &str = "v4.channel.k8s.io";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
    /// A `metav1.Status` in JSON, once, at the end.
    Error,
    /// The terminal's size in JSON.
    Resize,
}

impl Channel {
    pub fn byte(self) -> u8 {
        match self {
            Channel::Stdin => 0,
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::Error => 3,
            Channel::Resize => 4,
        }
    }

    fn of(byte: u8) -> Option<Channel> {
        [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Error, Channel::Resize]
            .into_iter()
            .find(|channel| channel.byte() == byte)
    }

    /// The value of `streamType` in SPDY.
    pub fn stream_type(self) -> &'static str {
        match self {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Error => "error",
            Channel::Resize => "resize",
        }
    }
}

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Data(Channel, Bytes),
    /// Nothing more comes on this channel.
    Close(Channel),
    /// Of a channel that nobody knows, or empty: to be ignored.
    Unknown,
}

const CLOSE: u8 = 255;

pub fn read(mut message: Bytes) -> Message {
    if message.is_empty() {
        return Message::Unknown;
    }
    let byte = message.split_to(1)[0];
    if byte == CLOSE {
        let closed = message.first().and_then(|byte| Channel::of(*byte));
        return closed.map_or(Message::Unknown, Message::Close);
    }
    Channel::of(byte).map_or(Message::Unknown, |channel| Message::Data(channel, message))
}

pub fn write(channel: Channel, data: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(data.len() + 1);
    message.put_u8(channel.byte());
    message.extend_from_slice(data);
    message.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_says_the_channel() {
        for (bytes, message) in [
            (&b"\x00ls\n"[..], Message::Data(Channel::Stdin, Bytes::from_static(b"ls\n"))),
            (b"\x04{}", Message::Data(Channel::Resize, Bytes::from_static(b"{}"))),
            (b"\xff\x00", Message::Close(Channel::Stdin)),
            (b"\xff", Message::Unknown),
            (b"\x09x", Message::Unknown),
            (b"", Message::Unknown),
        ] {
            assert_eq!(read(Bytes::from_static(bytes)), message);
        }
        assert_eq!(write(Channel::Stderr, b"no").as_ref(), b"\x02no");
    }
}
