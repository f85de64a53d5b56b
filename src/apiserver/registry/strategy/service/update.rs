//! What an update of a Service keeps, drops and may not change.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{externally_accessible, is_headless, may_have_node_ports, needs_cluster_ip, needs_health_port};
use crate::registry::strategy::at::At;
use crate::registry::strategy::fill;
use crate::registry::strategy::findings::Findings;

/// A client that does not send what the server chose means to keep it.
pub(super) fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs"] {
            let missing =
                fill::unset(&new["spec"], field) || new["spec"][field].as_array().is_some_and(Vec::is_empty);
            if missing && let Some(value) = old["spec"].get(field) {
                new["spec"][field] = value.clone();
            }
        }
    }
    if may_have_node_ports(old) && may_have_node_ports(new) {
        let ports = |service: &Value| service["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let used = |ports: &[Value]| -> BTreeSet<i64> {
            ports.iter().filter_map(|port| port["nodePort"].as_i64()).filter(|port| *port != 0).collect()
        };
        let (olds, news) = (ports(old), ports(new));
        let taken: BTreeSet<i64> = used(&olds).intersection(&used(&news)).copied().collect();
        fill::each(&mut new["spec"], "ports", |port| {
            if port["nodePort"].as_i64().unwrap_or_default() != 0 {
                return;
            }
            let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
            let before = olds.iter().rev().find(|old| name(old) == name(port));
            if let Some(number) = before.and_then(|port| port["nodePort"].as_i64())
                && number != 0
                && !taken.contains(&number)
            {
                port["nodePort"] = number.into();
            }
        });
    }
    let health = old["spec"]["healthCheckNodePort"].clone();
    if needs_health_port(old)
        && needs_health_port(new)
        && new["spec"]["healthCheckNodePort"].as_i64().unwrap_or_default() == 0
        && !health.is_null()
    {
        new["spec"]["healthCheckNodePort"] = health;
    }
}

/// Fields that the server filled in for a type go when the type goes, unless the client changed them too.
pub(super) fn drop_what_the_type_lost(new: &mut Value, old: &Value) {
    let same = |new: &Value, field: &str| new["spec"].get(field) == old["spec"].get(field);
    let mut lost: Vec<&str> = Vec::new();
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        lost.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
    }
    if old["spec"]["type"] == "LoadBalancer" && new["spec"]["type"] != "LoadBalancer" {
        lost.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if externally_accessible(old) && !externally_accessible(new) {
        lost.push("externalTrafficPolicy");
    }
    if needs_health_port(old) && !needs_health_port(new) {
        lost.push("healthCheckNodePort");
    }
    for field in lost {
        if same(new, field) {
            fill::remove(&mut new["spec"], field);
        }
    }
    if may_have_node_ports(old) && !may_have_node_ports(new) {
        let number = |port: &Value| port["nodePort"].as_i64().unwrap_or_default();
        let all = |service: &Value| -> BTreeSet<i64> {
            service["spec"]["ports"]
                .as_array()
                .into_iter()
                .flatten()
                .map(number)
                .filter(|n| *n != 0)
                .collect()
        };
        if all(new).is_subset(&all(old)) {
            fill::each(&mut new["spec"], "ports", |port| fill::remove(port, "nodePort"));
        }
    }
    if new["spec"]["type"] == "ExternalName" {
        fill::remove(&mut new["spec"], "internalTrafficPolicy");
    }
    if new["spec"]["type"] != "LoadBalancer" && new["status"].is_object() {
        new["status"]["loadBalancer"] = serde_json::json!({});
    }
}

pub(super) fn validate(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let external = |spec: &At<'_>| spec.get("type").text() == "ExternalName";
    let both_headless = is_headless(new.value()) && is_headless(old.value());
    if !external(&spec) && !external(&before) && !both_headless {
        lists(&spec, &before, "clusterIPs", "primary clusterIP can not be unset", found);
        lists(&spec, &before, "ipFamilies", "primary ipFamily can not be unset", found);
    }
    let (class, was) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    let balancer = |spec: &At<'_>| spec.get("type").text() == "LoadBalancer";
    if balancer(&spec) && balancer(&before) && class.value() != was.value() {
        found.invalid(&class, "may not change once set");
    }
    let (port, was) = (spec.get("healthCheckNodePort"), before.get("healthCheckNodePort"));
    if needs_health_port(new.value()) && needs_health_port(old.value()) && port.int() != was.int() {
        found.forbidden(&port, "field is immutable");
    }
}

/// Two lists of which the second element may come and go, and the first stays.
fn lists(new: &At<'_>, old: &At<'_>, field: &str, unset: &str, found: &mut Findings) {
    let (now, then) = (new.get(field), old.get(field));
    if then.is_empty() {
        return;
    }
    let released = if field == "clusterIPs" { "clusterIP" } else { "ipFamily" };
    if now.is_empty() {
        return found.invalid_value(&now.index(0), now.value().clone(), unset);
    }
    for i in 0..now.len().min(then.len()) {
        if now.index(i).value() != then.index(i).value() {
            found.invalid_value(&now.index(i), now.value().clone(), "may not change once set");
        }
    }
    let policy = new.get("ipFamilyPolicy");
    if then.len() == 2 && now.len() == 1 && policy.text() != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {released}");
        found.invalid(&policy, &detail);
    }
}
