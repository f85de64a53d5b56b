//! What upstream v1.36.3 answered to creates (`parity/upstream.json`, recorded with `dryRun=All`), and what the rows
//! make of the same objects: the same object, or the same mistakes in the same fields. Of ReplicationControllers,
//! DaemonSets, ControllerRevisions and the kinds that only upstream's controllers act on (`parity/upstream_kinds.json`),
//! its strategies were asked without a server around them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::admission::{self, Attributes, Operation, Plugin, Reader};
use crate::registry::{ClaimValue, Registry};
use crate::status::{ApiError, GroupResource};
use crate::user::UserInfo;

/// Upstream tells these otherwise: in the words of Go's JSON parser, with a node's information spelled out although
/// it is empty, and of a changed IP family only the first mistake.
const OTHERWISE: &[&str] = &["secret docker", "node", "service family"];

/// The objects that the plugins look at.
struct World(Registry);

impl Reader for World {
    fn get(&self, what: &GroupResource, _namespace: &str, name: &str) -> Option<Arc<Value>> {
        let object = match (what.resource.as_str(), name) {
            ("namespaces", _) => json!({"metadata": {"name": name}, "status": {"phase": "Active"}}),
            ("serviceaccounts", "default") => json!({"metadata": {"name": name}}),
            ("priorityclasses", "system-node-critical") => json!({
                "metadata": {"name": name}, "value": 2_000_001_000, "preemptionPolicy": "PreemptLowerPriority"
            }),
            _ => return None,
        };
        Some(Arc::new(object))
    }

    fn list(&self, _what: &GroupResource, _namespace: &str) -> Vec<Arc<Value>> {
        Vec::new()
    }

    fn changed(&self, _what: &GroupResource) -> u64 {
        0
    }

    fn registry(&self) -> &Registry {
        &self.0
    }
}

fn attributes(row: &Resource, served: usize, object: Value, operation: Operation) -> Attributes {
    Attributes {
        operation,
        user: UserInfo { name: "admin".into(), groups: vec!["system:masters".into()], ..UserInfo::default() },
        resource: row.group_resource(),
        version: row.served[served].version.to_string(),
        kind: row.kind.to_string(),
        subresource: String::new(),
        namespace: object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        object,
        old: None,
        delete_options: None,
        dry_run: true,
        warnings: Vec::new(),
    }
}

fn admitted(mut attributes: Attributes) -> Result<Value, ApiError> {
    let world = World(Registry::new(Vec::new(), Vec::new()));
    let plugins = admission::plugins(&crate::authz::Authorization::new());
    let (operation, resource) = (attributes.operation, attributes.resource.clone());
    let interested = |plugin: &&Arc<dyn Plugin>| plugin.handles(operation, &resource, "");
    for plugin in plugins.iter().filter(interested) {
        plugin.mutate(&mut attributes, &world)?;
    }
    Ok(attributes.object)
}

/// The time that was put in place of the recording's own.
fn then() -> jiff::Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// What becomes of an object on its way to the store, metadata apart.
fn create(row: &Resource, served: usize, object: &Value) -> Result<Value, ApiError> {
    let mut object = object.clone();
    if let Some(conversion) = row.served[served].conversion {
        (conversion.to_storage)(&mut object);
    }
    if row.is_namespaced() {
        object["metadata"]["namespace"] = "default".into();
    }
    row.strategy.defaults(&mut object);
    let mut object = admitted(attributes(row, served, object, Operation::Create))?;
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    if row.has_status()
        && !row.strategy.keeps_status_on_create()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    row.strategy.prepare_create(&mut object);
    row.strategy.stamp(&mut object, None, then());
    let errors = row.strategy.validate_create(&object);
    if !errors.is_empty() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::invalid(&row.group_kind(), name, &errors));
    }
    allocate(row, &mut object);
    Ok(object)
}

