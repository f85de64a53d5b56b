//! Validation of a Service.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::names;

use super::{Family, externally_accessible, is_headless, needs_health_port};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::strategy::{addresses, meta, pod};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";

pub(super) fn service(at: &At<'_>, found: &mut Findings) {
    let spec = at.get("spec");
    let headless = is_headless(at.value());
    let (kind, ports) = (spec.get("type").text(), spec.get("ports"));
    if ports.is_empty() && !headless && kind != "ExternalName" {
        found.required(&ports, "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let ip = spec.get("clusterIPs").index(0);
            found.invalid(&ip, &format!("may not be set to 'None' for {kind} services"));
        }
        "ExternalName" => external_name(&spec, found),
        _ => {}
    }
    port_list(&ports, found);
    meta::labels(&spec.get("selector"), found);
    affinity(&spec, found);
    for ip in spec.get("externalIPs").items() {
        addresses::endpoint_ip(&ip, found);
    }
    found.one_of(&spec.get("type"), &TYPES);
    node_ports(&spec, found);
    balancer(&spec, found);
    policies(at, &spec, found);
}

fn external_name(spec: &At<'_>, found: &mut Findings) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].map(|name| spec.get(name)) {
        if !field.is_empty() {
            found.forbidden(&field, "may not be set for ExternalName services");
        }
    }
    let name = spec.get("externalName");
    match name.text().strip_suffix('.').unwrap_or(name.text()) {
        "" => found.required(&name, ""),
        text => {
            for complaint in names::dns1123_subdomain(text) {
                found.invalid_value(&name, text, &complaint);
            }
        }
    }
}

fn port_list(list: &At<'_>, found: &mut Findings) {
    let mut names_seen = BTreeSet::new();
    for port in list.items() {
        let name = port.get("name");
        if name.is_empty() {
            if list.len() > 1 {
                found.required(&name, "");
            }
        } else {
            found.complaints(&name, names::dns1123_label(name.text()));
            if !names_seen.insert(name.text()) {
                found.duplicate(&name);
            }
        }
        let number = port.get("port");
        let value = number.int().unwrap_or_default();
        for complaint in names::port_number(value) {
            found.invalid_value(&number, value, &complaint);
        }
        found.one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        pod::validate::port_or_name(&port.get("targetPort"), found);
        let protocol = port.get("appProtocol");
        if protocol.present() {
            found.complaints(&protocol, names::qualified_name(protocol.text()));
        }
    }
    let mut taken = BTreeSet::new();
    for port in list.items() {
        let (protocol, number) = (port.get("protocol").text(), port.get("port").int());
        if !taken.insert((protocol, number)) {
            let shown = serde_json::json!({"protocol": protocol, "port": number, "targetPort": 0});
            found.duplicate_value(&port, shown);
        }
    }
}

fn node_ports(spec: &At<'_>, found: &mut Findings) {
    let mut taken = BTreeSet::new();
    for port in spec.get("ports").items() {
        let node_port = port.get("nodePort");
        let Some(number) = node_port.int().filter(|number| *number != 0) else { continue };
        if spec.get("type").text() == "ClusterIP" {
            found.forbidden(&node_port, "may not be used when `type` is 'ClusterIP'");
        }
        if !taken.insert((port.get("protocol").text(), number)) {
            found.duplicate(&node_port);
        }
    }
}

fn affinity(spec: &At<'_>, found: &mut Findings) {
    let affinity = spec.get("sessionAffinity");
    found.one_of(&affinity, &["ClientIP", "None"]);
    let config = spec.get("sessionAffinityConfig");
    if affinity.text() == "None" && config.present() {
        found.forbidden(&config, "must not be set when session affinity is None");
    }
    if affinity.text() == "ClientIP" {
        let timeout = config.get("clientIP").get("timeoutSeconds");
        match timeout.int() {
            None => found.required(&timeout, "when session affinity type is ClientIP"),
            Some(1..=86400) => {}
            Some(_) => found.invalid(&timeout, "must be greater than 0 and less than 86400"),
        }
    }
}

