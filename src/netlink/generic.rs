//! Generic netlink: families of messages that the kernel numbers as they come (`include/uapi/linux/genetlink.h`).

use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_GENERIC;

use crate::{
    request::{RequestError, Requests},
    wire::{Reader, Writer},
};

/// The family that knows the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`.
const HEADER: usize = 4;

/// A message of a family: a command and its attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    family: u16,
    version: u8,
    pub(crate) command: u8,
    pub(crate) attributes: Vec<u8>,
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer[..HEADER].copy_from_slice(&[self.command, self.version, 0, 0]);
        buffer[HEADER..HEADER + self.attributes.len()].copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let Some((head, attributes)) = payload.split_at_checked(HEADER) else {
            return Err(DecodeError::from("a generic netlink message without its header"));
        };
        Ok(Self {
            family: header.message_type,
            command: head[0],
            version: head[1],
            attributes: attributes.to_vec(),
        })
    }
}

/// A socket for the messages of one family.
pub(crate) struct Socket {
    requests: Requests,
    family: u16,
    version: u8,
}

impl Socket {
    /// Opens a socket in this thread's network namespace. [`RequestError::is_absent`] where the kernel has no such family.
    pub(crate) fn open(family: &str, version: u8) -> Result<Self, RequestError> {
        let mut requests = Requests::open(NETLINK_GENERIC)?;
        let mut attributes = Writer::default();
        attributes.text(CTRL_ATTR_FAMILY_NAME, family);
        let question = Message {
            family: GENL_ID_CTRL,
            version: 1,
            command: CTRL_CMD_GETFAMILY,
            attributes: attributes.finish(),
        };
        let operation = format!("find the generic netlink family {family}");
        let answers = requests.ask(question, NLM_F_ACK, &operation)?;
        let id = answers.iter().find_map(|m| Reader::new(&m.attributes).native_u16(CTRL_ATTR_FAMILY_ID));
        let family = id.ok_or_else(|| RequestError::Answer {
            operation,
            source: DecodeError::from("it names no number for the family"),
        })?;
        Ok(Self { requests, family, version })
    }

    /// Asks for a change.
    pub(crate) fn change(
        &mut self,
        command: u8,
        attributes: Writer,
        operation: &str,
    ) -> Result<(), RequestError> {
        self.ask(command, attributes, NLM_F_ACK, operation).map(drop)
    }

    /// Asks for all objects of a kind.
    pub(crate) fn dump(
        &mut self,
        command: u8,
        attributes: Writer,
        operation: &str,
    ) -> Result<Vec<Message>, RequestError> {
        self.ask(command, attributes, NLM_F_DUMP, operation)
    }

    fn ask(
        &mut self,
        command: u8,
        attributes: Writer,
        flags: u16,
        operation: &str,
    ) -> Result<Vec<Message>, RequestError> {
        let (family, version) = (self.family, self.version);
        let message = Message { family, version, command, attributes: attributes.finish() };
        self.requests.ask(message, flags, operation)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernel_is_asked_for_a_family_by_its_name() {
        // Every kernel has the family that knows the others.
        let socket = Socket::open("nlctrl", 2).unwrap();
        assert_eq!(socket.family, GENL_ID_CTRL);
        let Err(error) = Socket::open("no-such-family", 1) else { panic!("there is none") };
        assert!(error.is_absent(), "{error}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut header = NetlinkHeader::default();
            header.message_type = 33;
            if let Ok(message) = Message::deserialize(&header, &bytes) {
                let mut again = vec![0; message.buffer_len()];
                message.serialize(&mut again);
                prop_assert_eq!(&again[..2], &bytes[..2]);
                prop_assert_eq!(&again[HEADER..], &bytes[HEADER..]);
            }
        }
    }
}
