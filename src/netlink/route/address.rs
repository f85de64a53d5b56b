//! Addresses of interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};

use super::{link::family, socket::Socket};
use crate::request::{RequestError, or_absent, or_present};

impl Socket {
    /// Gives an interface an address. IPv6 addresses are usable at once: no duplicate is looked for.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn add_address(&mut self, index: u32, address: IpNet) -> Result<(), RequestError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.header.scope = AddressScope::Universe;
        message.attributes =
            vec![AddressAttribute::Address(address.addr()), AddressAttribute::Local(address.addr())];
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let operation = format!("add address {address} to link {index}");
        or_present(self.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            &operation,
        ))
    }

    /// Takes an address from an interface. False if it had it not.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<bool, RequestError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address.addr())];
        let operation = format!("remove address {address} from link {index}");
        or_absent(self.change(RouteNetlinkMessage::DelAddress(message), 0, &operation))
    }

    /// The addresses of one interface, or of all.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<IpNet>, RequestError> {
        let all = self.addresses_by_link()?.into_iter();
        Ok(all.filter(|(at, _)| index.is_none_or(|index| index == *at)).map(|(_, net)| net).collect())
    }

    /// All addresses, each with the index of its interface.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn addresses_by_link(&mut self) -> Result<Vec<(u32, IpNet)>, RequestError> {
        let answers =
            self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), "list addresses")?;
        let read = |message: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(message) = message else { return None };
            let find =
                |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
            // The local address of a point-to-point link differs from the (peer's) address.
            let address = find(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None })
                .or_else(|| find(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None }))?;
            Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
        };
        Ok(answers.into_iter().filter_map(read).collect())
    }
}
