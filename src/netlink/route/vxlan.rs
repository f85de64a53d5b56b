//! VXLAN devices, and the tables that say behind which host an Ethernet address is.
//!
//! Sources: RFC 7348; `drivers/net/vxlan` and `include/uapi/linux/{if_link,neighbour}.h` of Linux.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{link::Mac, socket::Socket};
use crate::request::{RequestError, or_absent};

/// What makes a tunnel: both ends must agree on the identifier and the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vxlan {
    /// 24 bits.
    pub vni: u32,
    /// UDP.
    pub port: u16,
    /// Where packets say that they come from, and the family of all ends; unspecified: as the route has it.
    pub local: IpAddr,
}

/// A device that sends what it is told to whom it is told: it does not learn, and floods to nobody.
#[derive(Clone, Debug)]
pub struct VxlanDevice<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub mtu: u32,
    pub vxlan: Vxlan,
}

impl Socket {
    /// Makes a device, up.
    ///
    /// # Errors
    /// When the name, or the identifier on this port, is taken ([`RequestError::is_present`]), or the kernel has no
    /// VXLAN.
    pub fn add_vxlan(&mut self, device: &VxlanDevice<'_>) -> Result<(), RequestError> {
        let Vxlan { vni, port, local } = device.vxlan;
        let local = match local {
            IpAddr::V4(ip) => InfoVxlan::Local(ip),
            // Unspecified too: it is what makes the device one of IPv6.
            IpAddr::V6(ip) => InfoVxlan::Local6(ip),
        };
        let info = vec![InfoVxlan::Id(vni), local, InfoVxlan::Port(port), InfoVxlan::Learning(false)];
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes = vec![
            LinkAttribute::IfName(device.name.to_string()),
            LinkAttribute::Address(device.mac.0.to_vec()),
            LinkAttribute::Mtu(device.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(info)),
            ]),
        ];
        let operation = format!("make VXLAN device {} (VNI {vni}, UDP port {port})", device.name);
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, &operation)
    }

    /// Says behind which host an Ethernet address is.
    ///
    /// # Errors
    /// When there is no such device, or the host is not of the device's family.
    pub fn set_forwarding(&mut self, index: u32, mac: Mac, host: IpAddr) -> Result<(), RequestError> {
        let operation = format!("forward {mac} of link {index} to {host}");
        let message = RouteNetlinkMessage::NewNeighbour(forwarding(index, mac, host));
        self.change(message, NLM_F_CREATE | NLM_F_REPLACE, &operation)
    }

    /// False if there was no such entry.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_forwarding(&mut self, index: u32, mac: Mac, host: IpAddr) -> Result<bool, RequestError> {
        let operation = format!("forward {mac} of link {index} to {host} no more");
        let message = RouteNetlinkMessage::DelNeighbour(forwarding(index, mac, host));
        or_absent(self.change(message, 0, &operation))
    }

    /// Behind which hosts which Ethernet addresses are.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn forwardings(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, RequestError> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let answers = self.dump(RouteNetlinkMessage::GetNeighbour(message), "list forwarding entries")?;
        // The kernel gives those of all devices.
        Ok(answers.iter().filter_map(|answer| read(answer, index)).collect())
    }
}

fn forwarding(index: u32, mac: Mac, host: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    // The device's own table, not that of a bridge it is a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
        NeighbourAttribute::Destination(host.into()),
    ];
    message
}

fn read(message: &RouteNetlinkMessage, index: u32) -> Option<(Mac, IpAddr)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.ifindex != index || message.header.family != AddressFamily::Bridge {
        return None;
    }
    let (mut mac, mut host) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => host = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => host = Some(IpAddr::V6(*ip)),
            // The message's family is the bridge's: the address tells its own by its length.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => host = address(bytes),
            _ => {}
        }
    }
    Some((mac?, host?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes)));
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes)))).ok()
}

/// What of a link's own data says that it is a tunnel.
pub(super) fn read_vxlan(info: &[LinkInfo]) -> Option<Vxlan> {
    let data = info.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let mut vxlan = Vxlan { vni: 0, port: 0, local: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(ip) => vxlan.local = IpAddr::V4(*ip),
            InfoVxlan::Local6(ip) => vxlan.local = IpAddr::V6(*ip),
            _ => {}
        }
    }
    Some(vxlan)
}
