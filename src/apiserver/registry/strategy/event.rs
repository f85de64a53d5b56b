//! Events: one stored resource that core/v1 and events.k8s.io/v1 serve. Stored as core/v1.

use serde_json::Value;

use super::at::At;
use super::findings::Findings;
use super::rules::Rules;
use crate::registry::Conversion;

pub const EVENTS: Rules = Rules { validate, creates_on_update: true, ..Rules::NONE };

/// What a field is called: (core/v1, events.k8s.io/v1).
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

pub const EVENTS_V1: Conversion = Conversion {
    to_storage: |event| rename(event, RENAMED.map(|(core, new)| (new, core))),
    from_storage: |event| rename(event, RENAMED),
};

fn rename(event: &mut Value, fields: [(&str, &str); 7]) {
    let Some(map) = event.as_object_mut() else { return };
    for (from, to) in fields {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

fn validate(event: &At<'_>, found: &mut Findings) {
    let involved = event.get("involvedObject");
    let (namespace, own) = (involved.get("namespace"), event.get("metadata").get("namespace"));
    if namespace.is_empty() {
        // What happens to a cluster-scoped object is told in `default`.
        if !matches!(own.text(), "" | "default" | "kube-system") {
            found.invalid_value(&namespace, namespace.text(), "does not match event.namespace");
        }
    } else if namespace.text() != own.text() {
        found.invalid(&namespace, "does not match event.namespace");
    }
    // Only the events of the new API, which have a time in microseconds, are held to its rules.
    if event.get("eventTime").is_empty() {
        return;
    }
    let controller = event.get("reportingComponent");
    let at = At::named("reportingController", controller.value());
    if controller.is_empty() {
        found.required(&at, "");
    }
    for complaint in api::names::qualified_name(controller.text()) {
        found.invalid_value(&at, controller.text(), &complaint);
    }
    for field in ["reportingInstance", "action", "reason"].map(|name| event.get(name)) {
        if field.is_empty() {
            found.required(&field, "");
        } else if field.len() > 128 {
            found.invalid(&field, "can have at most 128 characters");
        }
    }
    if event.get("message").len() > 1024 {
        found.invalid(&event.get("message"), "can have at most 1024 characters");
    }
    let kind = event.get("type");
    if !matches!(kind.text(), "Normal" | "Warning") {
        found.invalid_value(&kind, "", &format!("has invalid value: {}", kind.text()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_reads_the_same_in_both_groups() {
        let core = json!({"involvedObject": {"kind": "Pod"}, "message": "m", "reportingComponent": "c", "count": 2,
            "source": {"component": "c"}, "firstTimestamp": "a", "lastTimestamp": "b", "reason": "r"});
        let mut event = core.clone();
        (EVENTS_V1.from_storage)(&mut event);
        assert_eq!((&event["note"], &event["regarding"]["kind"]), (&json!("m"), &json!("Pod")));
        assert_eq!(event["deprecatedCount"], 2);
        (EVENTS_V1.to_storage)(&mut event);
        assert_eq!(event, core);
    }
}
