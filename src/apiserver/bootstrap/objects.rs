//! The objects themselves.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use serde_json::{Value, json};

use super::Wanted;
use crate::authz::policy as rbac;
use crate::registry::strategy::small::SYSTEM_CLASSES;
use crate::status::GroupResource;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const SERVICE: &str = "kubernetes";

/// Where this server is reached.
#[derive(Clone, Debug)]
pub struct Place {
    /// The first address of the Service range.
    pub service_ip: IpAddr,
    /// The port of the `kubernetes` Service.
    pub service_port: u16,
    pub endpoint: Endpoint,
}

/// What stands behind the `kubernetes` Service.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The addresses of all servers of the cluster, of one family.
    pub addresses: Vec<IpAddr>,
    pub port: u16,
}

/// Everything, in the order in which it depends on each other.
pub fn all(place: &Place) -> Vec<Wanted> {
    let mut wanted = namespaces();
    wanted.extend(priority_classes());
    wanted.extend(policy());
    wanted.push(service(place));
    wanted.extend(endpoint(&place.endpoint));
    wanted
}

pub fn namespaces() -> Vec<Wanted> {
    let wanted = |name: &&str| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Wanted::existing(GroupResource::new("", "namespaces"), object)
    };
    NAMESPACES.iter().map(wanted).collect()
}

pub fn priority_classes() -> Vec<Wanted> {
    let description = |name: &str| match name {
        "system-node-critical" => {
            "Used for system critical pods that must not be moved from their current node."
        }
        _ => {
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."
        }
    };
    let wanted = |(name, value): &(&str, i64)| Wanted {
        what: GroupResource::new("scheduling.k8s.io", "priorityclasses"),
        object: json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description(name),
        }),
        repair: |existing, wanted| with_fields(existing, wanted, &["value", "globalDefault"]),
    };
    SYSTEM_CLASSES.iter().map(wanted).collect()
}

/// The roles and bindings that every cluster has.
pub fn policy() -> Vec<Wanted> {
    let objects = rbac::objects().into_iter();
    objects.map(|(what, object)| Wanted { what, object, repair: rbac::reconcile }).collect()
}

fn service(place: &Place) -> Wanted {
    let object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": place.service_ip.to_string(), "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None",
            "ports": [{
                "name": "https", "protocol": "TCP", "port": place.service_port,
                "targetPort": place.endpoint.port,
            }],
        },
    });
    Wanted::existing(GroupResource::new("", "services"), object)
}

/// Endpoints and EndpointSlice of the `kubernetes` Service: nobody else writes them.
pub fn endpoint(endpoint: &Endpoint) -> Vec<Wanted> {
    let port = json!([{"name": "https", "port": endpoint.port, "protocol": "TCP"}]);
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let v6 = endpoint.addresses.first().is_some_and(IpAddr::is_ipv6);
    let one = |address: &String| json!({"addresses": [address], "conditions": {"ready": true}});
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": SERVICE, "namespace": "default",
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": addresses.iter().map(one).collect::<Vec<Value>>(),
        "ports": port,
    });
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": SERVICE, "namespace": "default",
            // The slice is written here too: nobody has to make one of these.
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": ips, "ports": port}],
    });
    vec![
        Wanted {
            what: GroupResource::new("", "endpoints"),
            object: endpoints,
            repair: |existing, wanted| with_fields(existing, wanted, &["subsets"]),
        },
        Wanted {
            what: GroupResource::new("discovery.k8s.io", "endpointslices"),
            object: slice,
            repair: |existing, wanted| with_fields(existing, wanted, &["endpoints", "ports"]),
        },
    ]
}

/// The existing object with the wanted labels and these fields; `None` if it has them.
fn with_fields(existing: &Value, wanted: &Value, fields: &[&str]) -> Option<Value> {
    let mut repaired = existing.clone();
    for (key, value) in wanted["metadata"]["labels"].as_object().into_iter().flatten() {
        repaired["metadata"]["labels"][key.as_str()] = value.clone();
    }
    for field in fields {
        match wanted.get(*field) {
            Some(value) => repaired[*field] = value.clone(),
            None => crate::registry::strategy::fill::remove(&mut repaired, field),
        }
    }
    (repaired != *existing).then_some(repaired)
}
