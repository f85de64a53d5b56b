//! Services, Endpoints and EndpointSlices.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{NONE, age, first_three, labels, list, name, number, or_none, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn services() -> Vec<Column> {
    vec![
        name(),
        text("Type", "How the Service is exposed.", |object, _| string(object, "/spec/type").into()),
        text("Cluster-IP", "The address of the Service.", |object, _| {
            or_none(string(object, "/spec/clusterIPs/0"))
        }),
        text("External-IP", "Where the Service is reached from outside.", |object, _| external_ip(object)),
        text("Port(s)", "The ports that the Service exposes.", |object, _| ports(object)),
        age(),
        wide(text("Selector", "Which pods the Service sends to.", |object, _| {
            labels(object, "/spec/selector")
        })),
    ]
}

fn external_ip(service: &Value) -> Value {
    let external = || list(service, "/spec/externalIPs").iter().filter_map(Value::as_str);
    match string(service, "/spec/type") {
        "ClusterIP" | "NodePort" => or_none(&external().collect::<Vec<_>>().join(",")),
        "LoadBalancer" => {
            let mut balancers: Vec<&str> = list(service, "/status/loadBalancer/ingress")
                .iter()
                .map(|ingress| match string(ingress, "/ip") {
                    "" => string(ingress, "/hostname"),
                    ip => ip,
                })
                .filter(|place| !place.is_empty())
                .collect();
            balancers.sort_unstable();
            balancers.dedup();
            balancers.extend(external());
            if balancers.is_empty() { "<pending>".into() } else { balancers.join(",").into() }
        }
        "ExternalName" => string(service, "/spec/externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn ports(service: &Value) -> Value {
    let shown: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let (number, node) = (number(port, "/port"), number(port, "/nodePort"));
            let protocol = string(port, "/protocol");
            if node > 0 { format!("{number}:{node}/{protocol}") } else { format!("{number}/{protocol}") }
        })
        .collect();
    or_none(&shown.join(","))
}

pub(in crate::registry) fn endpoints() -> Vec<Column> {
    vec![
        name(),
        text("Endpoints", "The addresses that the Service sends to.", |object, _| {
            let mut all = Vec::new();
            for subset in list(object, "/subsets") {
                let ips = || list(subset, "/addresses").iter().map(|address| string(address, "/ip"));
                let ports = list(subset, "/ports");
                if ports.is_empty() {
                    all.extend(ips().map(str::to_owned));
                }
                for port in ports {
                    all.extend(ips().map(|ip| join(ip, number(port, "/port"))));
                }
            }
            first_three(&all, NONE)
        }),
        age(),
    ]
}

fn join(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(in crate::registry) fn endpoint_slices() -> Vec<Column> {
    vec![
        name(),
        text("AddressType", "The kind of the addresses.", |object, _| string(object, "/addressType").into()),
        text("Ports", "The ports of each endpoint.", |object, _| {
            let ports: Vec<String> = list(object, "/ports")
                .iter()
                .map(|port| match (port["port"].as_i64(), port["name"].as_str()) {
                    (Some(number), _) => number.to_string(),
                    (None, Some(name)) => name.to_owned(),
                    (None, None) => "*".to_owned(),
                })
                .collect();
            first_three(&ports, "<unset>")
        }),
        text("Endpoints", "The addresses.", |object, _| {
            let all: Vec<String> = list(object, "/endpoints")
                .iter()
                .flat_map(|endpoint| list(endpoint, "/addresses"))
                .filter_map(|address| address.as_str().map(str::to_owned))
                .collect();
            first_three(&all, "<unset>")
        }),
        age(),
    ]
}
