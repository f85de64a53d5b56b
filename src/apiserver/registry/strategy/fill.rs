//! Writing defaults: what is absent is filled in, what is there stays.

use serde_json::{Map, Value};

/// Whether a field counts as unset: absent, null, or the empty text (upstream's enums are texts whose zero is "").
pub fn unset(object: &Value, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Fills one field of an object. Anything but an object is left alone: the schema complains about it.
pub fn fill(object: &mut Value, field: &str, default: impl Into<Value>) {
    if object.is_object() && unset(object, field) {
        object[field] = default.into();
    }
}

/// As [`fill`], for numbers whose zero upstream takes for unset (probes).
pub fn fill_zero(object: &mut Value, field: &str, default: i64) {
    let zero = object.get(field).is_some_and(|value| value.as_i64() == Some(0));
    if object.is_object() && (zero || unset(object, field)) {
        object[field] = default.into();
    }
}

/// Calls `then` with the field, where it is there.
pub fn within(object: &mut Value, field: &str, then: impl FnOnce(&mut Value)) {
    if let Some(value) = object.get_mut(field).filter(|value| !value.is_null()) {
        then(value);
    }
}

/// Calls `then` with each element of the list `field`.
pub fn each(object: &mut Value, field: &str, then: impl FnMut(&mut Value)) {
    if let Some(items) = object.get_mut(field).and_then(Value::as_array_mut) {
        items.iter_mut().for_each(then);
    }
}

/// The object at `field`, made if it is not there. `None` where something else stands in its place.
pub fn object_at<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    let entry = map.entry(field).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut()
}

/// As [`within`], making the object if it is not there.
pub fn within_made(object: &mut Value, field: &str, then: impl FnOnce(&mut Value)) {
    if object_at(object, field).is_some() {
        within(object, field, then);
    }
}

/// Removes a field. Removing it from what has no fields is no error.
pub fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Writes a quantity as the API writes it: `1000m` is `1`, `1024Mi` is `1Gi`. What is none is left for validation.
pub fn quantity(object: &mut Value, field: &str) {
    let Some(value) = object.get_mut(field) else { return };
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return,
    };
    if let Ok(canonical) = api::quantity::canonical_text(&text) {
        *value = canonical.into_owned().into();
    }
}

/// As [`quantity`], for each entry of a map of resources.
pub fn quantities(object: &mut Value, field: &str) {
    within(object, field, |resources| {
        let names: Vec<String> =
            resources.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect();
        for name in names {
            quantity(resources, &name);
        }
    });
}
