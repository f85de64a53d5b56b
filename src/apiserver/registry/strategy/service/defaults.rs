//! Defaults of a Service that do not depend on the cluster.

use serde_json::{Value, json};

use super::externally_accessible;
use crate::registry::strategy::fill::{each, fill, remove, within};

/// Three hours.
const AFFINITY_SECS: i64 = 10800;

pub(super) fn service(object: &mut Value) {
    within(object, "spec", |spec| {
        fill(spec, "sessionAffinity", "None");
        if spec["sessionAffinity"] == "None" {
            remove(spec, "sessionAffinityConfig");
        }
        let timeout = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
        if spec["sessionAffinity"] == "ClientIP" && timeout.is_none_or(Value::is_null) {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECS}});
        }
        fill(spec, "type", "ClusterIP");
        each(spec, "ports", |port| {
            fill(port, "protocol", "TCP");
            let unset = matches!(&port["targetPort"], Value::Null)
                || port["targetPort"] == 0
                || port["targetPort"] == "";
            if unset && !port["port"].is_null() {
                port["targetPort"] = port["port"].clone();
            }
        });
    });
    let external = externally_accessible(object);
    within(object, "spec", |spec| {
        if external {
            fill(spec, "externalTrafficPolicy", "Cluster");
        }
        if spec["type"] != "ExternalName" {
            fill(spec, "internalTrafficPolicy", "Cluster");
        }
        if spec["type"] == "LoadBalancer" {
            fill(spec, "allocateLoadBalancerNodePorts", true);
        }
    });
    within(object, "status", |status| {
        within(status, "loadBalancer", |balancer| {
            each(balancer, "ingress", |ingress| {
                if ingress["ip"].as_str().is_some_and(|ip| !ip.is_empty()) {
                    fill(ingress, "ipMode", "VIP");
                }
            });
        });
    });
}
