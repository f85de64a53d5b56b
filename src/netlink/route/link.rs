//! Interfaces.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{
    routes::Route,
    socket::Socket,
    vxlan::{Vxlan, read_vxlan},
};
use crate::namespace::Namespace;
use crate::request::{RequestError, or_absent, or_present};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Option<Mac>,
    pub up: bool,
    /// Whether those who share the link ask each other for hardware addresses: not on WireGuard, a tun or PPP.
    pub has_neighbours: bool,
    /// The index of the other end, for a veth. It counts in the other end's namespace.
    pub peer: Option<u32>,
    /// For a VXLAN device.
    pub vxlan: Option<Vxlan>,
}

/// A pair of interfaces joined by a wire, one end of it in another namespace from the start.
#[derive(Clone, Debug)]
pub struct VethPair<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub peer_name: &'a str,
    pub peer_mac: Mac,
    pub peer_namespace: &'a Namespace,
    pub mtu: u32,
}

impl Socket {
    /// All interfaces.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn links(&mut self) -> Result<Vec<Link>, RequestError> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), "list links")?;
        Ok(answers.iter().filter_map(read).collect())
    }

    /// One interface, by name.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, RequestError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        self.one_link(message, &format!("look at link {name}"))
    }

    fn link_at(&mut self, index: u32) -> Result<Option<Link>, RequestError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        self.one_link(message, &format!("look at link {index}"))
    }

    fn one_link(&mut self, message: LinkMessage, operation: &str) -> Result<Option<Link>, RequestError> {
        match self.get(RouteNetlinkMessage::GetLink(message), operation) {
            Ok(answers) => Ok(answers.iter().find_map(read)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes both ends at once: there is no moment with the pod's end in this namespace.
    ///
    /// # Errors
    /// When one of the names is taken ([`RequestError::is_present`]).
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), RequestError> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![
            LinkAttribute::IfName(pair.peer_name.to_string()),
            LinkAttribute::Address(pair.peer_mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(pair.peer_namespace.raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(pair.name.to_string()),
            LinkAttribute::Address(pair.mac.0.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ];
        let operation = format!("make veth pair {}", pair.name);
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &operation)
    }

    /// Makes an interface that leads nowhere, for addresses that are to be this host's own; it is as it is where it is there.
    ///
    /// # Errors
    /// [`RequestError::is_unsupported`] where the kernel's module `dummy` is neither loaded nor there to be loaded.
    pub fn add_dummy(&mut self, name: &str) -> Result<(), RequestError> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Dummy)]),
        ];
        let operation = format!("make the dummy link {name}");
        or_present(self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &operation))
    }

    /// # Errors
    /// When there is no such interface.
    pub fn set_up(&mut self, index: u32) -> Result<(), RequestError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0, &format!("set link {index} up"))
    }

    /// # Errors
    /// When there is no such interface, or it cannot have this MTU.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), RequestError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let operation = format!("set the MTU of link {index} to {mtu}");
        self.change(RouteNetlinkMessage::SetLink(message), 0, &operation)
    }

    /// Removes an interface, and with a veth its other end. False if there was none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_link(&mut self, name: &str) -> Result<bool, RequestError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_string()));
        or_absent(self.change(RouteNetlinkMessage::DelLink(message), 0, &format!("remove link {name}")))
    }

    /// The MTU of the interface that the default route of this family leads to.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn uplink_mtu(&mut self, v6: bool) -> Result<Option<u32>, RequestError> {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let default = self
            .routes(family)?
            .into_iter()
            .filter(|route| route.destination.is_none_or(|net| net.prefix_len() == 0))
            .filter(|route| route.interface.is_some())
            .min_by_key(|route: &Route| route.priority);
        let Some(index) = default.and_then(|route| route.interface) else { return Ok(None) };
        Ok(self.link_at(index)?.map(|link| link.mtu))
    }
}

fn read(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        has_neighbours: !message.header.flags.intersects(LinkFlags::Noarp | LinkFlags::Pointopoint),
        peer: None,
        vxlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
            LinkAttribute::Link(index) => link.peer = Some(*index),
            LinkAttribute::LinkInfo(info) => link.vxlan = read_vxlan(info),
            _ => {}
        }
    }
    Some(link)
}

/// The family of an address, as messages say it.
pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
