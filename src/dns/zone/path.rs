//! What a name below the cluster's domain asks about.
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;

/// Names of objects are lower case here, whatever the question's case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The domain itself.
    Apex,
    /// `dns-version`
    Version,
    /// `svc` or `pod`: others are below it, and nothing is at it.
    Branch,
    /// `NAMESPACE.svc` or `NAMESPACE.pod`
    Namespace(String),
    /// `10-244-0-1.NAMESPACE.pod`
    Pod { namespace: String, address: IpAddr },
    /// `SERVICE.NAMESPACE.svc`
    Service { namespace: String, service: String },
    /// One or two labels more: an endpoint, a protocol, a port with its protocol. From the Service's side.
    BelowService { namespace: String, service: String, rest: Vec<String> },
    /// No name of this form can exist.
    Nothing,
}

/// None for a name that is not below the domain.
pub(super) fn parse(domain: &Name, name: &Name) -> Option<Asked> {
    if !domain.zone_of(name) {
        return None;
    }
    let below = usize::from(name.num_labels()).saturating_sub(usize::from(domain.num_labels()));
    // Nothing has more labels than `_port._protocol.service.namespace.svc`.
    if below > 5 {
        return Some(Asked::Nothing);
    }
    let mut labels = Vec::with_capacity(below);
    for label in name.iter().take(below) {
        // Object names are ASCII; a label that is no text names none of them.
        let Ok(label) = std::str::from_utf8(label) else { return Some(Asked::Nothing) };
        labels.push(label.to_ascii_lowercase());
    }
    labels.reverse();
    Some(by_labels(labels))
}

fn by_labels(labels: Vec<String>) -> Asked {
    let mut labels = labels.into_iter();
    let Some(branch) = labels.next() else { return Asked::Apex };
    let (first, second, rest) = (labels.next(), labels.next(), labels.collect::<Vec<String>>());
    match (branch.as_str(), first, second) {
        ("dns-version", None, _) => Asked::Version,
        ("svc" | "pod", None, _) => Asked::Branch,
        ("svc" | "pod", Some(namespace), None) => Asked::Namespace(namespace),
        ("svc", Some(namespace), Some(service)) if rest.is_empty() => Asked::Service { namespace, service },
        ("svc", Some(namespace), Some(service)) => Asked::BelowService { namespace, service, rest },
        ("pod", Some(namespace), Some(dashed)) if rest.is_empty() => match dashed_address(&dashed) {
            Some(address) => Asked::Pod { namespace, address },
            None => Asked::Nothing,
        },
        _ => Asked::Nothing,
    }
}

/// `10-244-0-1`, `fd00--1`
fn dashed_address(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.replace('-', ".").parse::<Ipv4Addr>() {
        return Some(IpAddr::V4(ip));
    }
    text.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// The reverse of [`dashed_address`]: what an endpoint without a hostname is called.
pub(super) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(name: &str) -> Option<Asked> {
        parse(&Name::from_ascii("cluster.local.").unwrap(), &Name::from_ascii(name).unwrap())
    }

    #[test]
    fn names_are_read_from_the_domains_side() {
        assert_eq!(asked("example.com."), None);
        assert_eq!(asked("local."), None);
        assert_eq!(asked("Cluster.LOCAL."), Some(Asked::Apex));
        assert_eq!(asked("svc.cluster.local."), Some(Asked::Branch));
        assert_eq!(asked("default.svc.cluster.local."), Some(Asked::Namespace("default".into())));
        let service = Asked::Service { namespace: "default".into(), service: "web".into() };
        assert_eq!(asked("WEB.Default.svc.cluster.local."), Some(service));
        let below = |rest: &[&str]| {
            let rest = rest.iter().map(ToString::to_string).collect();
            Some(Asked::BelowService { namespace: "ns".into(), service: "web".into(), rest })
        };
        assert_eq!(asked("web-0.web.ns.svc.cluster.local."), below(&["web-0"]));
        assert_eq!(asked("_http._tcp.web.ns.svc.cluster.local."), below(&["_tcp", "_http"]));
        assert_eq!(asked("a._http._tcp.web.ns.svc.cluster.local."), Some(Asked::Nothing));
        assert_eq!(asked("elsewhere.cluster.local."), Some(Asked::Nothing));
        assert_eq!(asked("a.dns-version.cluster.local."), Some(Asked::Nothing));
    }

    #[test]
    fn pods_are_named_by_their_dashed_addresses() {
        let pod = |ip: &str| Some(Asked::Pod { namespace: "ns".into(), address: ip.parse().unwrap() });
        assert_eq!(asked("10-244-0-7.ns.pod.cluster.local."), pod("10.244.0.7"));
        assert_eq!(asked("fd00--7.ns.pod.cluster.local."), pod("fd00::7"));
        for wrong in ["10-244-0", "10-244-0-256", "web", "10-244-0-7-1", "fd00---7"] {
            assert_eq!(asked(&format!("{wrong}.ns.pod.cluster.local.")), Some(Asked::Nothing), "{wrong}");
        }
        assert_eq!(asked("a.10-244-0-7.ns.pod.cluster.local."), Some(Asked::Nothing));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_asked_something_is_understood(
            labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..63), 0..3)
        ) {
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            let domain = Name::from_ascii("cluster.local.").unwrap();
            let below = name.append_name(&domain).unwrap();
            prop_assert!(parse(&domain, &below).is_some());
        }

        #[test]
        fn an_address_is_found_by_its_dashed_name(v4 in any::<u32>(), v6 in any::<u128>()) {
            for ip in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                // An IPv4 address inside an IPv6 one is written with dots, whose dashes nobody can take apart.
                if !ip.to_string().contains('.') || ip.is_ipv4() {
                    prop_assert_eq!(dashed_address(&dashed(ip)), Some(ip));
                }
            }
        }
    }
}
