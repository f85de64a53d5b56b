//! Names of addresses: `1.0.96.10.in-addr.arpa`.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::rr::{Name, RData, RecordType, rdata::PTR};
use ipnet::IpNet;

use super::{
    Answer, At, End, World, Zone,
    endpoints::ready,
    negative,
    service::{self, Kind},
};

/// A name below `in-addr.arpa` or `ip6.arpa`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reverse {
    v4: bool,
    /// From the top: octets, or half octets.
    units: Vec<u8>,
    /// Whether labels are left that belong to no address.
    excess: bool,
}

impl Reverse {
    fn bits(&self) -> u8 {
        if self.v4 { 8 } else { 4 }
    }

    fn whole(&self) -> usize {
        if self.v4 { 4 } else { 32 }
    }

    /// The address that begins with these units and goes on with zeros.
    fn first(&self, units: usize) -> IpAddr {
        let mut value = 0_u128;
        for index in 0..self.whole() {
            let unit = self.units.get(index).filter(|_| index < units).copied().unwrap_or(0);
            value = value << self.bits() | u128::from(unit);
        }
        match u32::try_from(value) {
            Ok(value) if self.v4 => IpAddr::V4(Ipv4Addr::from(value)),
            _ => IpAddr::V6(Ipv6Addr::from(value)),
        }
    }

    /// How many units the zone of `range` has where this name is in it.
    fn zone_of(&self, range: &IpNet) -> Option<usize> {
        // A range that ends within a unit is several zones.
        let units = usize::from(range.prefix_len().div_ceil(self.bits()));
        let ours = range.addr().is_ipv4() == self.v4 && self.units.len() >= units;
        (ours && range.contains(&self.first(units))).then_some(units)
    }
}

/// None for a name that is not below the two trees, or that is no address' beginning.
pub(super) fn parse(name: &Name) -> Option<Reverse> {
    let mut labels = name.iter().rev();
    if !labels.next()?.eq_ignore_ascii_case(b"arpa") {
        return None;
    }
    let v4 = match labels.next()? {
        tree if tree.eq_ignore_ascii_case(b"in-addr") => true,
        tree if tree.eq_ignore_ascii_case(b"ip6") => false,
        _ => return None,
    };
    let mut reverse = Reverse { v4, units: Vec::new(), excess: false };
    for label in labels {
        if reverse.units.len() == reverse.whole() {
            reverse.excess = true;
            break;
        }
        let label = std::str::from_utf8(label).ok()?;
        reverse.units.push(unit(label, v4)?);
    }
    Some(reverse)
}

/// One spelling each, as whoever makes these names writes them.
fn unit(label: &str, v4: bool) -> Option<u8> {
    let text = label.to_ascii_lowercase();
    let (unit, again) = if v4 {
        let unit: u8 = text.parse().ok()?;
        (unit, unit.to_string())
    } else {
        let unit = u8::from_str_radix(&text, 16).ok().filter(|unit| *unit < 16)?;
        (unit, format!("{unit:x}"))
    };
    (again == text).then_some(unit)
}

fn tree(v4: bool) -> Name {
    let labels: [&[u8]; 2] = if v4 { [b"in-addr", b"arpa"] } else { [b"ip6", b"arpa"] };
    Name::from_labels(labels).unwrap_or_else(|_| Name::root())
}

/// The name of the first `units` units.
fn name_of(reverse: &Reverse, units: usize) -> Name {
    let text = |unit: &u8| if reverse.v4 { unit.to_string() } else { format!("{unit:x}") };
    let tree = tree(reverse.v4);
    let units: Vec<String> = reverse.units.iter().take(units).rev().map(text).collect();
    Name::from_labels(units.iter().map(String::as_bytes).chain(tree.iter())).unwrap_or(tree.clone())
}

/// The name of an address.
#[cfg(test)]
pub(super) fn address_name(ip: IpAddr) -> Name {
    let (v4, units) = match ip {
        IpAddr::V4(ip) => (true, ip.octets().to_vec()),
        IpAddr::V6(ip) => (false, ip.octets().iter().flat_map(|octet| [octet >> 4, octet & 15]).collect()),
    };
    let reverse = Reverse { v4, units, excess: false };
    name_of(&reverse, reverse.units.len())
}

