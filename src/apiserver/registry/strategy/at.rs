//! A place in an object: its path as the API's errors write it, and the value there.

use serde_json::Value;

/// What an absent field reads as.
static ABSENT: Value = Value::Null;

/// A cursor into an object. Absent fields read as null, so that a check need not look before it steps.
#[derive(Clone, Debug)]
pub struct At<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> At<'a> {
    /// The object itself; its path is empty.
    pub fn root(value: &'a Value) -> Self {
        Self { path: String::new(), value }
    }

    /// A value which is not a field of the object that is being looked at.
    pub fn named(path: impl Into<String>, value: &'a Value) -> Self {
        Self { path: path.into(), value }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// The field `name`: `spec` becomes `spec.name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Self { path, value: self.value.get(name).unwrap_or(&ABSENT) }
    }

    /// The map entry `key`: `limits` becomes `limits[key]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self { path: format!("{}[{key}]", self.path), value: self.value.get(key).unwrap_or(&ABSENT) }
    }

    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self { path: format!("{}[{index}]", self.path), value: self.value.get(index).unwrap_or(&ABSENT) }
    }

    /// The elements of a list; nothing where this is not one.
    pub fn items(&self) -> impl Iterator<Item = Self> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(i, value)| Self { path: format!("{path}[{i}]"), value })
    }

    /// The entries of a map, written `path[key]`; nothing where this is not one.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Self)> + use<'a> {
        let path = self.path.clone();
        let entries = self.value.as_object().into_iter().flatten();
        entries.map(move |(key, value)| (key.as_str(), Self { path: format!("{path}[{key}]"), value }))
    }

    /// The text here, or "" where there is none.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    pub fn flag(&self) -> bool {
        self.value.as_bool().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        match self.value {
            Value::Array(items) => items.len(),
            Value::Object(map) => map.len(),
            Value::String(text) => text.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        }
    }

    pub fn present(&self) -> bool {
        !self.value.is_null()
    }

    /// Absent, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(_) | Value::Array(_) | Value::Object(_) => self.len() == 0,
            Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

/// Whether two values say the same: what is absent or null, and a list or map with nothing in it, say nothing.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => left
            .keys()
            .chain(right.keys())
            .all(|key| same(left.get(key).unwrap_or(&ABSENT), right.get(key).unwrap_or(&ABSENT))),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(a, b)| same(a, b))
        }
        (Value::Object(map), Value::Null) | (Value::Null, Value::Object(map)) => {
            map.values().all(|value| same(value, &ABSENT))
        }
        (Value::Array(list), Value::Null) | (Value::Null, Value::Array(list)) => list.is_empty(),
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_are_written_as_the_api_writes_them() {
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let root = At::root(&object);
        let container = root.get("spec").get("containers").items().next().unwrap();
        let limits = container.get("resources").get("limits");
        let (key, cpu) = limits.entries().next().unwrap();
        assert_eq!((key, cpu.path()), ("cpu", "spec.containers[0].resources.limits[cpu]"));
        assert_eq!(cpu.text(), "1");
        assert!(!root.get("status").get("phase").present());
    }

    #[test]
    fn what_is_absent_and_what_is_empty_say_the_same() {
        let object = json!({"a": {"b": null, "c": []}, "d": [1, {}]});
        assert!(same(&object, &json!({"d": [1, {"e": {"f": null}}]})));
        for other in [json!({"d": [1]}), json!({"a": {"b": 0}, "d": [1, {}]}), json!({"a": "", "d": [1, {}]})]
        {
            assert!(!same(&object, &other), "{other}");
        }
    }
}