fn balancer(spec: &At<'_>, found: &mut Findings) {
    let is_balancer = spec.get("type").text() == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = At::named("spec.LoadBalancerSourceRanges", ranges.value());
        if !is_balancer {
            found.forbidden(&at, ONLY_BALANCER);
        }
        for range in at.items() {
            if range.text().trim().parse::<ipnet::IpNet>().is_err() {
                found.invalid(&range, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
            }
        }
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"].map(|name| spec.get(name)) {
        if field.present() && !is_balancer {
            found.forbidden(&field, ONLY_BALANCER);
        }
    }
    let class = spec.get("loadBalancerClass");
    if class.present() && is_balancer {
        found.complaints(&class, names::qualified_name(class.text()));
    }
}

fn policies(service: &At<'_>, spec: &At<'_>, found: &mut Findings) {
    let external = spec.get("externalTrafficPolicy");
    if externally_accessible(service.value()) {
        found.one_of(&external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        found.invalid(&external, "may only be set for externally-accessible services");
    }
    let health = spec.get("healthCheckNodePort");
    if let Some(number) = health.int().filter(|number| *number != 0) {
        if needs_health_port(service.value()) {
            found.complaints(&health, names::port_number(number));
        } else {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            found.invalid(&health, detail);
        }
    }
    let internal = spec.get("internalTrafficPolicy");
    if spec.get("type").text() == "ExternalName" {
        found.one_of_if_any(&internal, &["Cluster", "Local"]);
    } else {
        found.one_of(&internal, &["Cluster", "Local"]);
    }
    found.one_of_if_any(
        &spec.get("trafficDistribution"),
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
    );
}

/// The families and the addresses fit each other, and the cluster.
pub(super) fn families(service: &At<'_>, cluster: &[Family], found: &mut Findings) {
    let spec = service.get("spec");
    if spec.get("type").text() == "ExternalName" {
        return;
    }
    let (one, many, families) = (spec.get("clusterIP"), spec.get("clusterIPs"), spec.get("ipFamilies"));
    if !many.is_empty() && one.is_empty() {
        found.invalid(&many, "must be empty when `clusterIP` is not specified");
    } else if !many.is_empty() && one.value() != many.index(0).value() {
        found.invalid(&many, "first value must match `clusterIP`");
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        if !["IPv4", "IPv6"].contains(&family.text()) {
            found.not_supported(&family, &["IPv4", "IPv6"]);
        } else if !seen.insert(family.text()) {
            found.duplicate(&family);
        }
    }
    found.one_of_if_any(&spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    if is_headless(service.value()) {
        if many.len() > 1 {
            found.invalid(&many, "'None' must be the first and only value");
        }
        return;
    }
    cluster_has(&spec, cluster, found);
    address_list(&many, &families, found);
}

fn cluster_has(spec: &At<'_>, cluster: &[Family], found: &mut Findings) {
    let families = spec.get("ipFamilies");
    for family in families.items() {
        if !cluster.iter().any(|has| has.word() == family.text()) {
            found.invalid(&family, "not configured on this cluster");
        }
    }
    if spec.get("ipFamilyPolicy").text() == "RequireDualStack" && cluster.len() < 2 {
        found.invalid(&spec.get("ipFamilyPolicy"), "this cluster is not configured for dual-stack services");
    }
}

fn address_list(many: &At<'_>, families: &At<'_>, found: &mut Findings) {
    if many.len() > 2 {
        found.invalid(many, "may only hold up to 2 values");
    }
    for (i, ip) in many.items().enumerate() {
        let Ok(address) = ip.text().parse::<IpAddr>() else {
            found.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            continue;
        };
        let (is, expected) = (Family::of(address).word(), families.index(i).text());
        if !expected.is_empty() && is != expected {
            let detail = format!("expected an {expected} value as indicated by `ipFamilies[{i}]`");
            found.invalid(&ip, &detail);
        }
    }
}

pub(super) fn status(service: &At<'_>, found: &mut Findings) {
    let ingress = service.get("status").get("loadBalancer").get("ingress");
    if !ingress.is_empty() && service.get("spec").get("type").text() != "LoadBalancer" {
        found.forbidden(&ingress, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for entry in ingress.items() {
        let ip = entry.get("ip");
        if !ip.is_empty() && ip.text().parse::<IpAddr>().is_err() {
            found.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
        found.one_of_if_any(&entry.get("ipMode"), &["Proxy", "VIP"]);
    }
}
