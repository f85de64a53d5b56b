//! Nodes and pods for tests, as short as what a test says about them.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::{cluster::Cluster, pod::PodInfo};

/// A node with 4 processors, 8 GiB and 10 slots; `more` is merged over it.
pub(crate) fn node(cluster: &mut Cluster, name: &str, more: Value) {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "20Gi", "pods": "10"}},
    });
    merge(&mut node, more);
    cluster.set_node(name, &serde_json::from_value(node).unwrap());
}

/// A pod of one container that asks for nothing; `more` is merged over it.
pub(crate) fn pod(name: &str, more: Value) -> Arc<PodInfo> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod, more);
    Arc::new(PodInfo::of(&Arc::new(serde_json::from_value(pod).unwrap())))
}

/// As [`pod`], asking for these resources.
pub(crate) fn asking(name: &str, requests: Value) -> Arc<PodInfo> {
    pod(name, json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
