//! This machine's addresses and networks: which one leads to the server, and which ranges are somebody's already.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
};

use config::{Config, NetworkProvider};
use ipnet::IpNet;
use netlink::{RequestError, route::Socket};

/// The address from which packets to `destination` leave. No packet is sent.
pub(crate) fn towards(destination: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a datagram socket only asks for the route.
    socket.connect(destination).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

/// The address from which packets to the outside leave: for a machine that goes to nobody in particular.
pub(crate) fn outward() -> Option<IpAddr> {
    // An address of the documentation range (RFC 5737).
    towards(SocketAddr::from(([203, 0, 113, 1], 9)))
}

/// Whether one of this machine's links has the address. What cannot be asked is not so.
pub(crate) fn is_own(ip: IpAddr) -> bool {
    let addresses = Socket::open().and_then(|mut host| host.addresses_by_link());
    addresses.is_ok_and(|all| all.iter().any(|(_, address)| address.addr() == ip))
}

/// A network that this machine is in, or has a route to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostNetwork {
    pub(crate) net: IpNet,
    /// Where it was found, for people.
    pub(crate) what: String,
}

/// A range of the cluster that is somebody's already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// The setting, as `network.podCIDR`.
    pub(crate) setting: &'static str,
    pub(crate) range: IpNet,
    pub(crate) network: HostNetwork,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} overlaps {} of this machine", self.setting, self.range, self.network.what)
    }
}

/// Every network of the machine that shares addresses with one of the ranges.
pub(crate) fn overlaps(ranges: &[(&'static str, IpNet)], networks: &[HostNetwork]) -> Vec<Overlap> {
    let shares = |a: &IpNet, b: &IpNet| a.contains(&b.addr()) || b.contains(&a.addr());
    let mut found = Vec::new();
    for (setting, range) in ranges {
        for network in networks.iter().filter(|network| shares(&range.trunc(), &network.net.trunc())) {
            found.push(Overlap { setting, range: *range, network: network.clone() });
        }
    }
    found
}

/// The ranges of the configuration that overlap this machine's networks. What Coracle made itself does not count, and
/// where another network gives pods their addresses, only the node's own link does.
pub(crate) fn taken(config: &Config) -> Result<Vec<Overlap>, RequestError> {
    let mut networks = host_networks()?;
    if has_other_network(config) {
        let node = config.node.ip.or_else(outward);
        networks.retain(|network| node.is_some_and(|ip| network.net.contains(&ip)));
    }
    let ranges =
        [("network.podCIDR", config.network.pod_cidr), ("network.serviceCIDR", config.network.service_cidr)];
    Ok(overlaps(&ranges, &networks))
}

fn has_other_network(config: &Config) -> bool {
    let is_other = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_network = [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
        is_network && !name.contains("coracle")
    };
    let entries = std::fs::read_dir(&config.network.cni_conf_dir).into_iter().flatten().flatten();
    config.network.provider != NetworkProvider::BuiltIn
        || entries.map(|entry| entry.path()).any(|path| is_other(&path))
}

fn host_networks() -> Result<Vec<HostNetwork>, RequestError> {
    let mut host = Socket::open()?;
    let mut networks = BTreeSet::new();
    // Their addresses are Services' and this node's pods'.
    let is_ours = |name: &str| name == proxy::ipvs::LINK || network::TUNNEL_LINKS.contains(&name);
    let ours: Vec<u32> =
        host.links()?.into_iter().filter(|link| is_ours(&link.name)).map(|link| link.index).collect();
    for (link, address) in host.addresses_by_link()? {
        if !address.addr().is_loopback() && !ours.contains(&link) {
            networks.insert(HostNetwork { net: address.trunc(), what: format!("the address {address}") });
        }
    }
    for route in host.all_routes()? {
        let Some(net) = route.destination.filter(|net| net.prefix_len() > 0 && !route.ours) else { continue };
        if networks.iter().all(|known| known.net != net.trunc()) {
            let via = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            networks.insert(HostNetwork { net: net.trunc(), what: format!("the route to {net}{via}") });
        }
    }
    Ok(networks.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(net: &str) -> HostNetwork {
        HostNetwork { net: net.parse().unwrap(), what: format!("the route to {net}") }
    }

    #[test]
    fn ranges_overlap_whichever_holds_the_other() {
        let ranges = [
            ("network.podCIDR", "10.244.0.0/16".parse().unwrap()),
            ("network.serviceCIDR", "10.96.0.0/16".parse().unwrap()),
        ];
        let told = |nets: &[&str]| -> Vec<String> {
            let networks: Vec<HostNetwork> = nets.iter().map(|net| network(net)).collect();
            overlaps(&ranges, &networks).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(&["192.0.2.0/24", "10.245.0.0/16", "10.97.0.1/32", "fd00::/8"]),
            Vec::<String>::new()
        );
        assert_eq!(
            told(&["10.244.7.0/24"]),
            ["network.podCIDR 10.244.0.0/16 overlaps the route to 10.244.7.0/24 of this machine"]
        );
        assert_eq!(told(&["10.0.0.0/8"]).len(), 2);
        assert_eq!(told(&["10.96.0.10/32"]).len(), 1);
    }

    #[test]
    fn loopback_is_no_address_that_others_reach() {
        assert_eq!(towards(SocketAddr::from(([127, 0, 0, 1], 9))), None);
    }
}
