//! Routes of the main table.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};

use super::{link::family, socket::Socket};
use crate::request::{RequestError, or_absent};

/// Routing protocol number that our routes carry, so that they are told from everybody else's. Neither
/// `/etc/iproute2/rt_protos` nor another pod network that we know of uses it.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(107);

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// `None`, or a prefix of length 0: the default route.
    pub destination: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    pub interface: Option<u32>,
    pub priority: u32,
    /// The gateway is on the link although no prefix says so.
    pub onlink: bool,
    /// Whether this route was set by [`Socket::set_route`].
    pub ours: bool,
}

impl Route {
    /// `destination dev interface`.
    #[must_use]
    pub fn direct(destination: IpNet, interface: u32) -> Self {
        Self {
            destination: Some(destination),
            gateway: None,
            interface: Some(interface),
            priority: 0,
            onlink: false,
            ours: true,
        }
    }

    /// `destination via gateway`.
    #[must_use]
    pub fn via(destination: IpNet, gateway: IpAddr) -> Self {
        Self {
            destination: Some(destination),
            gateway: Some(gateway),
            interface: None,
            priority: 0,
            onlink: false,
            ours: true,
        }
    }

    /// `default via gateway dev interface onlink`.
    #[must_use]
    pub fn default_onlink(gateway: IpAddr, interface: u32) -> Self {
        Self {
            destination: None,
            gateway: Some(gateway),
            interface: Some(interface),
            priority: 0,
            onlink: true,
            ours: true,
        }
    }

    fn family(&self) -> AddressFamily {
        let address = self.destination.map(|net| net.addr()).or(self.gateway);
        address.map_or(AddressFamily::Inet, family)
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = self.family();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = PROTOCOL;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if self.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link };
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        if let Some(net) = self.destination {
            message.header.destination_prefix_length = net.prefix_len();
            message.attributes.push(RouteAttribute::Destination(net.network().into()));
        }
        if let Some(gateway) = self.gateway {
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        if let Some(index) = self.interface {
            message.attributes.push(RouteAttribute::Oif(index));
        }
        if self.priority != 0 {
            message.attributes.push(RouteAttribute::Priority(self.priority));
        }
        message
    }

    /// Whether the kernel would put one for the other.
    fn is_in_place_of(&self, other: &Route) -> bool {
        let place =
            |route: &Route| route.destination.map(|net| net.trunc()).filter(|net| net.prefix_len() > 0);
        (place(self), self.priority) == (place(other), other.priority)
    }

    fn describe(&self) -> String {
        let destination = self.destination.map_or_else(|| "default".to_string(), |net| net.to_string());
        let gateway = self.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        format!("{destination}{gateway}")
    }
}

impl Socket {
    /// Makes a route, or changes the one of ours that has the same destination and priority.
    ///
    /// # Errors
    /// When the gateway cannot be reached, or there is no such interface, or somebody else's route is there.
    pub fn set_route(&mut self, route: &Route) -> Result<(), RequestError> {
        let operation = format!("set route {}", route.describe());
        let message = || RouteNetlinkMessage::NewRoute(route.message());
        match self.change(message(), NLM_F_CREATE | NLM_F_EXCL, &operation) {
            Err(error) if error.is_present() => {
                let there = self.routes(route.family())?;
                let foreign = there.iter().any(|there| !there.ours && there.is_in_place_of(route));
                if foreign {
                    return Err(RequestError::Taken { operation });
                }
                self.change(message(), NLM_F_CREATE | NLM_F_REPLACE, &operation)
            }
            other => other,
        }
    }

    /// Removes a route. False if there was none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_route(&mut self, route: &Route) -> Result<bool, RequestError> {
        let operation = format!("remove route {}", route.describe());
        or_absent(self.change(RouteNetlinkMessage::DelRoute(route.message()), 0, &operation))
    }

    /// The routes of a family in the main table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn routes(&mut self, family: AddressFamily) -> Result<Vec<Route>, RequestError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = self.dump(RouteNetlinkMessage::GetRoute(message), "list routes")?;
        Ok(answers.iter().filter_map(read).collect())
    }

    /// The routes that [`Socket::set_route`] set, of both families.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn own_routes(&mut self) -> Result<Vec<Route>, RequestError> {
        let mut routes = self.all_routes()?;
        routes.retain(|route| route.ours);
        Ok(routes)
    }

    /// The routes of the main table, of both families.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn all_routes(&mut self) -> Result<Vec<Route>, RequestError> {
        let mut routes = self.routes(AddressFamily::Inet)?;
        routes.extend(self.routes(AddressFamily::Inet6)?);
        Ok(routes)
    }
}

fn read(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route {
        destination: None,
        gateway: None,
        interface: None,
        priority: 0,
        onlink: message.header.flags.contains(RouteFlags::Onlink),
        ours: message.header.protocol == PROTOCOL,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                let address = ip(address)?;
                route.destination = IpNet::new(address, message.header.destination_prefix_length).ok();
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Priority(priority) => route.priority = *priority,
            _ => {}
        }
    }
    Some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
