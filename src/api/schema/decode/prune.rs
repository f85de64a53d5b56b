//! Drops what a type does not know, and nothing else: for objects that were stored under an older schema.

use serde_json::Value;

use super::super::{Shape, Type};

/// Removes unknown fields, in place. Values of a wrong type are left as they are.
pub fn prune(value: &mut Value, r#type: &Type) {
    let Value::Object(fields) = value else { return };
    if !r#type.preserves_unknown {
        fields.retain(|name, _| r#type.index_of(name).is_some());
    }
    for (name, value) in fields {
        if let Some(field) = r#type.field(name) {
            prune_shape(value, &field.shape);
        }
    }
}

fn prune_shape(value: &mut Value, shape: &Shape) {
    match (shape, value) {
        (Shape::Object(r#type), value) => prune(value, r#type),
        (Shape::List(item, _), Value::Array(items)) => {
            items.iter_mut().for_each(|value| prune_shape(value, item));
        }
        (Shape::Map(item), Value::Object(fields)) => {
            fields.iter_mut().for_each(|(_, value)| prune_shape(value, item));
        }
        _ => {}
    }
}
