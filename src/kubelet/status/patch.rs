//! The difference between two statuses, as a strategic merge patch.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

use super::conditions::is_ours;

/// What others own: never in a patch of ours.
const FOREIGN: [&str; 4] =
    ["resourceClaimStatuses", "extendedResourceClaimStatus", "nominatedNodeName", "resize"];

/// `None` when the API shows `new` already. `uid` keeps a pod of the same name from getting it.
pub(super) fn patch(uid: &str, shown: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (shown, new) = (object(shown), object(new));
    let mut status = Map::new();
    for key in shown.keys().chain(new.keys()) {
        let (old, now) = (shown.get(key), new.get(key));
        if old == now || FOREIGN.contains(&key.as_str()) {
            continue;
        }
        let value = match key.as_str() {
            "conditions" => conditions(old, now),
            "podIPs" | "hostIPs" => addresses(old, now),
            _ => now.cloned().or(Some(Value::Null)),
        };
        if let Some(value) = value {
            status.insert(key.clone(), value);
        }
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": status}))
}

fn object(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(|value| value.as_array()).map_or(&[], Vec::as_slice)
}

/// Merged by type: those of ours that changed, with a null for what they no longer say.
fn conditions(old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let mut changed = Vec::new();
    for condition in list(new) {
        let kind = &condition["type"];
        if !kind.as_str().is_some_and(|kind| is_ours(kind, condition["reason"].as_str())) {
            continue;
        }
        let before = list(old).iter().find(|before| before["type"] == *kind);
        if before.is_some_and(|before| without_nulls(before) == without_nulls(condition)) {
            continue;
        }
        let mut condition = condition.clone();
        if let (Some(fields), Some(Value::Object(before))) = (condition.as_object_mut(), before) {
            for key in before.keys() {
                fields.entry(key.clone()).or_insert(Value::Null);
            }
        }
        changed.push(condition);
    }
    (!changed.is_empty()).then_some(Value::Array(changed))
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        other => other.clone(),
    }
}

/// Merged by address: those that went must be named.
fn addresses(old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let mut entries = list(new).to_vec();
    for gone in list(old).iter().filter(|old| !list(new).contains(old)) {
        entries.push(json!({"$patch": "delete", "ip": gone["ip"]}));
    }
    Some(Value::Array(entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_same_status_needs_no_patch() {
        let shown = status(
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastProbeTime": null}]}),
        );
        assert_eq!(patch("u", &shown, &shown.clone()), None);
    }

    #[test]
    fn only_what_changed_is_sent_and_what_went_is_named() {
        let shown = status(json!({
            "phase": "Running", "message": "m", "podIPs": [{"ip": "10.0.0.1"}], "resize": "Deferred",
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "R"},
                {"type": "PodScheduled", "status": "True"},
                {"type": "example.org/gate", "status": "True"}
            ]
        }));
        let new = status(json!({
            "phase": "Running", "podIPs": [{"ip": "10.0.0.2"}],
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]
        }));
        let expected = json!({"metadata": {"uid": "u"}, "status": {
            "message": null,
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
            "conditions": [{"type": "Ready", "status": "True", "reason": null}]
        }});
        assert_eq!(patch("u", &shown, &new), Some(expected));
    }

    #[test]
    fn why_a_pod_was_disrupted_is_sent_by_who_did_it() {
        let shown = status(json!({"phase": "Failed"}));
        let by = |reason: &str| {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": reason});
            status(json!({"phase": "Failed", "conditions": [condition]}))
        };
        assert_eq!(patch("u", &shown, &by("EvictionByEvictionAPI")), None, "an older word of somebody else");
        assert!(patch("u", &shown, &by("TerminationByKubelet")).is_some());
        assert_eq!(patch("u", &by("TerminationByKubelet"), &by("TerminationByKubelet")), None);
    }
}
