//! Which address a pod gets.
//!
//! The next free one after the address given last, from the start again at the end of the range: an address
//! just freed rests, so that what still talks to the old pod does not reach the new one.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::IpNet;

/// The network's own address and the one after it (by custom the node's) are not given to pods, nor is the last.
const RESERVED_AT_START: u128 = 2;
const RESERVED_AT_END: u128 = 1;
/// More pods than a node has, by far; keeps the search of a huge IPv6 range finite.
const MAX_RANGE: u128 = 1 << 20;

/// First usable address, and how many there are.
fn range(net: IpNet) -> (u128, u128) {
    let bits = u32::from(net.max_prefix_len() - net.prefix_len());
    let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
    let usable = size.saturating_sub(RESERVED_AT_START + RESERVED_AT_END).min(MAX_RANGE);
    (number(net.network()) + RESERVED_AT_START, usable)
}

/// The next free address of `net` after `last`; `None` when all are used.
pub(super) fn next_address(net: IpNet, used: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let (first, usable) = range(net);
    let start =
        last.filter(|last| net.contains(last)).map_or(0, |last| (number(last) + 1).saturating_sub(first));
    (0..usable)
        .map(|step| first + (start + step) % usable)
        .map(|number| address(number, net.addr().is_ipv4()))
        .find(|candidate| !used.contains(candidate))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::from(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes())
    } else {
        IpAddr::V6(Ipv6Addr::from(number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_pod_gets_the_first_address_that_is_not_reserved() {
        let net = "10.1.2.0/24".parse().unwrap();
        assert_eq!(next_address(net, &BTreeSet::new(), None), Some(ip("10.1.2.2")));
        let net = "fd00:1::/64".parse().unwrap();
        assert_eq!(next_address(net, &BTreeSet::new(), None), Some(ip("fd00:1::2")));
    }

    #[test]
    fn a_freed_address_rests_until_the_range_has_been_gone_through() {
        let net = "10.1.2.0/29".parse().unwrap(); // .2 to .6
        assert_eq!(next_address(net, &BTreeSet::new(), Some(ip("10.1.2.2"))), Some(ip("10.1.2.3")));
        assert_eq!(next_address(net, &BTreeSet::new(), Some(ip("10.1.2.6"))), Some(ip("10.1.2.2")));
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let net = "10.1.2.0/30".parse().unwrap();
        assert_eq!(next_address(net, &BTreeSet::from([ip("10.1.2.2")]), None), None);
        assert_eq!(next_address("10.1.2.0/32".parse().unwrap(), &BTreeSet::new(), None), None);
    }

    proptest! {
        #[test]
        fn an_address_is_free_in_the_range_and_given_as_long_as_there_is_one(
            prefix in 24_u8..=30, taken in proptest::collection::btree_set(0_u8..=255, 0..200), last in any::<Option<u8>>()
        ) {
            let net: IpNet = format!("10.9.8.0/{prefix}").parse().unwrap();
            let at = |last: u8| IpAddr::from([10, 9, 8, last]);
            let used: BTreeSet<IpAddr> = taken.into_iter().map(at).collect();
            let got = next_address(net, &used, last.map(at));
            let free = net.hosts().skip(1).filter(|ip| !used.contains(ip)).count();
            prop_assert_eq!(got.is_some(), free > 0);
            if let Some(got) = got {
                prop_assert!(net.contains(&got) && !used.contains(&got) && got != net.network() && got != net.broadcast());
            }
        }
    }
}
