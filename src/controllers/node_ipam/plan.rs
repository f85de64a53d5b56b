//! Address ranges: parsing, cutting, finding a free one.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// A range of addresses, `10.244.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cidr {
    /// The first address as a number, in the family's width.
    base: u128,
    prefix: u8,
    v6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("not of the form address/prefix")]
    Form,
    #[error("prefix {0} is longer than an address")]
    Prefix(u8),
    #[error("a node's /{node} does not fit into the cluster's /{cluster}")]
    Mask { cluster: u8, node: u8 },
}

impl Cidr {
    pub(super) fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Form)?;
        let prefix: u8 = prefix.parse().map_err(|_| CidrError::Form)?;
        let (bits, v6) = match address.parse().map_err(|_| CidrError::Form)? {
            IpAddr::V4(address) => (u128::from(u32::from(address)), false),
            IpAddr::V6(address) => (u128::from(address), true),
        };
        let width = width(v6);
        if prefix > width {
            return Err(CidrError::Prefix(prefix));
        }
        let size = size(width - prefix);
        let base = size.map_or(0, |size| bits / size * size);
        Ok(Self { base, prefix, v6 })
    }

    pub(super) fn is_v6(&self) -> bool {
        self.v6
    }

    fn overlaps(&self, other: &Self) -> bool {
        let short = self.prefix.min(other.prefix);
        let shift = u32::from(width(self.v6) - short);
        let top = |base: u128| base.checked_shr(shift).unwrap_or(0);
        self.v6 == other.v6 && top(self.base) == top(other.base)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v6 {
            write!(f, "{}/{}", Ipv6Addr::from(self.base), self.prefix)
        } else {
            // `base` was made from 32 bits.
            write!(f, "{}/{}", Ipv4Addr::from(u32::try_from(self.base).unwrap_or(0)), self.prefix)
        }
    }
}

fn width(v6: bool) -> u8 {
    if v6 { 128 } else { 32 }
}

/// How many addresses `bits` bits count; none if that is more than a number holds.
fn size(bits: u8) -> Option<u128> {
    1_u128.checked_shl(u32::from(bits))
}

/// One of the cluster's ranges and how it is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pool {
    cluster: Cidr,
    node_prefix: u8,
}

impl Pool {
    pub(super) fn new(cluster: Cidr, node_prefix: u8) -> Result<Self, CidrError> {
        if node_prefix < cluster.prefix || node_prefix > width(cluster.v6) {
            return Err(CidrError::Mask { cluster: cluster.prefix, node: node_prefix });
        }
        Ok(Self { cluster, node_prefix })
    }

    /// The first share that overlaps nothing that is taken.
    pub(super) fn free(&self, taken: &BTreeSet<Cidr>) -> Option<Cidr> {
        let step = size(width(self.cluster.v6) - self.node_prefix)?;
        let mut base = self.cluster.base;
        let count = size(self.node_prefix - self.cluster.prefix)?;
        // At most one more than what is taken has to be tried.
        for _ in 0..count {
            let share = Cidr { base, prefix: self.node_prefix, v6: self.cluster.v6 };
            match taken.iter().find(|held| held.overlaps(&share)) {
                None => return Some(share),
                Some(_) => base = base.checked_add(step)?,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cluster: &str, prefix: u8) -> Pool {
        Pool::new(Cidr::parse(cluster).unwrap(), prefix).unwrap()
    }

    fn taken(ranges: &[&str]) -> BTreeSet<Cidr> {
        ranges.iter().map(|range| Cidr::parse(range).unwrap()).collect()
    }

    #[test]
    fn the_first_free_share_is_given() {
        let pool = pool("10.244.0.0/16", 24);
        let free = |held: &[&str]| pool.free(&taken(held)).map(|cidr| cidr.to_string());
        assert_eq!(free(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(free(&["10.244.0.0/24", "10.244.1.0/25", "fd00::/64"]).as_deref(), Some("10.244.2.0/24"));
        assert_eq!(free(&["10.244.0.0/17"]).as_deref(), Some("10.244.128.0/24"));
        assert_eq!(free(&["10.0.0.0/8"]), None);
    }

    #[test]
    fn both_families_are_cut() {
        let free = pool("fd00:1::/48", 64).free(&taken(&["fd00:1::/64"])).unwrap();
        assert_eq!(free.to_string(), "fd00:1:0:1::/64");
        assert_eq!(Cidr::parse("10.1.2.3/16").unwrap().to_string(), "10.1.0.0/16");
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(Cidr::parse("10.0.0.0"), Err(CidrError::Form));
        assert_eq!(Cidr::parse("10.0.0.0/33"), Err(CidrError::Prefix(33)));
        let cluster = Cidr::parse("10.0.0.0/24").unwrap();
        assert_eq!(Pool::new(cluster, 16).unwrap_err(), CidrError::Mask { cluster: 24, node: 16 });
    }
}
