//! From a Service and its EndpointSlices to the model.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use super::{
    Answer, Place, PortModel, PortName, Proto, ServiceModel,
    endpoints::{candidates, ready_here, serving, targets},
};

/// The model of one Service on the node at `place`. `slices` are those of this Service.
#[must_use]
pub fn build(service: &Service, slices: &[&EndpointSlice], place: &Place) -> ServiceModel {
    let Some(spec) = &service.spec else { return ServiceModel::default() };
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceModel::default();
    }
    let mut ports = Vec::new();
    for cluster_ip in cluster_ips(spec) {
        for port in spec.ports.iter().flatten() {
            ports.extend(model_port(service, spec, port, cluster_ip, slices, place));
        }
    }
    // One without a time has no age to insist on.
    let created = service.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    if ports.is_empty() {
        return ServiceModel::default();
    }
    let health = health(service, spec, &ports, slices, place);
    ServiceModel { created, ports, health }
}

/// A load balancer is told by which nodes a local policy lets it come.
fn health(
    service: &Service,
    spec: &ServiceSpec,
    ports: &[PortModel],
    slices: &[&EndpointSlice],
    place: &Place,
) -> Option<(u16, Answer)> {
    let number =
        spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)?;
    if !is_balanced(spec) || spec.external_traffic_policy.as_deref() != Some("Local") {
        return None;
    }
    // A pod counts once, however many ports it has.
    let mut local: BTreeSet<IpAddr> = BTreeSet::new();
    for port in ports {
        local.extend(ready_here(&candidates(slices, &port.name.port, port.is_ipv6(), place)));
    }
    let answer = Answer {
        namespace: service.metadata.namespace.clone()?,
        service: service.metadata.name.clone()?,
        local_endpoints: local.len(),
    };
    Some((number, answer))
}

/// The cluster IPs of both families; none for a headless Service.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let listed = spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.iter());
    let mut ips: Vec<IpAddr> = listed.filter_map(|ip| ip.parse().ok()).collect();
    ips.dedup();
    ips.sort();
    ips.dedup();
    ips
}

fn proto(name: Option<&str>) -> Option<Proto> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Proto::Tcp),
        "UDP" => Some(Proto::Udp),
        "SCTP" => Some(Proto::Sctp),
        _ => None,
    }
}

fn model_port(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    cluster_ip: IpAddr,
    slices: &[&EndpointSlice],
    place: &Place,
) -> Option<PortModel> {
    let name = PortName {
        namespace: service.metadata.namespace.clone()?,
        service: service.metadata.name.clone()?,
        port: port.name.clone().unwrap_or_default(),
    };
    let found = candidates(slices, &name.port, cluster_ip.is_ipv6(), place);
    let balancer_ips = balancer_ips(service, spec, cluster_ip.is_ipv6());
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    Some(PortModel {
        proto: proto(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok()?,
        external_ips: parsed(spec.external_ips.iter().flatten(), cluster_ip.is_ipv6()),
        source_ranges: source_ranges(spec, cluster_ip.is_ipv6(), &balancer_ips, place),
        balancer_ips,
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0),
        affinity: affinity(spec),
        internal: targets(&found, is_local(&spec.internal_traffic_policy)),
        external: targets(&found, is_local(&spec.external_traffic_policy)),
        cluster: targets(&found, false).endpoints,
        serving: serving(&found),
        cluster_ip,
        name,
    })
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let seconds =
        spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    // Three hours, the API's default.
    Some(Duration::from_secs(seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(10_800)))
}

fn is_balanced(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
}

/// The addresses of one family; what is none is passed over.
fn parsed<'a>(texts: impl Iterator<Item = &'a String>, ipv6: bool) -> BTreeSet<IpAddr> {
    texts.filter_map(|ip| ip.parse().ok()).filter(|ip: &IpAddr| ip.is_ipv6() == ipv6).collect()
}

