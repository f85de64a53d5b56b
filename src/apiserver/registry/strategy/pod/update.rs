//! What may change of a pod once it is made.

use std::collections::BTreeSet;

use api::{constants::annotation::CONFIG_MIRROR as MIRROR, names};
use serde_json::Value;

use super::scheduling;
use crate::registry::strategy::at::At;
use crate::registry::strategy::fill;
use crate::registry::strategy::findings::{Findings, IMMUTABLE};

const UPDATABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,\
    `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub(super) fn pod(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    annotations(new, old, found);
    let (spec, before) = (new.get("spec"), old.get("spec"));
    for list in ["containers", "initContainers"] {
        let list_now = spec.get(list);
        if list_now.len() != before.get(list).len() {
            return found.forbidden(&list_now, "pod updates may not add or remove containers");
        }
    }
    if !deadline(&spec, &before, found) {
        return;
    }
    scheduling::only_added_tolerations(&spec.get("tolerations"), &before.get("tolerations"), found);
    gates(&spec.get("schedulingGates"), &before.get("schedulingGates"), found);
    if spec.value() == before.value() {
        return;
    }
    let munged = with_allowed_changes_undone(spec.value(), before.value());
    if munged != without_empties(before.value()) {
        let differences = differences(&without_empties(before.value()), &munged, "");
        let detail = format!("pod updates may not change fields other than {UPDATABLE}\n{differences}");
        found.forbidden(&spec, &detail);
    }
}

/// Containers may be added; those that are there stay what they are. Their order is not kept by a patch, and means
/// nothing.
pub(super) fn ephemeral_containers(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    if old.get("metadata").get("annotations").key(MIRROR).present() {
        return found
            .forbidden(&At::named("", new.value()), "static pods do not support ephemeral containers");
    }
    let list = new.get("spec").get("ephemeralContainers");
    for before in old.get("spec").get("ephemeralContainers").items() {
        let name = before.get("name").text();
        let now = list.items().find(|container| container.get("name").text() == name);
        let Some(now) = now else {
            let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
            found.forbidden(&list, &detail);
            continue;
        };
        let (then, now) = (without_empties(before.value()), without_empties(now.value()));
        if then != now {
            let differences = differences(&then, &now, "");
            let detail = format!("existing ephemeral containers {name:?} may not be changed\n{differences}");
            found.forbidden(&list, &detail);
        }
    }
}

/// Whether the rest is worth looking at.
fn deadline(spec: &At<'_>, before: &At<'_>, found: &mut Findings) -> bool {
    let (now, then) = (spec.get("activeDeadlineSeconds"), before.get("activeDeadlineSeconds"));
    match (now.int(), then.int()) {
        (Some(now_secs), _) if !(0..=i64::from(i32::MAX)).contains(&now_secs) => {
            found.invalid(&now, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(now_secs), Some(then_secs)) if then_secs < now_secs => {
            found.invalid(&now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            found.invalid(&now, "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn gates(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let known: BTreeSet<&str> = old.items().map(|gate| gate.get("name").text()).collect();
    for gate in new.items() {
        let name = gate.get("name").text();
        if !known.contains(name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            found.forbidden(&gate.get("name"), &detail);
        }
    }
}

fn annotations(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let at = |pod: &At<'_>| pod.get("metadata").get("annotations").value().get(MIRROR).cloned();
    let path = new.get("metadata").get("annotations").key(MIRROR);
    match (at(new), at(old)) {
        (now, then) if now == then => {}
        (_, Some(_)) => found.forbidden(&path, "may not remove or update mirror pod annotation"),
        _ => found.forbidden(&path, "may not add mirror pod annotation"),
    }
}

/// The new spec with everything that may change put back to what it was.
fn with_allowed_changes_undone(new: &Value, old: &Value) -> Value {
    let mut munged = new.clone();
    for list in ["containers", "initContainers"] {
        let olds = old.get(list).and_then(Value::as_array);
        let news = munged.get_mut(list).and_then(Value::as_array_mut);
        for (container, before) in news.into_iter().flatten().zip(olds.into_iter().flatten()) {
            put_back(container, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        put_back(&mut munged, old, field);
    }
    let was_negative = old["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0);
    if was_negative && munged["terminationGracePeriodSeconds"] == 1 {
        put_back(&mut munged, old, "terminationGracePeriodSeconds");
    }
    // A gated pod is not scheduled yet: its node selector and affinity may still narrow.
    let gated = old.get("schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty());
    if gated && extends(&munged["nodeSelector"], &old["nodeSelector"]) {
        put_back(&mut munged, old, "nodeSelector");
    }
    if gated {
        let pods =
            |spec: &Value| ["podAffinity", "podAntiAffinity"].map(|name| spec["affinity"].get(name).cloned());
        if pods(&munged) == pods(old) {
            put_back(&mut munged, old, "affinity");
        }
    }
    without_empties(&munged)
}

fn extends(new: &Value, old: &Value) -> bool {
    old.as_object().is_none_or(|old| old.iter().all(|(key, value)| new.get(key) == Some(value)))
}

fn put_back(object: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => object[field] = value.clone(),
        None => fill::remove(object, field),
    }
}

/// Nulls, empty lists and empty maps say nothing: two specs that differ in them are the same spec.
fn without_empties(value: &Value) -> Value {
    let says_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(flag) => *flag,
        Value::Number(_) => true,
    };
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), without_empties(value)))
            .filter(|(_, value)| says_something(value))
            .collect(),
        Value::Array(items) => items.iter().map(without_empties).collect(),
        other => other.clone(),
    }
}

/// The fields that differ, one line each.
fn differences(old: &Value, new: &Value, path: &str) -> String {
    if old == new {
        return String::new();
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        if let (Value::Array(before), Value::Array(after)) = (old, new)
            && before.len() == after.len()
        {
            let pairs = before.iter().zip(after).enumerate();
            return pairs.map(|(i, (b, a))| differences(b, a, &format!("{path}[{i}]"))).collect();
        }
        return format!("  {path}: {old} -> {new}\n");
    };
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let step = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    keys.into_iter().map(|key| differences(&old[key.as_str()], &new[key.as_str()], &step(key))).collect()
}

pub(super) fn status(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    annotations(new, old, found);
    let (status, before) = (new.get("status"), old.get("status"));
    let nominated = status.get("nominatedNodeName");
    if nominated.text() != before.get("nominatedNodeName").text() && !nominated.is_empty() {
        found.complaints(&nominated, names::dns1123_subdomain(nominated.text()));
        if !old.get("spec").get("nodeName").is_empty() {
            found.forbidden(&nominated, "may not be set on pods that are already bound to a node");
        }
    }
    let qos = status.get("qosClass");
    if !before.get("qosClass").is_empty() && qos.text() != before.get("qosClass").text() {
        found.invalid_value(&qos, qos.text(), IMMUTABLE);
    }
    transitions(new, old, found);
    ips(&status, found);
}

/// A container that has ended for good does not start again.
fn transitions(new: &At<'_>, old: &At<'_>, found: &mut Findings) {
    let policy = old.get("spec").get("restartPolicy").text();
    let own_policies = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| old.get("spec").get(list).items())
        .any(|container| container.get("restartPolicy").present());
    if policy == "Always" || own_policies {
        return;
    }
    for list in ["containerStatuses", "initContainerStatuses"] {
        let befores = old.get("status").get(list);
        let ended = |name: &str| {
            befores.items().find(|status| status.get("name").text() == name).and_then(|status| {
                let terminated = status.get("state").get("terminated");
                terminated.present().then(|| terminated.get("exitCode").int().unwrap_or_default())
            })
        };
        for status in new.get("status").get(list).items() {
            let Some(code) = ended(status.get("name").text()) else { continue };
            let may_restart = policy == "OnFailure" && code != 0;
            let state = status.get("state");
            if !may_restart && !state.get("terminated").present() {
                found.forbidden(&state, "may not be transitioned to non-terminated state");
            }
        }
    }
}

fn ips(status: &At<'_>, found: &mut Findings) {
    for ip in status.get("podIPs").items().map(|entry| entry.get("ip")) {
        if ip.text().parse::<std::net::IpAddr>().is_err() {
            found.invalid(&ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
}