impl Zone {
    pub(super) fn reverse(&self, world: &dyn World, name: &Name, kind: RecordType) -> Answer {
        let elsewhere = || negative(End::Elsewhere(name.clone()));
        let Some(reverse) = parse(name) else { return elsewhere() };
        let zone = self.ranges.iter().filter_map(|range| reverse.zone_of(range)).max();
        let whole = reverse.units.len() == reverse.whole() && !reverse.excess;
        let names = if whole { self.names_of(world, reverse.first(reverse.whole())) } else { Vec::new() };
        let at = At { zone: self, world, name, kind };
        if !names.is_empty() && at.wants(RecordType::PTR) {
            return at.found(RecordType::PTR, names.into_iter().map(|name| RData::PTR(PTR(name))).collect());
        }
        let Some(units) = zone else { return elsewhere() };
        let apex = name_of(&reverse, units);
        if reverse.units.len() == units && !reverse.excess && kind == RecordType::SOA {
            return at.apex(&apex);
        }
        // The beginning of an address has others below it.
        let exists = !reverse.excess && (!whole || !names.is_empty());
        negative(if exists { End::NoData { apex } } else { End::NoSuchName { apex } })
    }

    /// What is at an address: a Service, or endpoints of headless ones.
    fn names_of(&self, world: &dyn World, ip: IpAddr) -> Vec<Name> {
        let mut names = BTreeSet::new();
        for service in world.services_at(ip) {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            names.extend(self.below(&["svc", namespace, name]));
        }
        for slice in world.slices_at(ip) {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            let Some(name) = crate::service_name(&slice) else { continue };
            let Some(service) = world.service(namespace, name) else { continue };
            if !matches!(service::kind(&service), Some(Kind::Headless)) {
                continue;
            }
            for endpoint in ready(&service, [slice.as_ref()]) {
                if endpoint.ip == ip {
                    names.extend(self.below(&["svc", namespace, name, &endpoint.host]));
                }
            }
        }
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    #[test]
    fn only_one_spelling_names_an_address() {
        let whole = parse(&name("1.0.96.10.IN-ADDR.arpa.")).unwrap();
        assert_eq!((whole.first(4).to_string(), whole.excess), ("10.96.0.1".into(), false));
        assert!(parse(&name("a.1.0.96.10.in-addr.arpa.")).unwrap().excess);
        for wrong in
            ["01.0.96.10.in-addr.arpa.", "256.in-addr.arpa.", "x.ip6.arpa.", "10.ip6.arpa.", "1.arpa."]
        {
            assert_eq!(parse(&name(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn a_range_is_as_many_zones_as_it_has_beginnings() {
        let zone = |text: &str, range: &str| parse(&name(text)).unwrap().zone_of(&range.parse().unwrap());
        assert_eq!(zone("1.0.96.10.in-addr.arpa.", "10.96.0.0/16"), Some(2));
        assert_eq!(zone("96.10.in-addr.arpa.", "10.96.0.0/16"), Some(2));
        assert_eq!(zone("10.in-addr.arpa.", "10.96.0.0/16"), None);
        assert_eq!(zone("1.0.97.10.in-addr.arpa.", "10.96.0.0/16"), None);
        assert_eq!(zone("1.0.97.10.in-addr.arpa.", "10.96.0.0/12"), Some(2));
        assert_eq!(zone("1.0.112.10.in-addr.arpa.", "10.96.0.0/12"), None);
        assert_eq!(zone("0.0.d.f.ip6.arpa.", "fd00::/16"), Some(4));
        assert_eq!(zone("1.0.96.10.in-addr.arpa.", "fd00::/16"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_address_is_read_from_its_name(v4 in any::<u32>(), v6 in any::<u128>()) {
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let reverse = parse(&address_name(ip)).unwrap();
                prop_assert_eq!(reverse.first(reverse.whole()), ip);
                prop_assert!(!reverse.excess);
            }
        }
    }
}
