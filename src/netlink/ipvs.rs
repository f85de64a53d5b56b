//! IPVS: virtual servers, and the real ones behind them that take their connections.
//!
//! Source: the kernel's `include/uapi/linux/ip_vs.h` and `net/netfilter/ipvs/ip_vs_ctl.c`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use crate::{
    generic::{self, Message},
    nft::Proto,
    request::{RequestError, or_absent, or_present},
    wire::{Reader, Writer},
};

const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;

const IPVS_CMD_NEW_SERVICE: u8 = 1;
const IPVS_CMD_SET_SERVICE: u8 = 2;
const IPVS_CMD_DEL_SERVICE: u8 = 3;
const IPVS_CMD_GET_SERVICE: u8 = 4;
const IPVS_CMD_NEW_DEST: u8 = 5;
const IPVS_CMD_SET_DEST: u8 = 6;
const IPVS_CMD_DEL_DEST: u8 = 7;
const IPVS_CMD_GET_DEST: u8 = 8;

const IPVS_CMD_ATTR_SERVICE: u16 = 1;
const IPVS_CMD_ATTR_DEST: u16 = 2;

const IPVS_SVC_ATTR_AF: u16 = 1;
const IPVS_SVC_ATTR_PROTOCOL: u16 = 2;
const IPVS_SVC_ATTR_ADDR: u16 = 3;
const IPVS_SVC_ATTR_PORT: u16 = 4;
const IPVS_SVC_ATTR_SCHED_NAME: u16 = 6;
const IPVS_SVC_ATTR_FLAGS: u16 = 7;
const IPVS_SVC_ATTR_TIMEOUT: u16 = 8;
const IPVS_SVC_ATTR_NETMASK: u16 = 9;

const IPVS_DEST_ATTR_ADDR: u16 = 1;
const IPVS_DEST_ATTR_PORT: u16 = 2;
const IPVS_DEST_ATTR_FWD_METHOD: u16 = 3;
const IPVS_DEST_ATTR_WEIGHT: u16 = 4;
const IPVS_DEST_ATTR_U_THRESH: u16 = 5;
const IPVS_DEST_ATTR_L_THRESH: u16 = 6;
const IPVS_DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const IPVS_DEST_ATTR_INACT_CONNS: u16 = 8;
const IPVS_DEST_ATTR_ADDR_FAMILY: u16 = 11;

/// A client stays with its real server.
const IP_VS_SVC_F_PERSISTENT: u32 = 1;
/// Of the scheduler mh: the client's port counts too, so that one client reaches all real servers (`IP_VS_SVC_F_SCHED_MH_PORT`).
const IP_VS_SVC_F_SCHED2: u32 = 0x10;
/// The packet's destination is translated, and the answer's source back.
const IP_VS_CONN_F_MASQ: u32 = 0;

/// By what clients reach a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServer {
    pub address: IpAddr,
    pub proto: Proto,
    pub port: u16,
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.proto.name(), SocketAddr::new(self.address, self.port))
    }
}

/// How a virtual server chooses among its real ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The kernel's name for it, such as `rr`. The kernel loads its module where it is none yet.
    pub scheduler: String,
    /// How long after its last connection a client goes to the same real server.
    pub persistence: Option<Duration>,
}

/// A real server, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RealServer {
    pub address: IpAddr,
    pub port: u16,
    /// Of new connections; none come with 0.
    pub weight: u32,
    /// Those that it has, ended ones included that are still remembered.
    pub connections: u32,
}

/// An IPVS socket of one network namespace. It blocks: use it on a worker.
pub struct Socket {
    socket: generic::Socket,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ipvs::Socket").finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// [`RequestError::is_absent`] where the kernel's module `ip_vs` is not loaded.
    pub fn open() -> Result<Self, RequestError> {
        generic::Socket::open(FAMILY, VERSION).map(|socket| Self { socket })
    }

