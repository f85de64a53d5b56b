//! The rules of `metadata` that hold for every kind, in upstream's words.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use api::names;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    registry::{NameRule, Resource},
    status::{ApiError, FieldError},
};

/// 256 KiB (upstream's `TotalAnnotationSizeLimitB`).
const MAX_ANNOTATION_BYTES: usize = 256 << 10;
const MAX_GENERATED_BASE: usize = 58;
const SUFFIX_CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
pub(crate) const ORPHAN: &str = "orphan";
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// A text of the metadata; empty if there is none.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = json!({});
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let Some(metadata) = object["metadata"].as_object_mut() else {
        unreachable!("made an object just above")
    };
    metadata
}

pub(crate) fn finalizers(object: &Value) -> Vec<String> {
    let list = object["metadata"]["finalizers"].as_array().into_iter().flatten();
    list.filter_map(Value::as_str).map(ToString::to_string).collect()
}

pub(crate) fn set_finalizers(object: &mut Value, finalizers: Vec<String>) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}

pub(crate) fn is_being_deleted(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Removes what the server keeps to itself or no longer serves.
pub(crate) fn drop_server_side(object: &mut Value) {
    let metadata = metadata_mut(object);
    metadata.remove("managedFields");
    metadata.remove("selfLink");
}

/// Fills the request's namespace in; another one in the object is refused.
pub(crate) fn ensure_namespace(row: &Resource, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    if !row.is_namespaced() {
        metadata_mut(object).remove("namespace");
        return Ok(());
    }
    match text(object, "namespace") {
        "" => drop(metadata_mut(object).insert("namespace".into(), namespace.into())),
        same if same == namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// `base` and five random characters that spell no words.
pub(crate) fn generated_name(base: &str, random: u128) -> String {
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_string();
    let mut rest = random;
    for _ in 0..5 {
        let count = SUFFIX_CHARS.len() as u128;
        let at = usize::try_from(rest % count).unwrap_or(0);
        name.push(char::from(SUFFIX_CHARS[at]));
        rest /= count;
    }
    name
}

/// RFC 3339 in whole seconds.
pub(crate) fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the server says about a new object.
pub(crate) fn begin_create(row: &Resource, object: &mut Value, uid: String, now: Timestamp) {
    let counts = counts_generations(row);
    let metadata = metadata_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uid.into());
    metadata.insert("creationTimestamp".into(), time_text(now).into());
    if counts {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Whether `metadata.generation` counts changes of the desired state: for most kinds outside the core group,
/// and for pods and replication controllers, as upstream.
pub(crate) fn counts_generations(row: &Resource) -> bool {
    if let Some(decided) = row.strategy.counts_generations() {
        return decided;
    }
    match row.group.as_ref() {
        "" => matches!(row.plural.as_ref(), "pods" | "replicationcontrollers"),
        "apps" => row.plural != "controllerrevisions",
        "batch" | "policy" | "networking.k8s.io" | "flowcontrol.apiserver.k8s.io" => true,
        "apiextensions.k8s.io" | "apiregistration.k8s.io" | "admissionregistration.k8s.io" => true,
        "scheduling.k8s.io" => true,
        "resource.k8s.io" => matches!(row.plural.as_ref(), "deviceclasses" | "resourceslices"),
        group => !group.ends_with(".k8s.io") && group.contains('.') && row.has_status(),
    }
}

/// Keeps what an update cannot change, before the strategy looks at it.
pub(crate) fn begin_update(new: &mut Value, old: &Value) {
    let kept = |field: &str| old["metadata"][field].clone();
    let metadata = metadata_mut(new);
    let mut keep = |field: &str, value: Value| {
        if value.is_null() {
            metadata.remove(field);
        } else {
            metadata.insert(field.into(), value);
        }
    };
    keep("generation", kept("generation"));
    keep("creationTimestamp", kept("creationTimestamp"));
    if !kept("deletionTimestamp").is_null() {
        keep("deletionTimestamp", kept("deletionTimestamp"));
    }
    if metadata.get("deletionGracePeriodSeconds").is_none_or(Value::is_null)
        && !kept("deletionGracePeriodSeconds").is_null()
    {
        metadata.insert("deletionGracePeriodSeconds".into(), kept("deletionGracePeriodSeconds"));
    }
    if metadata.get("uid").and_then(Value::as_str).unwrap_or_default().is_empty() {
        metadata.insert("uid".into(), kept("uid"));
    }
}

/// Counts a change of the desired state, unless the strategy has counted it already.
pub(crate) fn count_generation(row: &Resource, new: &mut Value, old: &Value) {
    let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
    let counted = new["metadata"]["generation"].as_i64().unwrap_or(0) != before;
    if counts_generations(row) && !counted && desired_differs(new, old) {
        metadata_mut(new).insert("generation".into(), (before + 1).into());
    }
}

fn desired_differs(new: &Value, old: &Value) -> bool {
    let desired = |object: &Value| -> Map<String, Value> {
        let members = object.as_object().cloned().unwrap_or_default();
        let told = |key: &str| !matches!(key, "metadata" | "status" | "kind" | "apiVersion");
        members.into_iter().filter(|(key, _)| told(key)).collect()
    };
    desired(new) != desired(old)
}

pub(crate) fn validate_create(row: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let rule = row.strategy.name_rule();
    let base = text(object, "generateName");
    for message in check_name(rule, base, true).into_iter().filter(|_| !base.is_empty()) {
        errors.push(FieldError::invalid("metadata.generateName", base, message));
    }
    let name = text(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    } else {
        let messages = check_name(rule, name, false);
        errors
            .extend(messages.into_iter().map(|message| FieldError::invalid("metadata.name", name, message)));
    }
    if row.is_namespaced() {
        let namespace = text(object, "namespace");
        let messages = names::dns1123_label(namespace);
        let invalid = |message| FieldError::invalid("metadata.namespace", namespace, message);
        errors.extend(messages.into_iter().map(invalid));
    }
    errors.extend(validate_common(object));
    errors
}

fn check_name(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let masked = if prefix { names::mask_trailing_dash(name) } else { name.to_string() };
    match rule {
        NameRule::DnsSubdomain => names::dns1123_subdomain(&masked),
        NameRule::DnsLabel => names::dns1123_label(&masked),
        NameRule::Dns1035Label => names::dns1035_label(&masked),
        NameRule::PathSegment if prefix => names::path_segment_prefix(name),
        NameRule::PathSegment => names::path_segment_name(name),
    }
}

fn validate_common(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let map = |field: &str| object["metadata"][field].as_object().into_iter().flatten();
    for (key, value) in map("labels") {
        let field = "metadata.labels";
        let key_errors = names::qualified_name(key).into_iter();
        errors.extend(key_errors.map(|message| FieldError::invalid(field, key.as_str(), message)));
        let value = value.as_str().unwrap_or_default();
        let value_errors = names::label_value(value).into_iter();
        errors.extend(value_errors.map(|message| FieldError::invalid(field, value, message)));
    }
    let mut annotation_bytes = 0;
    for (key, value) in map("annotations") {
        let messages = names::qualified_name(&key.to_lowercase()).into_iter();
        errors.extend(
            messages.map(|message| FieldError::invalid("metadata.annotations", key.as_str(), message)),
        );
        annotation_bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if annotation_bytes > MAX_ANNOTATION_BYTES {
        errors.push(FieldError::too_long("metadata.annotations", MAX_ANNOTATION_BYTES));
    }
    errors.extend(validate_owners(object));
    errors.extend(validate_finalizers(object));
    errors
}

fn validate_owners(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let owners = &object["metadata"]["ownerReferences"];
    let field = "metadata.ownerReferences";
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let part = |key: &str| owner[key].as_str().unwrap_or_default();
        let mut need = |key: &str, why: &str| {
            errors.push(FieldError::invalid(&format!("{field}.{key}"), part(key), why));
        };
        if part("apiVersion").rsplit('/').next().unwrap_or_default().is_empty() {
            need("apiVersion", "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if part(key).is_empty() {
                need(key, "must not be empty");
            }
        }
        if (part("apiVersion"), part("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(field, owner.clone(), why));
        }
        if owner["controller"].as_bool() == Some(true) {
            let shown = format!("{}/{}", part("kind"), part("name"));
            match &controller {
                None => controller = Some(shown),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {shown}"
                    );
                    errors.push(FieldError::invalid(field, owners.clone(), why));
                }
            }
        }
    }
    errors
}

fn validate_finalizers(object: &Value) -> Vec<FieldError> {
    let field = "metadata.finalizers";
    let list = finalizers(object);
    let mut errors = Vec::new();
    for finalizer in &list {
        let messages = names::qualified_name(finalizer).into_iter();
        errors.extend(messages.map(|message| FieldError::invalid(field, finalizer.as_str(), message)));
    }
    if list.iter().any(|f| f == ORPHAN) && list.iter().any(|f| f == FOREGROUND) {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        errors.push(FieldError::invalid(field, list, why));
    }
    errors
}

pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_being_deleted(old) {
        let before: BTreeSet<String> = finalizers(old).into_iter().collect();
        let added: BTreeSet<String> =
            finalizers(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|text| crate::status::quote(text)).collect();
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                shown.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", why));
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (is, was) = (&new["metadata"][field], &old["metadata"][field]);
        if is != was {
            errors.push(FieldError::invalid(&format!("metadata.{field}"), is.clone(), "field is immutable"));
        }
    }
    errors.extend(validate_common(new));
    errors
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::Plain;

    fn row() -> Resource {
        Resource::namespaced("apps", "v1", "Deployment", "deployments", Arc::new(Plain)).with_status()
    }

    #[track_caller]
    fn refuses(object: &Value, texts: &[&str]) {
        let mut object = object.clone();
        object["metadata"]["namespace"] = "ns".into();
        let errors: Vec<String> = validate_create(&row(), &object).iter().map(ToString::to_string).collect();
        assert_eq!(errors, texts);
    }

    #[test]
    fn metadata_is_validated_in_upstreams_words() {
        refuses(&json!({"metadata": {"name": "ok", "labels": {"a/b": "c"}}}), &[]);
        refuses(
            &json!({"metadata": {}}),
            &["metadata.name: Required value: name or generateName is required"],
        );
        refuses(
            &json!({"metadata": {"name": "x", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}}),
            &["metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"],
        );
        refuses(
            &json!({"metadata": {"name": "x", "finalizers": ["orphan", "foregroundDeletion"]}}),
            &[
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ],
        );
    }

    #[test]
    fn identity_cannot_be_updated() {
        let old = json!({"metadata": {"name": "a", "uid": "u"}});
        let new = json!({"metadata": {"name": "b", "uid": "u"}});
        let texts: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["metadata.name: Invalid value: \"b\": field is immutable"]);
    }

    #[test]
    fn finalizers_cannot_be_added_to_what_is_being_deleted() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["x/y", "x/z"]);
        let texts: Vec<String> = validate_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/z\"}"
            ]
        );
    }

    #[test]
    fn a_generation_counts_changes_of_the_desired_state_only() {
        let old = json!({"metadata": {"generation": 3}, "spec": {"a": 1}, "status": {}});
        for (change, generation) in [
            (json!({"spec": {"a": 2}}), 4),
            (json!({"spec": {"a": 1}, "status": {"x": 1}}), 3),
            (json!({"spec": {"a": 1}}), 3),
        ] {
            let mut new = change;
            begin_update(&mut new, &old);
            count_generation(&row(), &mut new, &old);
            assert_eq!(new["metadata"]["generation"], generation, "{new}");
        }
    }

    #[test]
    fn generated_names_fit_and_keep_their_base() {
        let name = generated_name("web-", 12345);
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generated_name(&"é".repeat(60), 0).len(), 63);
        assert_ne!(generated_name("a", 1), generated_name("a", 2));
    }
}
