//! What a Service holds of the cluster's pools: addresses, node ports, the health check port.

use serde_json::Value;

use super::{is_headless, may_have_node_ports, needs_cluster_ip, needs_health_port};
use crate::registry::{Claim, ClaimValue, Pool};

pub(super) fn of(service: &Value) -> Vec<Claim> {
    let mut claims = addresses(service);
    claims.extend(node_ports(service));
    if needs_health_port(service) {
        claims.push(Claim {
            pool: Pool::NodePort,
            value: port_value(&service["spec"]["healthCheckNodePort"]),
            write_to: vec!["/spec/healthCheckNodePort".to_owned()],
            field: "spec.healthCheckNodePort".to_owned(),
        });
    }
    claims
}

fn addresses(service: &Value) -> Vec<Claim> {
    if !needs_cluster_ip(service) || is_headless(service) {
        return Vec::new();
    }
    let families = service["spec"]["ipFamilies"].as_array().into_iter().flatten().enumerate();
    let claim = |(i, family): (usize, &Value)| {
        let given = service["spec"]["clusterIPs"][i].as_str().filter(|ip| !ip.is_empty());
        let mut write_to = vec![format!("/spec/clusterIPs/{i}")];
        if i == 0 {
            write_to.push("/spec/clusterIP".to_owned());
        }
        Claim {
            pool: if family == "IPv6" { Pool::ClusterIpV6 } else { Pool::ClusterIpV4 },
            value: given.map_or(ClaimValue::Any, |ip| ClaimValue::Exactly(ip.to_owned())),
            write_to,
            field: format!("spec.clusterIPs[{i}]"),
        }
    };
    families.map(claim).collect()
}

/// Ports of one number share a node port: DNS over TCP and over UDP are reached at the same place.
fn node_ports(service: &Value) -> Vec<Claim> {
    let ports = service["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted =
        service["spec"]["allocateLoadBalancerNodePorts"] != false || service["spec"]["type"] == "NodePort";
    if !may_have_node_ports(service) {
        return Vec::new();
    }
    let mut claims: Vec<Claim> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let value = port_value(&port["nodePort"]);
        let write_to = format!("/spec/ports/{i}/nodePort");
        let shares = |other: &usize| {
            let other = &ports[*other];
            other["port"] == port["port"]
                && other["protocol"] != port["protocol"]
                && [&value, &port_value(&other["nodePort"])].contains(&&ClaimValue::Any)
        };
        let partner = (0..i).find(shares).and_then(|other| {
            let pointer = format!("/spec/ports/{other}/nodePort");
            claims.iter().position(|claim| claim.write_to.contains(&pointer))
        });
        let same = claims.iter().position(|claim| value != ClaimValue::Any && claim.value == value);
        if let Some(position) = same.or(partner) {
            let claim = &mut claims[position];
            if claim.value == ClaimValue::Any {
                claim.value = value;
            }
            claim.write_to.push(write_to);
        } else if value != ClaimValue::Any || wanted {
            let field = format!("spec.ports[{i}].nodePort");
            claims.push(Claim { pool: Pool::NodePort, value, write_to: vec![write_to], field });
        }
    }
    claims
}

fn port_value(port: &Value) -> ClaimValue {
    match port.as_i64() {
        None | Some(0) => ClaimValue::Any,
        Some(number) => ClaimValue::Exactly(number.to_string()),
    }
}
