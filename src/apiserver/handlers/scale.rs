//! The `scale` subresource: `autoscaling/v1` Scale of an object that has replicas.

use api::selector::Selector;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{
    call::{Api, Call},
    decode::Expected,
    metadata,
    options::{WriteOptions, read_version},
    patch::Patch,
    prepare, read, respond,
};
use crate::{
    body::Body,
    registry::{Precondition, ScalePaths},
    status::{ApiError, FieldError, GroupKind},
    transaction::{Change, Outcome},
};

const SCALE: Expected<'_> = Expected { group: "autoscaling", version: "v1", kind: "Scale" };

pub(crate) async fn get(api: &Api, call: &Call, paths: &ScalePaths) -> Result<Response<Body>, ApiError> {
    read::fresh_enough(api, read_version(call.info.query.get("resourceVersion"))?).await?;
    let entry = call.cache(api)?.get(call.namespace(), &call.info.name);
    let entry = entry.ok_or_else(|| ApiError::not_found(&call.what(), &call.info.name))?;
    let parent = entry.value().map_err(ApiError::internal)?;
    Ok(respond::value(StatusCode::OK, call.wanted, &scale_of(&parent, paths)))
}

pub(crate) async fn update(
    api: &Api,
    call: &Call,
    paths: &ScalePaths,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "UpdateOptions")?;
    let scale = SCALE.decode(&call.headers, &body, options.field_validation)?.value;
    write(api, call, paths, options, &|_| Ok(scale.clone())).await
}

pub(crate) async fn patch(
    api: &Api,
    call: &Call,
    paths: &ScalePaths,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "PatchOptions")?;
    let patch = Patch::read(&call.headers, &body, options.field_validation)?;
    write(api, call, paths, options, &|current| patch.apply(&SCALE, current)).await
}

/// Writes the parent with the replicas of the Scale that `make` makes of the present one.
async fn write(
    api: &Api,
    call: &Call,
    paths: &ScalePaths,
    options: WriteOptions,
    make: &(dyn Fn(Value) -> Result<Value, ApiError> + Sync),
) -> Result<Response<Body>, ApiError> {
    let mut said = Vec::new();
    let mut change = |old: Option<&Value>| -> Result<Change, ApiError> {
        said.clear();
        let old = old.ok_or_else(|| ApiError::not_found(&call.row.group_resource(), &call.info.name))?;
        let scale = make(scale_of(old, paths))?;
        let mut new = old.clone();
        apply(&mut new, &scale, paths, &call.info.name)?;
        prepare::update(api, call, new, old, options.dry_run, &mut said)
    };
    let precondition = Precondition { dry_run: options.dry_run, ..Precondition::default() };
    let (namespace, name) = (call.namespace(), &call.info.name);
    let written: Outcome = api.writer.write(&call.row, namespace, name, &precondition, &mut change).await?;
    let scale = scale_of(&written.stored().value, paths);
    Ok(respond::warn(respond::value(StatusCode::OK, call.wanted, &scale), &said))
}

fn scale_of(parent: &Value, paths: &ScalePaths) -> Value {
    let mut scale = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata::text(parent, "name")},
        "spec": {}, "status": {"replicas": parent.pointer(&paths.status_replicas).and_then(Value::as_i64).unwrap_or(0)},
    });
    for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = parent["metadata"].get(field) {
            scale["metadata"][field] = value.clone();
        }
    }
    if let Some(replicas) = parent.pointer(&paths.replicas).filter(|value| value.as_i64() != Some(0)) {
        scale["spec"]["replicas"] = replicas.clone();
    }
    let selector = parent.pointer(&paths.selector).map(selector_text).unwrap_or_default();
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A LabelSelector, or a plain map of labels.
fn selector_text(selector: &Value) -> String {
    if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        return Selector::of_value(selector).map(|selector| selector.to_string()).unwrap_or_default();
    }
    let labels = selector.as_object().into_iter().flatten();
    let terms: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    terms.join(",")
}

fn apply(parent: &mut Value, scale: &Value, paths: &ScalePaths, name: &str) -> Result<(), ApiError> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    let sent = metadata::text(scale, "name");
    if !sent.is_empty() && sent != name {
        let message = format!("the name of the object ({sent}) does not match the name on the URL ({name})");
        return Err(ApiError::bad_request(message));
    }
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        let error = FieldError::invalid("spec.replicas", replicas, why);
        return Err(ApiError::invalid(&GroupKind::new("autoscaling", "Scale"), name, &[error]));
    }
    let version = metadata::text(scale, "resourceVersion");
    if version.is_empty() {
        metadata::metadata_mut(parent).remove("resourceVersion");
    } else {
        metadata::metadata_mut(parent).insert("resourceVersion".into(), version.into());
    }
    if let Some((owner, field)) = paths.replicas.rsplit_once('/')
        && let Some(members) = parent.pointer_mut(owner).and_then(Value::as_object_mut)
    {
        members.insert(field.into(), replicas.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_shows_replicas_and_selector_of_its_parent() {
        let paths = ScalePaths {
            replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: "/spec/selector".into(),
        };
        let parent = json!({
            "metadata": {"name": "d", "namespace": "n", "resourceVersion": "5"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}}, "status": {"replicas": 2},
        });
        let scale = scale_of(&parent, &paths);
        assert_eq!(scale["spec"], json!({"replicas": 3}));
        assert_eq!(scale["status"], json!({"replicas": 2, "selector": "a=b"}));
        let mut parent = parent;
        apply(
            &mut parent,
            &json!({"spec": {"replicas": 7}, "metadata": {"resourceVersion": "4"}}),
            &paths,
            "d",
        )
        .unwrap();
        assert_eq!(
            (parent["spec"]["replicas"].clone(), metadata::text(&parent, "resourceVersion")),
            (json!(7), "4")
        );
    }
}
