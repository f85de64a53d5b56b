//! The walk over a body: each value is read as what its type says, and what does not fit is noted with its path.
//!
//! The walk goes on after a mistake, as upstream's decoder does: the first wrong type is told, and all unknown and
//! duplicate fields. Only a syntax error ends it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{
    super::{Field, Shape, Type},
    is_zero, not_an_object,
    scalar::{self, Wrong},
};
use crate::quote;

/// Unknown and duplicate fields beyond this many are not told.
const MAX_STRICT_ERRORS: usize = 100;

/// Where the walk is, and what it has found.
#[derive(Default)]
pub(super) struct Walk<'t> {
    /// `spec.containers[0].image`
    path: String,
    /// `spec.volumes.VolumeSource.configMap`: fields of structs only, embedded ones told, as Go's errors have it.
    go_path: String,
    /// The innermost type whose field is being read.
    owner: Option<&'t Type>,
    /// Unknown and duplicate fields, each once, in the order of the body.
    pub(super) strict: Vec<String>,
    /// The first value that does not fit its type.
    pub(super) wrong: Option<String>,
}

impl<'t> Walk<'t> {
    fn note(&mut self, what: &str, name: &str) {
        if self.strict.len() >= MAX_STRICT_ERRORS {
            return;
        }
        let path = if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) };
        let text = format!("{what} field {}", quote(&path));
        if !self.strict.contains(&text) {
            self.strict.push(text);
        }
    }

    fn mismatch(&mut self, found: &str, shape: &Shape) {
        if self.wrong.is_none() {
            self.wrong = Some(match self.owner {
                Some(owner) => format!(
                    "json: cannot unmarshal {found} into Go struct field {}.{} of type {}",
                    owner.bare_name(),
                    self.go_path,
                    shape.go_name()
                ),
                None => not_an_object(found),
            });
        }
    }

    /// Takes what a scalar made of the value found.
    fn scalar(&mut self, made: Result<Value, Wrong>, shape: &Shape) -> Option<Value> {
        match made {
            Ok(value) => return Some(value),
            Err(Wrong::Type(found)) => self.mismatch(&found, shape),
            Err(Wrong::Said(text)) => {
                self.wrong.get_or_insert(text);
            }
        }
        None
    }

    fn in_field<R>(&mut self, owner: &'t Type, field: &Field, read: impl FnOnce(&mut Self) -> R) -> R {
        let name = &field.name;
        let go_length = self.go_path.len();
        if !field.via.is_empty() {
            push_name(&mut self.go_path, &field.via);
        }
        push_name(&mut self.go_path, name);
        let outer = self.owner.replace(owner);
        let result = self.in_key(name, read);
        self.owner = outer;
        self.go_path.truncate(go_length);
        result
    }

    fn in_key<R>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        push_name(&mut self.path, name);
        let result = read(self);
        self.path.truncate(length);
        result
    }

    fn in_item<R>(&mut self, at: usize, read: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(&format!("[{at}]"));
        let result = read(self);
        self.path.truncate(length);
        result
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// A value to be read as a shape. Gives `None` for what does not fit, `Null` for null.
pub(super) struct Node<'w, 't> {
    walk: &'w mut Walk<'t>,
    shape: &'t Shape,
}

impl<'w, 't> Node<'w, 't> {
    pub(super) fn root(walk: &'w mut Walk<'t>, shape: &'t Shape) -> Self {
        Self { walk, shape }
    }

    fn string(self, text: String) -> Option<Value> {
        self.walk.scalar(scalar::of_string(self.shape, text), self.shape)
    }

    fn object<'de, A: MapAccess<'de>>(self, owner: &'t Type, mut map: A) -> Result<Value, A::Error> {
        let walk = self.walk;
        let mut out = Map::new();
        let mut seen = vec![false; owner.fields.len()];
        while let Some(name) = map.next_key::<String>()? {
            let known = owner.index_of(&name).and_then(|at| owner.fields.get(at).zip(seen.get_mut(at)));
            let Some((field, seen)) = known else {
                if owner.preserves_unknown {
                    anything(walk, name, &mut map, &mut out)?;
                } else {
                    walk.note("unknown", &name);
                    map.next_value::<IgnoredAny>()?;
                }
                continue;
            };
            if std::mem::replace(seen, true) {
                walk.note("duplicate", &name);
            }
            let value = walk
                .in_field(owner, field, |walk| map.next_value_seed(Node { walk, shape: &field.shape }))?
                .filter(|value| is_kept(field, value));
            match value {
                Some(value) => out.insert(name, value),
                None => out.remove(&name),
            };
        }
        Ok(Value::Object(out))
    }

    fn map<'de, A: MapAccess<'de>>(self, item: &'t Shape, mut map: A) -> Result<Value, A::Error> {
        let walk = self.walk;
        let mut out = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if out.contains_key(&name) {
                walk.note("duplicate", &name);
            }
            let value = walk.in_key(&name, |walk| map.next_value_seed(Node { walk, shape: item }))?;
            out.insert(name, value.map_or_else(|| item.zero(), |value| unless_null(value, item)));
        }
        Ok(Value::Object(out))
    }

    fn list<'de, A: SeqAccess<'de>>(self, item: &'t Shape, mut items: A) -> Result<Value, A::Error> {
        let walk = self.walk;
        let mut out = Vec::new();
        while let Some(value) =
            walk.in_item(out.len(), |walk| items.next_element_seed(Node { walk, shape: item }))?
        {
            out.push(value.map_or_else(|| item.zero(), |value| unless_null(value, item)));
        }
        Ok(Value::Array(out))
    }
}

