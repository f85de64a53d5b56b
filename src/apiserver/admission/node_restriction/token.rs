//! `serviceaccounts/token`: a node gets tokens for the pods that it runs, for the audiences that they name.

use serde_json::Value;

use crate::admission::{Attributes, Operation, Reader};
use crate::status::{ApiError, GroupResource};

pub(super) fn judge(node: &str, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
    if attributes.operation != Operation::Create || attributes.subresource != "token" {
        return Ok(());
    }
    let spec = &attributes.object["spec"];
    let reference = &spec["boundObjectRef"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, uid) = (text(&reference["name"]), text(&reference["uid"]));
    if reference["apiVersion"] != "v1" || reference["kind"] != "Pod" || name.is_empty() {
        return Err(attributes.forbidden("node requested token not bound to a pod"));
    }
    if uid.is_empty() {
        return Err(attributes.forbidden("node requested token with a pod binding without a uid"));
    }
    let pods = GroupResource::new("", "pods");
    let pod =
        reader.get(&pods, &attributes.namespace, &name).ok_or_else(|| ApiError::not_found(&pods, &name))?;
    if pod["metadata"]["uid"] != uid {
        return Err(attributes.forbidden(&format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if pod["spec"]["nodeName"] != node {
        return Err(attributes.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    let audiences: Vec<&str> =
        spec["audiences"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let audience = match audiences[..] {
        [] => "",
        [audience] => audience,
        _ => return Err(attributes.forbidden("node may only request 0 or 1 audiences")),
    };
    if names_audience(&pod, audience, reader) {
        return Ok(());
    }
    let user = &attributes.user.name;
    Err(attributes.forbidden(&format!(
        "audience {audience:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    )))
}

/// A projected token of the pod, or a CSI driver of its volumes, is for the audience.
fn names_audience(pod: &Value, audience: &str, reader: &dyn Reader) -> bool {
    let for_it = |value: &Value| value.as_str().unwrap_or_default() == audience;
    let drivers = GroupResource::new("storage.k8s.io", "csidrivers");
    pod["spec"]["volumes"].as_array().into_iter().flatten().any(|volume| {
        let projected = volume["projected"]["sources"].as_array().into_iter().flatten().any(|source| {
            source["serviceAccountToken"].is_object() && for_it(&source["serviceAccountToken"]["audience"])
        });
        projected
            || volume["csi"]["driver"].as_str().is_some_and(|driver| {
                reader.get(&drivers, "", driver).is_some_and(|driver| {
                    let requests = driver["spec"]["tokenRequests"].as_array();
                    requests.into_iter().flatten().any(|request| for_it(&request["audience"]))
                })
            })
    })
}