    /// All virtual servers. Those by a firewall mark have no address and are passed over.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn servers(&mut self) -> Result<Vec<(VirtualServer, Choice)>, RequestError> {
        let answers = self.socket.dump(IPVS_CMD_GET_SERVICE, Writer::default(), "list virtual servers")?;
        Ok(answers.iter().filter_map(read_server).collect())
    }

    /// The real servers of a virtual one; none where it is not there.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn real_servers(&mut self, server: &VirtualServer) -> Result<Vec<RealServer>, RequestError> {
        let mut attributes = Writer::default();
        attributes.nested(IPVS_CMD_ATTR_SERVICE, |inner| write_key(inner, server));
        let operation = format!("list the real servers of {server}");
        let answers = match self.socket.dump(IPVS_CMD_GET_DEST, attributes, &operation) {
            Err(error) if error.is_absent() => return Ok(Vec::new()),
            answers => answers?,
        };
        Ok(answers.iter().filter_map(|answer| read_real(answer, server.address.is_ipv6())).collect())
    }

    /// Makes a virtual server; as it is where it is there.
    ///
    /// # Errors
    /// When the kernel refuses: [`RequestError::is_absent`] where it has no such scheduler.
    pub fn add_server(&mut self, server: &VirtualServer, choice: &Choice) -> Result<(), RequestError> {
        let operation = format!("make the virtual server {server} with the scheduler {}", choice.scheduler);
        or_present(self.socket.change(IPVS_CMD_NEW_SERVICE, full(server, choice), &operation))
    }

    /// Changes how a virtual server chooses.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_server(&mut self, server: &VirtualServer, choice: &Choice) -> Result<(), RequestError> {
        let operation = format!("change the virtual server {server}");
        self.socket.change(IPVS_CMD_SET_SERVICE, full(server, choice), &operation)
    }

    /// Removes a virtual server and its real ones. False if it was not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_server(&mut self, server: &VirtualServer) -> Result<bool, RequestError> {
        let mut attributes = Writer::default();
        attributes.nested(IPVS_CMD_ATTR_SERVICE, |inner| write_key(inner, server));
        let operation = format!("remove the virtual server {server}");
        or_absent(self.socket.change(IPVS_CMD_DEL_SERVICE, attributes, &operation))
    }

    /// Makes a real server; as it is where it is there.
    ///
    /// # Errors
    /// When the kernel refuses, or has no such virtual server.
    pub fn add_real(
        &mut self,
        server: &VirtualServer,
        to: SocketAddr,
        weight: u32,
    ) -> Result<(), RequestError> {
        let operation = format!("add the real server {to} to {server}");
        or_present(self.socket.change(IPVS_CMD_NEW_DEST, real(server, to, Some(weight)), &operation))
    }

    /// Changes what share of new connections a real server takes.
    ///
    /// # Errors
    /// When the kernel refuses, or has no such server.
    pub fn set_real(
        &mut self,
        server: &VirtualServer,
        to: SocketAddr,
        weight: u32,
    ) -> Result<(), RequestError> {
        let operation = format!("change the weight of the real server {to} of {server}");
        self.socket.change(IPVS_CMD_SET_DEST, real(server, to, Some(weight)), &operation)
    }

    /// Removes a real server; what comes over its connections is dropped then. False if it was not there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_real(&mut self, server: &VirtualServer, to: SocketAddr) -> Result<bool, RequestError> {
        let operation = format!("remove the real server {to} from {server}");
        or_absent(self.socket.change(IPVS_CMD_DEL_DEST, real(server, to, None), &operation))
    }
}

fn family(address: IpAddr) -> u16 {
    let family = if address.is_ipv6() { nix::libc::AF_INET6 } else { nix::libc::AF_INET };
    u16::try_from(family).unwrap_or_default()
}

/// `union nf_inet_addr`.
fn write_address(writer: &mut Writer, kind: u16, address: IpAddr) {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    writer.bytes(kind, &bytes);
}

fn read_address(bytes: &[u8], ipv6: bool) -> Option<IpAddr> {
    if ipv6 {
        return bytes.try_into().ok().map(|bytes: [u8; 16]| Ipv6Addr::from(bytes).into());
    }
    bytes.get(..4)?.try_into().ok().map(|bytes: [u8; 4]| Ipv4Addr::from(bytes).into())
}

fn write_key(writer: &mut Writer, server: &VirtualServer) {
    writer.native_u16(IPVS_SVC_ATTR_AF, family(server.address));
    writer.native_u16(IPVS_SVC_ATTR_PROTOCOL, server.proto as u16);
    write_address(writer, IPVS_SVC_ATTR_ADDR, server.address);
    writer.bytes(IPVS_SVC_ATTR_PORT, &server.port.to_be_bytes());
}

