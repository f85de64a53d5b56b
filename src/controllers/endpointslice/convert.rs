//! Pods as endpoints of a Service.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use api::{constants::label, pods};
use k8s_openapi::{
    api::{
        core::v1::{ContainerPort, Node, ObjectReference, Pod, Service, ServicePort},
        discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, ForNode, ForZone},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};

/// An EndpointSlice's `addressType`, but for FQDN, which no controller makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }

    pub(crate) fn of(address: &str) -> Option<Self> {
        match address.parse().ok()? {
            IpAddr::V4(_) => Some(Self::IPv4),
            IpAddr::V6(_) => Some(Self::IPv6),
        }
    }
}

/// The families that a Service serves, the primary one first.
pub(crate) fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.as_ref();
    let named: Vec<Family> = spec
        .iter()
        .flat_map(|spec| spec.ip_families.iter().flatten())
        .filter_map(|family| match family.as_str() {
            "IPv4" => Some(Family::IPv4),
            "IPv6" => Some(Family::IPv6),
            _ => None,
        })
        .collect();
    if !named.is_empty() {
        return named;
    }
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    match Family::of(address) {
        Some(family) => vec![family],
        // Headless, from before families were recorded.
        None => vec![Family::IPv4, Family::IPv6],
    }
}

/// No address of its own: clients get those of the pods.
pub(crate) fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    address.is_empty() || address == "None"
}

pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false)
}

/// Whether a pod can be an endpoint at all.
pub(crate) fn is_endpoint(pod: &Pod, with_terminating: bool) -> bool {
    !pods::is_terminal(pod)
        && addresses(pod).next().is_some()
        && (with_terminating || !pods::is_terminating(pod))
}

pub(crate) fn addresses(pod: &Pod) -> impl Iterator<Item = &str> {
    let status = pod.status.as_ref();
    let many = status.into_iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| ip.ip.as_str());
    let one = status.and_then(|status| status.pod_ip.as_deref());
    let alone = status.is_some_and(|status| status.pod_ips.as_ref().is_none_or(Vec::is_empty));
    many.chain(one.filter(|_| alone)).filter(|ip| !ip.is_empty())
}

/// The Service's ports as this pod serves them. A named port that it does not have is left out.
pub(crate) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let spec = service.spec.as_ref();
    let wanted = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
    wanted
        .filter_map(|port| {
            Some(EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target(port, pod)?),
                protocol: Some(protocol(port.protocol.as_deref()).into()),
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

pub(crate) fn protocol(protocol: Option<&str>) -> &str {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP")
}

/// The number of the pod's port that a Service port leads to.
fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            // Sidecars serve too; other init containers are gone by then.
            let sidecars = spec.init_containers.iter().flatten().filter(|c| pods::is_sidecar(c));
            let containers = spec.containers.iter().chain(sidecars);
            let mut all = containers.flat_map(|container| container.ports.iter().flatten());
            let named = |candidate: &&ContainerPort| {
                candidate.name.as_ref() == Some(name)
                    && protocol(candidate.protocol.as_deref()) == protocol(port.protocol.as_deref())
            };
            all.find(named).map(|found| found.container_port)
        }
    }
}

/// The pod as an endpoint; none if it has no address of the family.
pub(crate) fn endpoint(
    service: &Service,
    pod: &Pod,
    node: Option<&Node>,
    family: Family,
) -> Option<Endpoint> {
    let addresses: Vec<String> = addresses(pod)
        .filter(|address| Family::of(address) == Some(family))
        .map(ToString::to_string)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let labels = node.and_then(|node| node.metadata.labels.as_ref());
    let zone = labels.and_then(|labels| labels.get(label::ZONE)).cloned();
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: hints(service, zone.as_deref(), node_name.as_deref()),
        hostname: hostname(service, pod),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        node_name,
        zone,
        deprecated_topology: None,
    })
}

fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let same_namespace = pod.metadata.namespace == service.metadata.namespace;
    let belongs = same_namespace && spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| belongs && !hostname.is_empty())
}

/// Where `spec.trafficDistribution` wants this endpoint to be used.
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let distribution = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.into() }]);
    let for_nodes = node.map(|node| vec![ForNode { name: node.into() }]);
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones, for_nodes: None },
        "PreferSameNode" => EndpointHints { for_zones, for_nodes },
        _ => return None,
    };
    (hints != EndpointHints::default()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": spec})).unwrap()
    }

    fn pod(extra: serde_json::Value, ready: bool) -> Pod {
        let mut pod: serde_json::Value = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"nodeName": "n1", "hostname": "h", "subdomain": "web", "containers": [{
                "name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
        });
        json_patch(&mut pod, extra);
        serde_json::from_value(pod).unwrap()
    }

    fn json_patch(target: &mut serde_json::Value, patch: serde_json::Value) {
        if let serde_json::Value::Object(patch) = patch {
            for (key, value) in patch {
                if value.is_object() {
                    json_patch(&mut target[&key], value);
                } else {
                    target[&key] = value;
                }
            }
        }
    }

    #[test]
    fn conditions_follow_readiness_and_going() {
        let plain = service(json!({"clusterIP": "10.96.0.1"}));
        let all = service(json!({"clusterIP": "10.96.0.1", "publishNotReadyAddresses": true}));
        let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let conditions = |service: &Service, pod: &Pod| {
            let endpoint = endpoint(service, pod, None, Family::IPv4).unwrap();
            let c = endpoint.conditions.unwrap();
            (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
        };
        assert_eq!(conditions(&plain, &pod(json!({}), true)), (true, true, false));
        assert_eq!(conditions(&plain, &pod(json!({}), false)), (false, false, false));
        assert_eq!(conditions(&plain, &pod(going.clone(), true)), (false, true, true));
        assert_eq!(conditions(&all, &pod(json!({}), false)), (true, false, false));
        assert_eq!(conditions(&all, &pod(going, false)), (true, false, true));
    }

    #[test]
    fn ports_are_numbers_names_or_the_service_port_itself() {
        let service = service(json!({"ports": [
            {"name": "a", "port": 80, "targetPort": "http"},
            {"name": "b", "port": 81, "targetPort": 9090},
            {"name": "c", "port": 82},
            {"name": "d", "port": 83, "targetPort": "nowhere"}]}));
        let ports = ports(&service, &pod(json!({}), true));
        let numbers: Vec<_> = ports.iter().map(|p| (p.name.clone().unwrap(), p.port.unwrap())).collect();
        assert_eq!(numbers, [("a".into(), 8080), ("b".into(), 9090), ("c".into(), 82)]);
    }

    #[test]
    fn each_family_gets_its_addresses_and_a_headless_name_its_host() {
        let service = service(json!({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"]}));
        assert_eq!(families(&service), [Family::IPv6, Family::IPv4]);
        let endpoint = endpoint(&service, &pod(json!({}), true), None, Family::IPv6).unwrap();
        assert_eq!((endpoint.addresses, endpoint.hostname.as_deref()), (vec!["fd00::1".into()], Some("h")));
    }

    #[test]
    fn a_pod_that_has_ended_or_has_no_address_is_no_endpoint() {
        assert!(!is_endpoint(&pod(json!({"status": {"phase": "Succeeded"}}), true), true));
        let bare = json!({"status": {"podIP": "", "podIPs": []}});
        assert!(!is_endpoint(&pod(bare, true), true));
    }
}
