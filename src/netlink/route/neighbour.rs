//! Who has which address on a link: entries that never expire, so that nobody has to ask.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::RouteType,
};

use super::{
    link::{Mac, family},
    socket::Socket,
};
use crate::request::{RequestError, or_absent};

impl Socket {
    /// # Errors
    /// When there is no such interface.
    pub fn set_neighbour(&mut self, index: u32, address: IpAddr, mac: Mac) -> Result<(), RequestError> {
        let mut message = entry(index, address);
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let operation = format!("set neighbour {address} of link {index}");
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, &operation)
    }

    /// False if there was none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_neighbour(&mut self, index: u32, address: IpAddr) -> Result<bool, RequestError> {
        let operation = format!("remove neighbour {address} of link {index}");
        or_absent(self.change(RouteNetlinkMessage::DelNeighbour(entry(index, address)), 0, &operation))
    }

    /// The entries of one interface that never expire, of both families.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn permanent_neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, RequestError> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            all.extend(self.dump(RouteNetlinkMessage::GetNeighbour(message), "list neighbours")?);
        }
        Ok(all.iter().filter_map(|answer| read(answer, index)).collect())
    }
}

fn entry(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unspec;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

fn read(message: &RouteNetlinkMessage, index: u32) -> Option<(IpAddr, Mac)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            _ => {}
        }
    }
    Some((address?, mac?))
}