/// Writes something where the store's transaction would.
fn allocate(row: &Resource, object: &mut Value) {
    for claim in row.strategy.claims(object) {
        for pointer in claim.write_to.iter().filter(|_| claim.value == ClaimValue::Any) {
            let (parent, last) = pointer.rsplit_once('/').unwrap();
            if parent == "/spec/clusterIPs" && !object["spec"]["clusterIPs"].is_array() {
                object["spec"]["clusterIPs"] = json!([]);
            }
            match object.pointer_mut(parent).unwrap() {
                Value::Array(items) => items.push("chosen".into()),
                parent => parent[last] = "chosen".into(),
            }
        }
    }
}

/// Without what differs from server to server.
fn comparable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("generation");
        metadata.remove("creationTimestamp");
        // A plugin adds them, and not all that is recorded had plugins.
        metadata.remove("finalizers");
    }
    let allocated = ["/spec/clusterIP", "/spec/clusterIPs", "/spec/healthCheckNodePort"];
    for pointer in allocated {
        if let Some(value) = object.pointer_mut(pointer)
            && *value != json!("None")
            && *value != json!(["None"])
        {
            *value = "chosen".into();
        }
    }
    for port in object.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if port["nodePort"] != Value::Null {
            port["nodePort"] = "chosen".into();
        }
    }
    for condition in
        object.pointer_mut("/status/conditions").and_then(Value::as_array_mut).into_iter().flatten()
    {
        condition["lastTransitionTime"] = "then".into();
    }
    let mut value = without_nulls(&object);
    let text = value.to_string();
    if let Some(at) = text.find("kube-api-access-") {
        let volume = &text[at..at + 21];
        value = serde_json::from_str(&text.replace(volume, "kube-api-access-XXXXX")).unwrap();
    }
    value
}

/// Without nulls, and without lists and maps that are empty: the encoding decides about those.
fn without_nulls(value: &Value) -> Value {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), without_nulls(value)))
            .filter(|(_, value)| says(value))
            .collect(),
        Value::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// Reason, field and message of each mistake; those of names and labels are found elsewhere.
fn causes(list: impl Iterator<Item = (String, String, String)>) -> BTreeSet<String> {
    let elsewhere = |(reason, field, _): &(String, String, String)| {
        let generic = ["metadata.name", "metadata.labels", "metadata.annotations", "metadata.generateName"];
        reason == "FieldValueInvalid" && generic.contains(&field.as_str())
    };
    list.filter(|cause| !elsewhere(cause))
        .map(|(reason, field, message)| format!("{reason} {field}: {}", without_object(&message)))
        .collect()
}

/// Upstream shows objects in the words of its own memory (`{"Privileged":true,...}`), which nobody else knows.
fn without_object(message: &str) -> String {
    // What follows is the difference between two pods, in those same words.
    let message = message.lines().next().unwrap_or_default();
    match (message.find(" value: {"), message.rfind('}')) {
        (Some(from), Some(to)) if from < to => {
            format!("{} value: {{}}{}", &message[..from], &message[to + 1..])
        }
        _ => message.to_owned(),
    }
}

/// How an outcome differs from the recorded one.
fn judge(case: &Value, outcome: Result<Value, ApiError>) -> Option<String> {
    let recorded = |cause: &Value| {
        let text = |i: usize| cause[i].as_str().unwrap_or_default().to_owned();
        (text(0), text(1), text(2))
    };
    let theirs = causes(case["causes"].as_array().into_iter().flatten().map(recorded));
    match outcome {
        Ok(_) if case["causes"].is_array() && theirs.is_empty() => None,
        Ok(object) if case["answer"].is_object() => {
            let (ours, theirs) = (comparable(&object), comparable(&case["answer"]));
            let patch = json_patch::diff(&theirs, &ours);
            (!patch.is_empty()).then(|| patch.iter().map(|op| format!("    {op}\n")).collect())
        }
        Ok(_) => Some(format!("    accepted; upstream: {theirs:#?}\n")),
        Err(error) => {
            let details = error.details.clone().unwrap_or_default();
            let ours = details.causes.into_iter().map(|cause| (cause.reason, cause.field, cause.message));
            let ours = causes(ours);
            if case["answer"].is_object() || ours.is_empty() {
                return Some(format!("    refused: {}\n", error.message));
            }
            let missing: String = theirs.difference(&ours).map(|cause| format!("    - {cause}\n")).collect();
            let extra: String = ours.difference(&theirs).map(|cause| format!("    + {cause}\n")).collect();
            let all = missing + &extra;
            (!all.is_empty()).then_some(all)
        }
    }
}

