//! Names and hardware addresses of tunnel ends, made from what every node knows of every other.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use netlink::route::Mac;

/// The family that packets between nodes travel in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Underlay {
    V4,
    V6,
}

/// The links that tunnels are made as.
pub const TUNNEL_LINKS: [&str; 2] = ["coracle-vxlan", "coracle-vxlan6"];

impl Underlay {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::V4 => TUNNEL_LINKS[0],
            Self::V6 => TUNNEL_LINKS[1],
        }
    }

    /// What the tunnel adds to a packet: the outer IP header (20, or 40), UDP (8), VXLAN (8), the inner Ethernet (14).
    pub(super) fn overhead_bytes(self) -> u32 {
        match self {
            Self::V4 => 50,
            Self::V6 => 70,
        }
    }

    pub(super) fn has(self, address: &IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// The MAC of the tunnel end on the node with this address: locally administered, unicast. An IPv4 address fits in
/// whole; of an IPv6 address 40 bits of a hash, so that two nodes of one cluster share one in no practice.
pub(super) fn tunnel_mac(node: IpAddr) -> Mac {
    match node {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            Mac([0x02, 0xc0, a, b, c, d])
        }
        IpAddr::V6(ip) => {
            let hash = ip.octets().into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let [_, _, _, a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
            Mac([0x06, a, b, c, d, e])
        }
    }
}