/// Takes over a field that no type describes.
fn anything<'de, A: MapAccess<'de>>(
    walk: &mut Walk<'_>,
    name: String,
    map: &mut A,
    out: &mut Map<String, Value>,
) -> Result<(), A::Error> {
    if out.contains_key(&name) {
        walk.note("duplicate", &name);
    }
    let mut inner = Walk { path: std::mem::take(&mut walk.path), ..Walk::default() };
    let value = inner.in_key(&name, |walk| map.next_value_seed(Node { walk, shape: &Shape::Any }))?;
    walk.path = inner.path;
    walk.strict.extend(inner.strict);
    out.insert(name, value.unwrap_or_default());
    Ok(())
}

fn is_kept(field: &Field, value: &Value) -> bool {
    match value {
        Value::Null => field.nullable,
        value => !(field.drops_zero && is_zero(value)),
    }
}

fn unless_null(value: Value, shape: &Shape) -> Value {
    if value.is_null() { shape.zero() } else { value }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Option<Value>, E> {
        Ok(Some(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Option<Value>, E> {
        Ok(Some(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Value>, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<Value>, E> {
        Ok(self.walk.scalar(scalar::of_bool(self.shape, value), self.shape))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<Value>, E> {
        Ok(self.walk.scalar(scalar::of_number(self.shape, &value.into()), self.shape))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<Value>, E> {
        Ok(self.walk.scalar(scalar::of_number(self.shape, &value.into()), self.shape))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<Value>, E> {
        let number =
            serde_json::Number::from_f64(value).ok_or_else(|| Wrong::Type(format!("number {value}")));
        let made = number.and_then(|number| scalar::of_number(self.shape, &number));
        Ok(self.walk.scalar(made, self.shape))
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<Value>, E> {
        Ok(self.string(value.to_string()))
    }

    fn visit_string<E>(self, value: String) -> Result<Option<Value>, E> {
        Ok(self.string(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Value>, A::Error> {
        match self.shape {
            Shape::List(item, _) => self.list(item, items).map(Some),
            Shape::Any => self.list(&Shape::Any, items).map(Some),
            shape => {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(self.walk.scalar(Err(scalar::wrong_structure(shape, "array")), shape))
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Value>, A::Error> {
        match self.shape {
            Shape::Object(r#type) => self.object(r#type, map).map(Some),
            Shape::Map(item) => self.map(item, map).map(Some),
            Shape::Any => self.map(&Shape::Any, map).map(Some),
            shape => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(self.walk.scalar(Err(scalar::wrong_structure(shape, "object")), shape))
            }
        }
    }
}
