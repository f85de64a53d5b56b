//! Models of Services to begin with.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use proptest::prelude::*;
use proxy::model::{Answer, Endpoint, Pods, PortModel, PortName, Proto, ServiceModel, Targets};

pub(crate) fn ip(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 244, 0, last))
}

pub(crate) fn endpoints(last: &[u8]) -> BTreeSet<Endpoint> {
    last.iter().map(|last| Endpoint { ip: ip(*last), port: 8080 }).collect()
}

pub(crate) fn targets(last: &[u8]) -> Targets {
    Targets { local_only: false, endpoints: endpoints(last), elsewhere: false }
}

/// Of a local policy, where these of all endpoints are on this node.
pub(crate) fn local_targets(here: &[u8], all: &[u8]) -> Targets {
    Targets { local_only: true, elsewhere: here.is_empty() && !all.is_empty(), ..targets(here) }
}

/// Cluster IP 10.96.0.NUMBER, node port 30000 + NUMBER.
pub(crate) fn service(number: u8, endpoints_at: &[u8]) -> ServiceModel {
    ServiceModel {
        created: i64::from(number),
        health: None,
        ports: vec![PortModel {
            name: PortName {
                namespace: "shop".into(),
                service: format!("web-{number}"),
                port: "http".into(),
            },
            proto: Proto::Tcp,
            port: 80,
            cluster_ip: IpAddr::V4(Ipv4Addr::new(10, 96, 0, number)),
            external_ips: BTreeSet::new(),
            balancer_ips: BTreeSet::new(),
            source_ranges: BTreeSet::new(),
            node_port: Some(30000 + u16::from(number)),
            affinity: None,
            internal: targets(endpoints_at),
            external: targets(endpoints_at),
            cluster: endpoints(endpoints_at),
            serving: BTreeSet::new(),
        }],
    }
}

/// The first port, changed.
pub(crate) fn with(mut model: ServiceModel, change: impl FnOnce(&mut PortModel)) -> ServiceModel {
    change(&mut model.ports[0]);
    model
}

pub(crate) fn pods() -> Pods {
    Pods { range: Some("10.244.0.0/16".parse().unwrap()), masquerade_all: false }
}

/// One Service of each sort.
pub(crate) fn one_of_each() -> Vec<(&'static str, ServiceModel)> {
    let sticky = with(service(2, &[3, 4]), |port| {
        port.affinity = Some(Duration::from_secs(10_800));
        port.node_port = None;
    });
    let local = with(service(3, &[5, 6]), |port| {
        port.external = local_targets(&[5], &[5, 6]);
        port.external_ips.insert("192.0.2.9".parse().unwrap());
    });
    let balanced = with(service(5, &[7]), |port| {
        port.balancer_ips.insert("192.0.2.10".parse().unwrap());
        port.source_ranges.insert("203.0.113.0/24".parse().unwrap());
        port.internal = local_targets(&[], &[7]);
    });
    let answer = Answer { namespace: "shop".into(), service: "web-5".into(), local_endpoints: 0 };
    let balanced = ServiceModel { health: Some((31005, answer)), ..balanced };
    let elsewhere = with(service(6, &[8]), |port| port.external = local_targets(&[], &[8]));
    vec![
        ("a", service(1, &[1, 2])),
        ("b", sticky),
        ("c", local),
        ("d", service(4, &[])),
        ("e", balanced),
        ("f", elsewhere),
    ]
}

/// A Service that may have anything.
pub(crate) fn any_service() -> impl Strategy<Value = ServiceModel> {
    (
        prop::collection::btree_set(1u8..6, 0..4),
        any::<(bool, bool, bool, bool)>(),
        prop::option::of(prop_oneof![Just(10u64), Just(20)]),
        prop::option::of(1u8..4),
        0i64..3,
    )
        .prop_map(|(last, (local, inner_local, node_port, ranges), affinity, external, created)| {
            let last: Vec<u8> = last.into_iter().collect();
            let mut model = service(0, &last);
            let port = &mut model.ports[0];
            port.affinity = affinity.map(Duration::from_secs);
            let here: Vec<u8> = last.iter().copied().filter(|last| last % 2 == 0).collect();
            if local {
                port.external = local_targets(&here, &last);
            }
            if inner_local {
                port.internal = local_targets(&here, &last);
            }
            if !node_port {
                port.node_port = None;
            }
            port.external_ips =
                external.into_iter().map(|last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))).collect();
            if external == Some(3) {
                port.external_ips.insert(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)));
            }
            if external == Some(1) {
                port.balancer_ips.insert(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));
                port.source_ranges.extend(ranges.then(|| "203.0.113.0/24".parse::<ipnet::IpNet>().unwrap()));
            }
            model.created = created;
            model
        })
}

/// Gives a model the name and cluster IP of the service of a number. Its external IPs, one of which is the cluster IP
/// of another, and its node port may be those of others too.
pub(crate) fn numbered(number: u8, mut model: ServiceModel) -> ServiceModel {
    for port in &mut model.ports {
        port.name.service = format!("web-{number}");
        port.cluster_ip = IpAddr::V4(Ipv4Addr::new(10, 96, 0, number));
        port.node_port = port.node_port.map(|_| 30000 + u16::from(number % 3));
    }
    model
}
