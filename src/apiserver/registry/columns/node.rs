//! Nodes.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use serde_json::Value;

use super::{NONE, age, list, name, or_none, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn nodes() -> Vec<Column> {
    vec![
        name(),
        text("Status", "The status of the node", |node, _| status(node)),
        text("Roles", "The roles of the node", |node, _| roles(node)),
        age(),
        text("Version", "The version of the node's agent.", |node, _| {
            string(node, "/status/nodeInfo/kubeletVersion").into()
        }),
        wide(text("Internal-IP", "The node's address in the cluster.", |node, _| {
            address(node, "InternalIP")
        })),
        wide(text("External-IP", "The node's address for the world.", |node, _| address(node, "ExternalIP"))),
        wide(text("OS-Image", "The node's operating system.", |node, _| {
            info(string(node, "/status/nodeInfo/osImage"))
        })),
        wide(text("Kernel-Version", "The node's kernel.", |node, _| {
            let version = string(node, "/status/nodeInfo/kernelVersion");
            let version = if version.is_empty() { "<unknown>" } else { version };
            match string(node, "/status/nodeInfo/architecture") {
                "" => version.into(),
                architecture => format!("{version} ({architecture})").into(),
            }
        })),
        wide(text("Container-Runtime", "What runs the node's containers.", |node, _| {
            info(string(node, "/status/nodeInfo/containerRuntimeVersion"))
        })),
    ]
}

fn status(node: &Value) -> Value {
    let ready = list(node, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        None => "Unknown",
        Some(condition) if condition["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status.into()
}

fn roles(node: &Value) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            None => None,
        })
        .filter(|role| !role.is_empty())
        .collect();
    or_none(&roles.into_iter().collect::<Vec<_>>().join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    let found = list(node, "/status/addresses").iter().find(|address| address["type"] == kind);
    found.map_or_else(|| NONE.into(), |address| string(address, "/address").into())
}

fn info(text: &str) -> Value {
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}