fn full(server: &VirtualServer, choice: &Choice) -> Writer {
    let persistent = choice.persistence.map_or(0, |_| IP_VS_SVC_F_PERSISTENT);
    let flags = persistent | if choice.scheduler == "mh" { IP_VS_SVC_F_SCHED2 } else { 0 };
    let seconds = choice.persistence.map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    // Each client for itself: of IPv4 the mask, of IPv6 the length of the prefix.
    let mask = if server.address.is_ipv6() { 128 } else { u32::MAX };
    let mut attributes = Writer::default();
    attributes.nested(IPVS_CMD_ATTR_SERVICE, |inner| {
        write_key(inner, server);
        inner.text(IPVS_SVC_ATTR_SCHED_NAME, &choice.scheduler);
        // `struct ip_vs_flags`: the flags, and which of them are meant.
        inner.bytes(IPVS_SVC_ATTR_FLAGS, &[flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat());
        inner.native_u32(IPVS_SVC_ATTR_TIMEOUT, seconds);
        inner.native_u32(IPVS_SVC_ATTR_NETMASK, mask);
    });
    attributes
}

fn real(server: &VirtualServer, to: SocketAddr, weight: Option<u32>) -> Writer {
    let mut attributes = Writer::default();
    attributes.nested(IPVS_CMD_ATTR_SERVICE, |inner| write_key(inner, server));
    attributes.nested(IPVS_CMD_ATTR_DEST, |inner| {
        write_address(inner, IPVS_DEST_ATTR_ADDR, to.ip());
        inner.bytes(IPVS_DEST_ATTR_PORT, &to.port().to_be_bytes());
        inner.native_u16(IPVS_DEST_ATTR_ADDR_FAMILY, family(to.ip()));
        if let Some(weight) = weight {
            inner.native_u32(IPVS_DEST_ATTR_FWD_METHOD, IP_VS_CONN_F_MASQ);
            inner.native_u32(IPVS_DEST_ATTR_WEIGHT, weight);
            inner.native_u32(IPVS_DEST_ATTR_U_THRESH, 0);
            inner.native_u32(IPVS_DEST_ATTR_L_THRESH, 0);
        }
    });
    attributes
}

fn proto(number: u16) -> Option<Proto> {
    [Proto::Tcp, Proto::Udp, Proto::Sctp].into_iter().find(|proto| *proto as u16 == number)
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().ok().map(u16::from_be_bytes)
}

fn read_server(message: &Message) -> Option<(VirtualServer, Choice)> {
    let reader = Reader::new(Reader::new(&message.attributes).get(IPVS_CMD_ATTR_SERVICE)?);
    let ipv6 = reader.native_u16(IPVS_SVC_ATTR_AF)? == family(Ipv6Addr::UNSPECIFIED.into());
    let server = VirtualServer {
        address: read_address(reader.get(IPVS_SVC_ATTR_ADDR)?, ipv6)?,
        proto: proto(reader.native_u16(IPVS_SVC_ATTR_PROTOCOL)?)?,
        port: read_port(reader.get(IPVS_SVC_ATTR_PORT)?)?,
    };
    let flags = reader.get(IPVS_SVC_ATTR_FLAGS)?.get(..4)?.try_into().ok().map(u32::from_ne_bytes)?;
    let seconds = reader.native_u32(IPVS_SVC_ATTR_TIMEOUT).unwrap_or_default();
    let persistent = flags & IP_VS_SVC_F_PERSISTENT != 0;
    let choice = Choice {
        scheduler: reader.text(IPVS_SVC_ATTR_SCHED_NAME)?.to_string(),
        persistence: persistent.then(|| Duration::from_secs(seconds.into())),
    };
    Some((server, choice))
}

fn read_real(message: &Message, ipv6: bool) -> Option<RealServer> {
    let reader = Reader::new(Reader::new(&message.attributes).get(IPVS_CMD_ATTR_DEST)?);
    // Before Linux 3.18 it was that of the virtual server.
    let ipv6 = reader
        .native_u16(IPVS_DEST_ATTR_ADDR_FAMILY)
        .map_or(ipv6, |of| of == family(Ipv6Addr::UNSPECIFIED.into()));
    let connections = |kind| reader.native_u32(kind).unwrap_or_default();
    Some(RealServer {
        address: read_address(reader.get(IPVS_DEST_ATTR_ADDR)?, ipv6)?,
        port: read_port(reader.get(IPVS_DEST_ATTR_PORT)?)?,
        weight: reader.native_u32(IPVS_DEST_ATTR_WEIGHT)?,
        connections: connections(IPVS_DEST_ATTR_ACTIVE_CONNS)
            .saturating_add(connections(IPVS_DEST_ATTR_INACT_CONNS)),
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader};
    use proptest::prelude::*;

    use super::*;

    /// As the kernel would send it back.
    fn message(attributes: Writer) -> Message {
        let bytes = [vec![IPVS_CMD_NEW_SERVICE, VERSION, 0, 0], attributes.finish()].concat();
        Message::deserialize(&NetlinkHeader::default(), &bytes).unwrap()
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
    }

    fn any_server() -> impl Strategy<Value = VirtualServer> {
        let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)];
        (any_ip(), proto, any::<u16>()).prop_map(|(address, proto, port)| VirtualServer {
            address,
            proto,
            port,
        })
    }

    #[test]
    fn a_client_of_the_scheduler_mh_is_told_apart_by_its_port() {
        let server = VirtualServer { address: [10, 96, 0, 1].into(), proto: Proto::Tcp, port: 80 };
        let flags = |scheduler: &str| {
            let choice = Choice { scheduler: scheduler.into(), persistence: Some(Duration::from_secs(9)) };
            let bytes = full(&server, &choice).finish();
            let inner = Reader::new(&bytes).get(IPVS_CMD_ATTR_SERVICE).unwrap();
            Reader::new(inner).get(IPVS_SVC_ATTR_FLAGS).unwrap()[..4].to_vec()
        };
        assert_eq!(flags("mh"), 0x11_u32.to_ne_bytes());
        assert_eq!(flags("sh"), 1_u32.to_ne_bytes());
    }

    #[test]
    fn a_virtual_server_is_encoded_as_the_kernel_reads_it() {
        let server = VirtualServer { address: [10, 96, 0, 1].into(), proto: Proto::Tcp, port: 80 };
        let choice = Choice { scheduler: "rr".into(), persistence: None };
        let expected: Vec<u8> = [
            &80_u16.to_ne_bytes()[..],
            &(1_u16 | 1 << 15).to_ne_bytes(),
            &6_u16.to_ne_bytes(),
            &1_u16.to_ne_bytes(),
            &2_u16.to_ne_bytes(),
            &[0, 0],
            &6_u16.to_ne_bytes(),
            &2_u16.to_ne_bytes(),
            &6_u16.to_ne_bytes(),
            &[0, 0],
            &20_u16.to_ne_bytes(),
            &3_u16.to_ne_bytes(),
            &[10, 96, 0, 1],
            &[0; 12],
            &6_u16.to_ne_bytes(),
            &4_u16.to_ne_bytes(),
            &[0, 80],
            &[0, 0],
            &7_u16.to_ne_bytes(),
            &6_u16.to_ne_bytes(),
            b"rr\0",
            &[0],
            &12_u16.to_ne_bytes(),
            &7_u16.to_ne_bytes(),
            &[0; 4],
            &[0xff; 4],
            &8_u16.to_ne_bytes(),
            &8_u16.to_ne_bytes(),
            &[0; 4],
            &8_u16.to_ne_bytes(),
            &9_u16.to_ne_bytes(),
            &[0xff; 4],
        ]
        .concat();
        let expected = {
            let mut bytes = expected;
            let length = u16::try_from(bytes.len()).unwrap();
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            bytes
        };
        assert_eq!(full(&server, &choice).finish(), expected);
    }

    #[test]
    fn a_kernel_without_ipvs_says_so() {
        // Where there is the module, there is nothing to see here.
        if let Err(error) = Socket::open() {
            assert!(error.is_absent(), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(server in any_server(), scheduler in "[a-z]{1,15}", seconds in prop::option::of(1u64..100_000)) {
            let choice = Choice { scheduler, persistence: seconds.map(Duration::from_secs) };
            prop_assert_eq!(read_server(&message(full(&server, &choice))), Some((server, choice)));
        }

        #[test]
        fn a_real_server_that_is_written_is_read(server in any_server(), ip in any_ip(), port in any::<u16>(), weight in any::<u32>()) {
            let read = read_real(&message(real(&server, SocketAddr::new(ip, port), Some(weight))), false);
            prop_assert_eq!(read, Some(RealServer { address: ip, port, weight, connections: 0 }));
        }

        #[test]
        fn no_bytes_make_the_readers_panic(bytes in prop::collection::vec(any::<u8>(), 4..200)) {
            let message = Message::deserialize(&NetlinkHeader::default(), &bytes).unwrap();
            let mut nested = Writer::default();
            nested.bytes(IPVS_CMD_ATTR_SERVICE, &bytes).bytes(IPVS_CMD_ATTR_DEST, &bytes);
            for message in [message, self::message(nested)] {
                prop_assert!(read_server(&message).is_none_or(|(server, _)| !server.to_string().is_empty()));
                let _real = read_real(&message, true);
            }
        }
    }
}
