//! The node's own Node object: no taints taken off, no labels that draw pods to it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::name_of;
use crate::admission::{Attributes, Operation};
use crate::status::ApiError;

const RESTRICTION: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that a node may set on itself.
const ALLOWED: [&str; 16] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "kubernetes.io/instance-type",
];
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(super) fn judge(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    let requested = name_of(attributes);
    if requested != node {
        let why = format!("node {node:?} is not allowed to modify node {requested:?}");
        return Err(attributes.forbidden(&why));
    }
    let labels = |object: &Value| object["metadata"]["labels"].clone();
    match (attributes.operation, &attributes.old) {
        (Operation::Create, _) => {
            let forbidden = forbidden(&labels(&attributes.object), &Value::Null);
            if !forbidden.is_empty() {
                let why = format!(
                    "node {node:?} is not allowed to set the following labels: {}",
                    forbidden.join(", ")
                );
                return Err(attributes.forbidden(&why));
            }
        }
        (Operation::Update, Some(old)) => {
            let same = |pointer: &str| {
                empty_as_null(attributes.object.pointer(pointer)) == empty_as_null(old.pointer(pointer))
            };
            for (pointer, what) in
                [("/spec/taints", "taints"), ("/metadata/ownerReferences", "ownerReferences")]
            {
                if !same(pointer) {
                    return Err(
                        attributes.forbidden(&format!("node {node:?} is not allowed to modify {what}"))
                    );
                }
            }
            let forbidden = forbidden(&labels(&attributes.object), &labels(old));
            if !forbidden.is_empty() {
                let why = format!("is not allowed to modify labels: {}", forbidden.join(", "));
                return Err(attributes.forbidden(&why));
            }
        }
        _ => {}
    }
    Ok(())
}

fn empty_as_null(value: Option<&Value>) -> &Value {
    match value {
        Some(Value::Array(items)) if items.is_empty() => &Value::Null,
        Some(value) => value,
        None => &Value::Null,
    }
}

/// The labels that differ and that are not the node's to set.
fn forbidden(new: &Value, old: &Value) -> Vec<String> {
    let keys = |labels: &Value| labels.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).flatten().collect();
    all.into_iter().filter(|key| new.get(key) != old.get(key)).filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within(RESTRICTION) {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    kubernetes && !ALLOWED.contains(&label) && !ALLOWED_DOMAINS.iter().any(|domain| within(domain))
}
