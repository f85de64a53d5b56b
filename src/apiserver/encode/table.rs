//! Tables: what kubectl prints, computed by the server from the row's columns.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{accept::Include, list::ListMeta, partial};
use crate::registry::{Cell, Column, Resource};

/// A Table of objects (in the served version). Watches leave the columns out after their first event.
pub fn table(
    row: &Resource,
    objects: &[Value],
    meta: Option<&ListMeta>,
    include: Include,
    now: Timestamp,
) -> Value {
    let default = default_columns();
    let columns = if row.columns.is_empty() { &default[..] } else { &row.columns[..] };
    json!({
        "kind": "Table", "apiVersion": partial::API_VERSION,
        "metadata": meta.map_or_else(|| single_meta(objects), ListMeta::to_value),
        "columnDefinitions": columns.iter().map(definition).collect::<Vec<_>>(),
        "rows": objects.iter().map(|object| one_row(columns, object, include, now)).collect::<Vec<_>>(),
    })
}

/// A bookmark in a watch of Tables: no cells, but the metadata that carries the resourceVersion.
pub fn bookmark(object: &Value) -> Value {
    json!({
        "kind": "Table", "apiVersion": partial::API_VERSION,
        "metadata": single_meta(std::slice::from_ref(object)),
        "columnDefinitions": Value::Null,
        "rows": [{"cells": Value::Null, "object": partial::partial(object)}],
    })
}

fn single_meta(objects: &[Value]) -> Value {
    let version = objects.first().and_then(|object| object.pointer("/metadata/resourceVersion"));
    version.map_or_else(|| json!({}), |version| json!({ "resourceVersion": version }))
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name, "type": column.r#type, "format": column.format,
        "description": column.description, "priority": column.priority,
    })
}

fn one_row(columns: &[Column], object: &Value, include: Include, now: Timestamp) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| column.cell.value(object, now)).collect();
    let mut row = Map::new();
    row.insert("cells".into(), cells.into());
    let carried = match include {
        Include::None => Value::Null,
        Include::Metadata => partial::partial(object),
        Include::Object => object.clone(),
    };
    row.insert("object".into(), carried);
    Value::Object(row)
}

/// What upstream prints for a resource without columns of its own.
fn default_columns() -> [Column; 2] {
    [
        Column {
            name: "Name".into(),
            r#type: "string".into(),
            format: "name".into(),
            priority: 0,
            description: "Name must be unique within a namespace.".into(),
            cell: Cell::Of(|object, _| object.pointer("/metadata/name").cloned().unwrap_or_default()),
        },
        Column {
            name: "Created At".into(),
            r#type: "date".into(),
            format: "".into(),
            priority: 0,
            description: "CreationTimestamp is the server time when this object was created.".into(),
            cell: Cell::Of(|object, _| {
                object.pointer("/metadata/creationTimestamp").cloned().unwrap_or_default()
            }),
        },
    ]
}
