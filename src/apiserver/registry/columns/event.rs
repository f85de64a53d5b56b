//! Events, in the fields of either group that serves them.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde_json::Value;

use super::age::since;
use super::{name, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn events() -> Vec<Column> {
    vec![
        text("Last Seen", "When this was last seen.", |event, now| last_seen(event, now).into()),
        text("Type", "Normal or Warning.", |event, _| string(event, "/type").into()),
        text("Reason", "Why this happened, in a word.", |event, _| string(event, "/reason").into()),
        text("Object", "What this is about.", |event, _| {
            let about = involved(event);
            let kind = string(about, "/kind").to_lowercase();
            match string(about, "/name") {
                "" => kind.into(),
                name => format!("{kind}/{name}").into(),
            }
        }),
        wide(text("Subobject", "Which part of it.", |event, _| string(involved(event), "/fieldPath").into())),
        wide(text("Source", "Who tells.", |event, _| source(event))),
        text("Message", "What happened.", |event, _| {
            let message = either(event, "message", "note").as_str().unwrap_or_default();
            message.trim().into()
        }),
        wide(text("First Seen", "When this was first seen.", |event, now| first_seen(event, now).into())),
        wide(text("Count", "How often this was seen.", |event, _| count(event).into())),
        wide(name()),
    ]
}

/// The field by its name in core/v1, or in events.k8s.io/v1.
fn either<'a>(event: &'a Value, core: &str, new: &str) -> &'a Value {
    if event[core].is_null() { &event[new] } else { &event[core] }
}

fn involved(event: &Value) -> &Value {
    either(event, "involvedObject", "regarding")
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    match either(event, "firstTimestamp", "deprecatedFirstTimestamp") {
        Value::Null => since(&event["eventTime"], now),
        time => since(time, now),
    }
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    if event["series"].is_object() {
        return since(&event["series"]["lastObservedTime"], now);
    }
    match either(event, "lastTimestamp", "deprecatedLastTimestamp") {
        Value::Null => first_seen(event, now),
        time => since(time, now),
    }
}

/// An event of the new API that was seen once has no count.
fn count(event: &Value) -> i64 {
    if event["series"].is_object() {
        return event["series"]["count"].as_i64().unwrap_or_default();
    }
    either(event, "count", "deprecatedCount").as_i64().filter(|count| *count != 0).unwrap_or(1)
}

fn source(event: &Value) -> Value {
    let old = either(event, "source", "deprecatedSource");
    let first = |a: &'static str, b: &Value| match string(old, a) {
        "" => b.as_str().unwrap_or_default().to_owned(),
        text => text.to_owned(),
    };
    let component = first("/component", either(event, "reportingComponent", "reportingController"));
    let instance = first("/host", &event["reportingInstance"]);
    if instance.is_empty() { component.into() } else { format!("{component}, {instance}").into() }
}
