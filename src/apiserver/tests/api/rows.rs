//! A few kinds for the tests, with just enough particulars.

use std::sync::Arc;

use apiserver::registry::{
    Cell, Claim, ClaimValue, Column, DeleteOptions, Deletion, How, Plain, Pool, Resource, ScalePaths,
    Strategy, Subresource, Verbs,
};
use serde_json::Value;

pub(crate) fn all() -> Vec<Resource> {
    vec![
        Resource::cluster("", "v1", "Namespace", "namespaces", Arc::new(Plain)).with_status(),
        Resource::namespaced("", "v1", "ConfigMap", "configmaps", Arc::new(Plain)),
        Resource::namespaced("", "v1", "Pod", "pods", Arc::new(Pods))
            .with_status()
            .selectable("spec.nodeName", "")
            .selectable("status.phase", ""),
        Resource::namespaced("", "v1", "Service", "services", Arc::new(Services)).with_status(),
        deployments(),
    ]
}

fn deployments() -> Resource {
    let paths = ScalePaths {
        replicas: "/spec/replicas".into(),
        status_replicas: "/status/replicas".into(),
        selector: "/spec/selector".into(),
    };
    Resource::namespaced("apps", "v1", "Deployment", "deployments", Arc::new(Plain))
        .with_status()
        .with_subresource(Subresource {
            name: "scale".into(),
            verbs: Verbs::GET_UPDATE_PATCH,
            kind: ("autoscaling".into(), "v1".into(), "Scale".into()),
            how: How::Scale(paths),
        })
        .with_columns(vec![Column {
            name: "Name".into(),
            r#type: "string".into(),
            format: "name".into(),
            priority: 0,
            description: "the name".into(),
            cell: Cell::Of(|object, _| object["metadata"]["name"].clone()),
        }])
}

struct Pods;

impl Strategy for Pods {
    fn deletion(&self, _object: &Value, options: &DeleteOptions) -> Deletion {
        Deletion::Graceful { seconds: options.grace_period_seconds.unwrap_or(30) }
    }

    fn returns_deleted(&self) -> Option<bool> {
        Some(true)
    }
}

/// Claims `spec.clusterIP` and the node ports.
struct Services;

impl Strategy for Services {
    fn claims(&self, object: &Value) -> Vec<Claim> {
        let address = object["spec"]["clusterIP"].as_str();
        let mut claims = vec![Claim {
            pool: Pool::ClusterIpV4,
            value: address.map_or(ClaimValue::Any, |text| ClaimValue::Exactly(text.into())),
            write_to: vec!["/spec/clusterIP".into(), "/spec/clusterIPs/0".into()],
            field: "spec.clusterIPs".into(),
        }];
        for (at, port) in object["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
            if object["spec"]["type"] == "NodePort" {
                let value = port["nodePort"].as_i64();
                claims.push(Claim {
                    pool: Pool::NodePort,
                    value: value.map_or(ClaimValue::Any, |port| ClaimValue::Exactly(port.to_string())),
                    write_to: vec![format!("/spec/ports/{at}/nodePort")],
                    field: format!("spec.ports[{at}].nodePort"),
                });
            }
        }
        claims
    }
}
