//! What the Endpoints of a Service should hold.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc};

use api::{constants::label, pods};
use k8s_openapi::{
    api::{
        core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service},
        discovery::v1,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::endpointslice::convert::{
    Family, addresses, families, is_endpoint, is_headless, ports, publishes_not_ready,
};

const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
pub(super) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "endpoint-controller";

type Ports = Vec<(i32, String, String, Option<String>)>;

/// The wanted object; none if `current` is right already. `selected` are the pods that the selector matches.
pub(super) fn plan(
    service: &Service,
    selected: &[&Arc<Pod>],
    current: Option<&Endpoints>,
) -> Option<Endpoints> {
    let (subsets, cut) = subsets(service, selected);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if is_headless(service) {
        labels.insert(label::HEADLESS.into(), String::new());
    } else {
        labels.remove(label::HEADLESS);
    }
    let mut wanted = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    wanted.metadata.labels = Some(labels);
    if cut {
        let annotations = wanted.metadata.annotations.get_or_insert_default();
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else if let Some(annotations) = &mut wanted.metadata.annotations {
        annotations.remove(OVER_CAPACITY);
    }
    wanted.subsets = Some(subsets);
    let same = current.is_some_and(|current| {
        current.metadata == wanted.metadata
            && current.subsets.as_deref().unwrap_or_default() == wanted.subsets.as_deref().unwrap_or_default()
    });
    (!same).then_some(wanted)
}

/// Addresses grouped by the ports that they serve, in a fixed order. True if some were cut off.
fn subsets(service: &Service, selected: &[&Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let family = families(service).first().copied().unwrap_or(Family::IPv4);
    let all = publishes_not_ready(service);
    let mut groups: BTreeMap<Ports, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let mut pods: Vec<&&Arc<Pod>> = selected.iter().filter(|pod| is_endpoint(pod, all)).collect();
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let (mut count, mut cut) = (0, false);
    for pod in pods {
        let Some(address) = address(service, pod, family) else { continue };
        let ports: Ports = ports(service, pod).into_iter().filter_map(port_key).collect();
        // A port by name that the pod lacks serves nothing; a headless Service may have none at all.
        if ports.is_empty() && !(is_headless(service) && no_ports(service)) {
            continue;
        }
        if count == MOST {
            cut = true;
            break;
        }
        count += 1;
        let (ready, not_ready) = groups.entry(ports).or_default();
        if all || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
    let subsets = groups.into_iter().map(|(ports, (mut ready, mut not_ready))| {
        ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        not_ready.sort_by(|a, b| a.ip.cmp(&b.ip));
        let ports: Vec<EndpointPort> = ports.into_iter().map(port).collect();
        EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(not_ready),
            ports: (!ports.is_empty()).then_some(ports),
        }
    });
    (subsets.collect(), cut)
}

fn no_ports(service: &Service) -> bool {
    service.spec.as_ref().is_none_or(|spec| spec.ports.as_ref().is_none_or(Vec::is_empty))
}

fn address(service: &Service, pod: &Pod, family: Family) -> Option<EndpointAddress> {
    let ip = addresses(pod).find(|address| Family::of(address) == Some(family))?;
    let spec = pod.spec.as_ref();
    let named = spec.is_some_and(|spec| spec.subdomain.is_some() && spec.subdomain == service.metadata.name);
    Some(EndpointAddress {
        ip: ip.to_string(),
        node_name: spec.and_then(|spec| spec.node_name.clone()),
        hostname: spec.and_then(|spec| spec.hostname.clone()).filter(|name| named && !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

fn port_key(port: v1::EndpointPort) -> Option<(i32, String, String, Option<String>)> {
    Some((port.port?, port.name.unwrap_or_default(), port.protocol.unwrap_or_default(), port.app_protocol))
}

fn port((port, name, protocol, app_protocol): (i32, String, String, Option<String>)) -> EndpointPort {
    EndpointPort {
        port,
        name: Some(name).filter(|name| !name.is_empty()),
        protocol: Some(protocol),
        app_protocol,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, ip: &str, ready: bool, named_port: i32) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "ns", "uid": name},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": named_port}]}]},
                "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}
            }))
            .unwrap(),
        )
    }

    #[test]
    fn pods_are_grouped_by_their_ports_and_planning_again_is_empty() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "targetPort": "http"}]}
        }))
        .unwrap();
        let pods =
            [pod("b", "10.0.0.2", true, 80), pod("a", "10.0.0.1", false, 80), pod("c", "10.0.0.3", true, 81)];
        let pods: Vec<&Arc<Pod>> = pods.iter().collect();
        let endpoints = plan(&service, &pods, None).unwrap();
        let subsets = endpoints.subsets.as_ref().unwrap();
        assert_eq!(subsets.len(), 2);
        assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subsets[0].not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subsets[1].ports.as_ref().unwrap()[0].port, 81);
        assert_eq!(endpoints.metadata.labels.as_ref().unwrap()["a"], "b");
        assert!(plan(&service, &pods, Some(&endpoints)).is_none());
    }
}
