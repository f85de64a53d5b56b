//! What `kubectl get` prints of each kind: upstream's columns, and its ways of writing times, lists and states.

pub(super) mod age;
pub(super) mod batch;
pub(super) mod config;
pub(super) mod device;
pub(super) mod event;
pub(super) mod identity;
pub(super) mod network;
pub(super) mod node;
pub(super) mod pod;
pub(super) mod storage;
pub(super) mod volume;
pub(super) mod workload;

use jiff::Timestamp;
use serde_json::Value;

use super::{Cell, Column};

/// How one cell is computed.
pub(super) type Print = fn(&Value, Timestamp) -> Value;

pub(super) const NONE: &str = "<none>";

fn column(name: &'static str, r#type: &'static str, description: &'static str, cell: Print) -> Column {
    Column {
        name: name.into(),
        r#type: r#type.into(),
        format: "".into(),
        priority: 0,
        description: description.into(),
        cell: Cell::Of(cell),
    }
}

/// A text.
pub(super) fn text(name: &'static str, description: &'static str, cell: Print) -> Column {
    column(name, "string", description, cell)
}

pub(super) fn integer(name: &'static str, description: &'static str, cell: Print) -> Column {
    column(name, "integer", description, cell)
}

pub(super) fn boolean(name: &'static str, description: &'static str, cell: Print) -> Column {
    column(name, "boolean", description, cell)
}

/// Only with `-o wide`.
pub(super) fn wide(column: Column) -> Column {
    Column { priority: 1, ..column }
}

pub(super) fn name() -> Column {
    let description = "Name must be unique within a namespace.";
    let column = text("Name", description, |object, _now| string(object, "/metadata/name").into());
    Column { format: "name".into(), ..column }
}

pub(super) fn age() -> Column {
    let description = "CreationTimestamp is the server time when this object was created.";
    text("Age", description, |object, now| age::since(&object["metadata"]["creationTimestamp"], now).into())
}

/// The text at a JSON pointer, or "".
pub(super) fn string<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at a JSON pointer, or 0.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The list at a JSON pointer, or nothing.
pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The size of a map or a list.
pub(super) fn size(object: &Value, pointer: &str) -> usize {
    match object.pointer(pointer) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    }
}

/// `text`, or `<none>` where there is nothing to say.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn labels(object: &Value, pointer: &str) -> Value {
    let map = object.pointer(pointer).and_then(Value::as_object);
    let pairs: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&pairs.join(","))
}

/// A label selector as `kubectl` takes it.
pub(super) fn selector(object: &Value, pointer: &str) -> Value {
    let Some(selector) = object.pointer(pointer) else { return NONE.into() };
    let mut parts: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for requirement in list(selector, "/matchExpressions") {
        let key = string(requirement, "/key");
        let mut values: Vec<&str> = list(requirement, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        parts.push(match string(requirement, "/operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.sort_by(|a, b| a.trim_start_matches('!').cmp(b.trim_start_matches('!')));
    or_none(&parts.join(","))
}

/// Names and images of the containers of a template, for `-o wide`.
pub(super) fn containers(object: &Value, pointer: &str, field: &str) -> Value {
    let values: Vec<&str> = list(object, pointer).iter().filter_map(|c| c[field].as_str()).collect();
    values.join(",").into()
}

/// At most three, and how many more there are.
pub(super) fn first_three(all: &[String], none: &str) -> Value {
    let shown = all.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    match all.len() {
        0 => none.into(),
        1..=3 => shown.into(),
        count => format!("{shown} + {} more...", count - 3).into(),
    }
}

#[cfg(test)]
mod tests;
