//! Devices that pods can claim: classes, claims, and what nodes have.
#![deny(clippy::disallowed_methods)]

use serde_json::Value;

use super::{age, list, name, string, text};
use crate::registry::Column;

pub(in crate::registry) fn resource_claims() -> Vec<Column> {
    vec![
        name(),
        text("State", "A summary of the current state (allocated, pending, reserved, etc.).", state),
        age(),
    ]
}

fn state(object: &Value, _now: jiff::Timestamp) -> Value {
    let going = !string(object, "/metadata/deletionTimestamp").is_empty();
    let allocated = object["status"]["allocation"].is_object();
    let reserved = allocated && !list(object, "/status/reservedFor").is_empty();
    let words = [
        ("deleted", going),
        ("pending", !going && !allocated),
        ("allocated", allocated),
        ("reserved", reserved),
    ];
    let true_ones: Vec<&str> = words.iter().filter(|(_, holds)| *holds).map(|(word, _)| *word).collect();
    true_ones.join(",").into()
}

pub(in crate::registry) fn resource_slices() -> Vec<Column> {
    vec![
        name(),
        text("Node", "The node that has the devices.", |object, _| string(object, "/spec/nodeName").into()),
        text("Driver", "The driver that knows them.", |object, _| string(object, "/spec/driver").into()),
        text("Pool", "The pool that they belong to.", |object, _| string(object, "/spec/pool/name").into()),
        age(),
    ]
}
