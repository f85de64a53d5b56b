//! Pods: a node shows its static pods as mirror pods, reports on its own pods, and deletes them.

use std::sync::Arc;

use api::constants::annotation::CONFIG_MIRROR as MIRROR;
use serde_json::Value;

use crate::admission::{Attributes, Operation, Reader, is_mirror, references};
use crate::status::{ApiError, GroupResource};

pub(super) fn judge(node: &str, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
    match attributes.subresource.as_str() {
        "" => match attributes.operation {
            Operation::Create => create(node, attributes, reader),
            Operation::Delete => {
                let pod = existing(attributes, reader)?;
                own(&pod, node).map_err(|()| {
                    let why = format!("node {node:?} can only delete pods with spec.nodeName set to itself");
                    attributes.forbidden(&why)
                })
            }
            Operation::Update | Operation::Connect => Err(attributes.forbidden(&format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            ))),
        },
        "status" => status(node, attributes),
        "eviction" => {
            let pod = existing(attributes, reader)?;
            own(&pod, node).map_err(|()| {
                let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
                attributes.forbidden(&why)
            })
        }
        other => Err(attributes.forbidden(&format!(
            "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
        ))),
    }
}

fn own(pod: &Value, node: &str) -> Result<(), ()> {
    if pod["spec"]["nodeName"] == node { Ok(()) } else { Err(()) }
}

fn existing(attributes: &Attributes, reader: &dyn Reader) -> Result<Arc<Value>, ApiError> {
    let pods = GroupResource::new("", "pods");
    let in_body = || attributes.object["metadata"]["name"].as_str().unwrap_or_default();
    let name = if attributes.name.is_empty() { in_body() } else { attributes.name.as_str() };
    if name.is_empty() {
        return Err(attributes.forbidden("could not determine pod from request data"));
    }
    reader.get(&pods, &attributes.namespace, name).ok_or_else(|| ApiError::not_found(&pods, name))
}

fn create(node: &str, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
    let pod = &attributes.object;
    let refuse = |why: String| Err(attributes.forbidden(&why));
    if !is_mirror(pod) {
        return refuse(format!(
            "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
        ));
    }
    if own(pod, node).is_err() {
        return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
    let owner = match owners {
        [] => {
            return refuse(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        [owner] => owner,
        _ => {
            return refuse(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            ));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
    }
    if owner["controller"] != true {
        return refuse(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        ));
    }
    if owner["blockOwnerDeletion"] == true {
        return refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
    }
    let nodes = GroupResource::new("", "nodes");
    let itself = reader.get(&nodes, "", node).ok_or_else(|| ApiError::not_found(&nodes, node))?;
    let uid = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if owner["uid"] != itself["metadata"]["uid"] {
        let (given, known) = (uid(&owner["uid"]), uid(&itself["metadata"]["uid"]));
        return refuse(format!("node {node} UID mismatch: expected {given} got {known}"));
    }
    if let Some(reference) = references(&pod["spec"]).into_iter().next() {
        return refuse(format!("node {node:?} can not create pods that reference {reference}"));
    }
    Ok(())
}

fn status(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    let (Operation::Update, Some(old)) = (attributes.operation, &attributes.old) else {
        return Err(attributes.forbidden("unexpected operation"));
    };
    let new = &attributes.object;
    if own(old, node).is_err() {
        return Err(attributes.forbidden(&format!(
            "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
        )));
    }
    let labels = |pod: &Value| pod["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    if labels(old) != labels(new) {
        return Err(attributes.forbidden(&format!("node {node:?} cannot update labels through pod status")));
    }
    let claims = |pod: &Value| pod["status"]["resourceClaimStatuses"].clone();
    if claims(old) != claims(new) {
        return Err(attributes.forbidden(&format!("node {node:?} cannot update resource claim statues")));
    }
    Ok(())
}
