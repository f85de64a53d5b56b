//! The node's own Node object: no taints taken off, no labels that draw pods to it, no ranges that draw packets to it.

use std::collections::BTreeSet;

use api::node_labels::may_set_itself;
use serde_json::Value;

use super::name_of;
use crate::admission::{Attributes, Operation};
use crate::status::ApiError;

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
            // Other nodes send what is for these to it. Upstream lets a node choose; here a controller does.
            let chosen = ["/spec/podCIDR", "/spec/podCIDRs"];
            if chosen.iter().any(|pointer| !empty_as_null(attributes.object.pointer(pointer)).is_null()) {
                return Err(attributes.forbidden(&format!("node {node:?} is not allowed to set podCIDRs")));
            }
        }
        (Operation::Update, Some(old)) => {
            let same = |pointer: &str| {
                empty_as_null(attributes.object.pointer(pointer)) == empty_as_null(old.pointer(pointer))
            };
            for (pointer, what) in [
                ("/spec/taints", "taints"),
                ("/spec/podCIDR", "podCIDRs"),
                ("/spec/podCIDRs", "podCIDRs"),
                ("/metadata/ownerReferences", "ownerReferences"),
            ] {
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
        Some(Value::String(text)) if text.is_empty() => &Value::Null,
        Some(value) => value,
        None => &Value::Null,
    }
}

/// The labels that differ and that are not the node's to set.
fn forbidden(new: &Value, old: &Value) -> Vec<String> {
    let keys = |labels: &Value| labels.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let all: BTreeSet<String> = keys(new).into_iter().chain(keys(old)).flatten().collect();
    all.into_iter().filter(|key| new.get(key) != old.get(key)).filter(|key| !may_set_itself(key)).collect()
}
