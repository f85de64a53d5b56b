//! The channels of a remote command in WebSocket messages: the first byte of each message says which stream it belongs
//! to. Clients know several forms of this, each by the name of a subprotocol.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use tokio_tungstenite::tungstenite;

use crate::websocket::Form;

/// What kubelets and runtimes are asked to speak in their SPDY streams.
pub const V4: &str = "v4.channel.k8s.io";

/// A subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// Empty for that of clients that name none.
    pub name: &'static str,
    /// In text, the channel is a digit.
    form: Form,
    /// A `metav1.Status` comes at the end in any case; else only the words of a failure do.
    tells_status: bool,
    /// The client can end its stdin.
    ends_input: bool,
}

impl Protocol {
    const OLDEST: Protocol =
        Protocol { name: "channel.k8s.io", form: Form::Bytes, tells_status: false, ends_input: false };

    /// The best first. The last is for clients that name none.
    pub const ALL: [Protocol; 6] = [
        Protocol { name: "v5.channel.k8s.io", tells_status: true, ends_input: true, ..Protocol::OLDEST },
        Protocol { name: V4, tells_status: true, ..Protocol::OLDEST },
        Protocol {
            name: "v4.base64.channel.k8s.io",
            form: Form::Text,
            tells_status: true,
            ..Protocol::OLDEST
        },
        Protocol::OLDEST,
        Protocol { name: "base64.channel.k8s.io", form: Form::Text, ..Protocol::OLDEST },
        Protocol { name: "", ..Protocol::OLDEST },
    ];

    /// `None`: the client offers others only.
    pub fn choose<'a>(offered: impl Iterator<Item = &'a str>) -> Option<Protocol> {
        let offered: Vec<&str> = offered.collect();
        let fits =
            |known: &Protocol| offered.contains(&known.name) || known.name.is_empty() && offered.is_empty();
        Protocol::ALL.into_iter().find(fits)
    }

    /// What a client says in a message.
    pub fn read(self, mut message: Bytes) -> Message {
        if message.is_empty() {
            return Message::Unknown;
        }
        let byte = message.split_to(1)[0];
        if self.ends_input && byte == CLOSE {
            let closed = message.first().and_then(|byte| Channel::of(*byte));
            return closed.map_or(Message::Unknown, Message::Close);
        }
        let (channel, data) = match self.form {
            Form::Bytes => (Channel::of(byte), Some(message)),
            Form::Text => {
                let digit = byte.checked_sub(b'0');
                (digit.and_then(Channel::of), STANDARD.decode(&message).ok().map(Bytes::from))
            }
        };
        channel.zip(data).map_or(Message::Unknown, |(channel, data)| Message::Data(channel, data))
    }

    pub fn write(self, channel: Channel, data: &[u8]) -> tungstenite::Message {
        match self.form {
            Form::Bytes => {
                let mut message = BytesMut::with_capacity(data.len() + 1);
                message.put_u8(channel.byte());
                message.extend_from_slice(data);
                tungstenite::Message::Binary(message.freeze())
            }
            Form::Text => {
                let text = format!("{}{}", channel.byte(), STANDARD.encode(data));
                tungstenite::Message::Text(text.into())
            }
        }
    }

    /// How the command has ended, from its Status in JSON. `None`: this client hears nothing of a success.
    pub fn write_end(self, status: &[u8]) -> Option<tungstenite::Message> {
        if self.tells_status {
            return Some(self.write(Channel::Error, status));
        }
        let read: Value = serde_json::from_slice(status).unwrap_or_default();
        let words = read["message"].as_str().map_or(status, str::as_bytes);
        (read["status"] != "Success").then(|| self.write(Channel::Error, words))
    }
}

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

/// What a client has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Data(Channel, Bytes),
    /// Nothing more comes on this channel.
    Close(Channel),
    /// Of a channel that nobody knows, or empty: to be ignored.
    Unknown,
}

const CLOSE: u8 = 255;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(name: &str) -> Protocol {
        Protocol::choose((!name.is_empty()).then_some(name).into_iter()).unwrap()
    }

    #[test]
    fn the_best_that_both_know_is_spoken() {
        let chosen = |offered: &[&str]| Protocol::choose(offered.iter().copied()).map(|it| it.name);
        assert_eq!(chosen(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        assert_eq!(chosen(&["channel.k8s.io"]), Some("channel.k8s.io"));
        assert_eq!(chosen(&[]), Some(""));
        assert_eq!(chosen(&["v6.channel.k8s.io"]), None);
    }

    #[test]
    fn the_first_byte_says_the_channel() {
        let data = |channel, text: &'static str| Message::Data(channel, Bytes::from_static(text.as_bytes()));
        for (name, bytes, message) in [
            ("v5.channel.k8s.io", &b"\x00ls\n"[..], data(Channel::Stdin, "ls\n")),
            ("v5.channel.k8s.io", b"\x04{}", data(Channel::Resize, "{}")),
            ("v5.channel.k8s.io", b"\xff\x00", Message::Close(Channel::Stdin)),
            ("v5.channel.k8s.io", b"\xff", Message::Unknown),
            ("v5.channel.k8s.io", b"\x09x", Message::Unknown),
            ("v5.channel.k8s.io", b"", Message::Unknown),
            ("v4.channel.k8s.io", b"\xff\x00", Message::Unknown),
            ("", b"\x00ls", data(Channel::Stdin, "ls")),
            ("base64.channel.k8s.io", b"0bHM=", data(Channel::Stdin, "ls")),
            ("v4.base64.channel.k8s.io", b"0!", Message::Unknown),
            ("v4.base64.channel.k8s.io", b"\x00bHM=", Message::Unknown),
        ] {
            assert_eq!(named(name).read(Bytes::from_static(bytes)), message, "{name} {bytes:?}");
        }
        let binary = tungstenite::Message::Binary(b"\x02no".as_slice().into());
        assert_eq!(named("channel.k8s.io").write(Channel::Stderr, b"no"), binary);
        let text = tungstenite::Message::Text("2bm8=".into());
        assert_eq!(named("base64.channel.k8s.io").write(Channel::Stderr, b"no"), text);
    }

    #[test]
    fn older_clients_hear_only_of_failures() {
        let (good, bad) = (br#"{"status":"Success"}"#, br#"{"status":"Failure","message":"exit code 1"}"#);
        let old = named("channel.k8s.io");
        assert_eq!(old.write_end(good), None);
        assert_eq!(old.write_end(bad), Some(old.write(Channel::Error, b"exit code 1")));
        let new = named("v4.channel.k8s.io");
        assert_eq!(new.write_end(good), Some(new.write(Channel::Error, good)));
    }

    const CHANNELS: [Channel; 5] =
        [Channel::Stdin, Channel::Stdout, Channel::Stderr, Channel::Error, Channel::Resize];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read(
            protocol in prop::sample::select(Protocol::ALL.to_vec()),
            channel in prop::sample::select(CHANNELS.to_vec()),
            data in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let read = protocol.read(protocol.write(channel, &data).into_data());
            prop_assert_eq!(read, Message::Data(channel, data.into()));
        }

        #[test]
        fn any_message_is_read_and_any_status_is_an_end(
            protocol in prop::sample::select(Protocol::ALL.to_vec()),
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            if let Message::Data(channel, data) = protocol.read(bytes.clone().into()) {
                prop_assert_eq!(protocol.write(channel, &data).into_data(), bytes.clone());
            }
            if let Some(end) = protocol.write_end(&bytes) {
                prop_assert!(matches!(protocol.read(end.into_data()), Message::Data(Channel::Error, _)));
            }
        }
    }
}