/// Judges each case by the row that its path names.
fn each_row(cases: &[Value], judge: impl Fn(&Value, &Resource, usize) -> Option<String>) -> String {
    let cluster = Cluster { service_families: vec![Family::V4], upstream_kinds: UpstreamKinds::Served };
    let (stored, _) = rows(&cluster, &Actions::default());
    let registry = Registry::new(stored, Vec::new());
    let rows = registry.rows();
    let mut differences = String::new();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let path = case["path"].as_str().unwrap().parse().unwrap();
        let info = crate::request::parse(&http::Method::POST, &path).unwrap();
        let entry = rows.lookup(&info.group, &info.version, &info.resource);
        let Some(crate::registry::Entry::Stored(row, served)) = entry else { panic!("no row for {name}") };
        if let Some(difference) = judge(case, row, *served).filter(|_| !OTHERWISE.contains(&name)) {
            differences.push_str(&format!("{name}\n{difference}"));
        }
    }
    differences
}

fn created(case: &Value, row: &Resource, served: usize) -> Option<String> {
    let outcome = create(row, served, &case["object"]).map(|mut object| {
        if let Some(conversion) = row.served[served].conversion {
            (conversion.from_storage)(&mut object);
        }
        object
    });
    judge(case, outcome)
}

#[test]
fn objects_become_what_upstream_makes_of_them() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("parity/upstream.json")).unwrap();
    let differences = each_row(&cases, created);
    assert!(differences.is_empty(), "- upstream, + ours\n{differences}");
}

/// An update as the handlers make it, metadata apart; `sub` is empty or `/status`.
fn update(row: &Resource, sub: &str, new: &Value, old: &Value) -> Result<Value, ApiError> {
    let mut new = new.clone();
    row.strategy.defaults(&mut new);
    let errors = if sub.is_empty() {
        let mut attributes = attributes(row, 0, new, Operation::Update);
        attributes.old = Some(Arc::new(old.clone()));
        new = admitted(attributes)?;
        if let Some(status) = old.get("status").filter(|_| row.has_status()) {
            new["status"] = status.clone();
        }
        row.strategy.prepare_update(&mut new, old);
        row.strategy.stamp(&mut new, Some(old), then());
        row.strategy.validate_update(&new, old)
    } else {
        new["spec"] = old["spec"].clone();
        row.strategy.prepare_status(&mut new, old);
        row.strategy.stamp(&mut new, Some(old), then());
        row.strategy.validate_status(&new, old)
    };
    if errors.is_empty() {
        allocate(row, &mut new);
        return Ok(new);
    }
    Err(ApiError::invalid(&row.group_kind(), "u", &errors))
}

fn updated(case: &Value, row: &Resource, _served: usize) -> Option<String> {
    judge(case, update(row, case["sub"].as_str().unwrap(), &case["new"], &case["old"]))
}

#[test]
fn updates_change_what_upstream_lets_them_change() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("parity/updates.json")).unwrap();
    let differences = each_row(&cases, updated);
    assert!(differences.is_empty(), "- upstream, + ours\n{differences}");
}

#[test]
fn what_only_upstreams_controllers_act_on_becomes_the_same() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("parity/upstream_kinds.json")).unwrap();
    let (updates, creates): (Vec<Value>, Vec<Value>) =
        cases.into_iter().partition(|case| case["old"].is_object());
    let differences = each_row(&creates, created) + &each_row(&updates, updated);
    assert!(differences.is_empty(), "- upstream, + ours\n{differences}");
}