fn balancer_ips(service: &Service, spec: &ServiceSpec, ipv6: bool) -> BTreeSet<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let balanced = balancer
        .into_iter()
        .flatten()
        // With ipMode Proxy the load balancer sends to a node port by itself (KEP-1860).
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref());
    parsed(balanced.filter(|_| is_balanced(spec)), ipv6)
}

/// Only where there is a load balancer. A range that lets everybody in is as none; where all ranges are of the other
/// family, nobody may come: that is no reason to let everybody in. A node that has the load balancer's address too asks with
/// that: it may where this node may.
fn source_ranges(
    spec: &ServiceSpec,
    ipv6: bool,
    balancer_ips: &BTreeSet<IpAddr>,
    place: &Place,
) -> BTreeSet<IpNet> {
    let all: BTreeSet<IpNet> = spec
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .filter(|_| is_balanced(spec))
        .filter_map(|net| net.trim().parse().ok())
        .map(|net: IpNet| net.trunc())
        .collect();
    let mut own: BTreeSet<IpNet> = all.iter().copied().filter(|net| net.addr().is_ipv6() == ipv6).collect();
    if own.iter().any(|net| place.addresses.iter().any(|ip| net.contains(ip))) {
        own.extend(balancer_ips.iter().map(|ip| IpNet::from(*ip)));
    }
    match own.iter().any(|net| net.prefix_len() == 0) {
        true => BTreeSet::new(),
        false if own.is_empty() => all,
        false => own,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Endpoint;

    fn here() -> Place {
        Place {
            node: "a".into(),
            zone: Some("east".into()),
            addresses: [IpAddr::from([203, 0, 113, 7])].into(),
        }
    }

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec}))
            .unwrap()
    }

    fn slice(endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]})).unwrap()
    }

    fn ips(targets: &super::super::Targets) -> Vec<String> {
        targets.endpoints.iter().map(|Endpoint { ip, port }| format!("{ip}:{port}")).collect()
    }

    fn web(more: &Value) -> Service {
        let mut spec = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service(spec)
    }

    #[test]
    fn only_ready_endpoints_take_traffic() {
        let slice = slice(&json!([
            {"addresses": ["10.244.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.244.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.244.0.3"]}
        ]));
        let model = build(&web(&json!({})), &[&slice], &here());
        assert_eq!(ips(&model.ports[0].internal), ["10.244.0.1:8080", "10.244.0.3:8080"]);
        assert_eq!(model.ports[0].node_port, Some(30080));
    }

    #[test]
    fn endpoints_that_still_serve_take_traffic_when_no_other_does() {
        let slice = slice(&json!([
            {"addresses": ["10.244.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.0.2"], "conditions": {"ready": false, "serving": false, "terminating": true}}
        ]));
        let model = build(&web(&json!({})), &[&slice], &here());
        assert_eq!(ips(&model.ports[0].internal), ["10.244.0.1:8080"]);
    }

    #[test]
    fn hints_keep_traffic_near_while_every_endpoint_has_them() {
        let endpoint = |last: u8, node: &str, hints: Value| json!({"addresses": [format!("10.244.0.{last}")], "nodeName": node, "hints": hints});
        let zone = |zone: &str| json!({"forZones": [{"name": zone}]});
        let near = |endpoints: Value| {
            let model = build(&web(&json!({})), &[&slice(&endpoints)], &here());
            assert_eq!(model.ports[0].cluster, model.ports[0].internal.endpoints);
            ips(&model.ports[0].internal)
                .iter()
                .map(|at| at.split([':', '.']).nth(3).unwrap().parse().unwrap())
                .collect::<Vec<u8>>()
        };
        let east_and_west = json!([endpoint(1, "b", zone("east")), endpoint(2, "c", zone("west"))]);
        assert_eq!(near(east_and_west), [1]);
        assert_eq!(
            near(json!([endpoint(1, "b", zone("west")), endpoint(2, "c", zone("west"))])),
            [1, 2],
            "none is near"
        );
        assert_eq!(
            near(json!([endpoint(1, "b", zone("east")), endpoint(2, "c", json!({}))])),
            [1, 2],
            "not all have hints"
        );
        let node = |node: &str| json!({"forZones": [{"name": "east"}], "forNodes": [{"name": node}]});
        assert_eq!(near(json!([endpoint(1, "b", node("b")), endpoint(2, "a", node("a"))])), [2]);
        assert_eq!(
            near(json!([endpoint(1, "b", node("b")), endpoint(2, "c", node("c"))])),
            [1, 2],
            "by the zone then"
        );
    }

    #[test]
    fn a_local_policy_keeps_to_this_node_and_knows_of_others() {
        let slice = slice(&json!([{"addresses": ["10.244.1.1"], "nodeName": "b"}]));
        let model = build(&web(&json!({"externalTrafficPolicy": "Local"})), &[&slice], &here());
        assert!(model.ports[0].external.elsewhere && model.ports[0].external.endpoints.is_empty());
        assert_eq!(ips(&model.ports[0].internal), ["10.244.1.1:8080"]);
    }

    #[test]
    fn a_load_balancer_is_told_how_many_endpoints_this_node_has() {
        let slice = slice(
            &json!([{"addresses": ["10.244.1.1"], "nodeName": "a"}, {"addresses": ["10.244.2.1"], "nodeName": "b"}]),
        );
        let local =
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000});
        let health = build(&web(&local), &[&slice], &here()).health;
        assert_eq!(health.map(|(port, answer)| (port, answer.local_endpoints)), Some((31000, 1)));
        assert_eq!(build(&web(&json!({"healthCheckNodePort": 31000})), &[&slice], &here()).health, None);
        // It still serves who comes, but nobody shall be sent.
        let ending = json!({"ready": false, "serving": true, "terminating": true});
        let last =
            self::slice(&json!([{"addresses": ["10.244.1.1"], "nodeName": "a", "conditions": ending}]));
        let model = build(&web(&local), &[&last], &here());
        assert_eq!(ips(&model.ports[0].external), ["10.244.1.1:8080"]);
        assert_eq!(model.health.map(|(_, answer)| answer.local_endpoints), Some(0));
    }

    #[test]
    fn ranges_of_the_other_family_let_nobody_in_and_everybodys_everybody() {
        let ranges = |ranges: &[&str]| {
            let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
            build(&web(&spec), &[], &here()).ports[0].source_ranges.len()
        };
        assert_eq!(ranges(&["192.0.2.0/24", "2001:db8::/32"]), 1);
        assert_eq!(ranges(&["2001:db8::/32"]), 1);
        assert_eq!(ranges(&["0.0.0.0/0", "192.0.2.0/24"]), 0);
        assert_eq!(
            build(&web(&json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})), &[], &here()).ports[0]
                .source_ranges
                .len(),
            0
        );
    }

    #[test]
    fn a_node_that_may_come_may_with_the_load_balancers_address_too() {
        let ranges = |range: &str| {
            let mut service = web(&json!({"type": "LoadBalancer", "loadBalancerSourceRanges": [range]}));
            let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.10"}, {"ip": "2001:db8::10"}]}});
            service.status = serde_json::from_value(status).unwrap();
            let ranges = build(&service, &[], &here()).ports[0].source_ranges.clone();
            ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ranges("203.0.113.0/24"), ["192.0.2.10/32", "203.0.113.0/24"]);
        assert_eq!(ranges("198.51.100.0/24"), ["198.51.100.0/24"]);
    }

    #[test]
    fn headless_and_external_name_services_have_no_rules() {
        assert_eq!(
            build(&web(&json!({"clusterIP": "None", "clusterIPs": ["None"]})), &[], &here()),
            ServiceModel::default()
        );
        assert_eq!(build(&web(&json!({"type": "ExternalName"})), &[], &here()), ServiceModel::default());
    }

    #[test]
    fn a_dual_stack_service_has_a_port_in_each_family() {
        let model = build(&web(&json!({"clusterIPs": ["10.96.0.9", "fd00::9"]})), &[], &here());
        assert_eq!(model.ports.iter().map(|p| p.cluster_ip.is_ipv6()).collect::<Vec<_>>(), [false, true]);
    }
}
