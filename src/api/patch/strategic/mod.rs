//! The strategic merge patch: objects.
//!
//! A patch is applied field by field; `list.rs` has what happens to lists, `order.rs` the order of their items.

mod list;
mod order;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Merge, Shape, Type, TypeRef};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Applies a patch to an object of the type. Fields that the type does not know are taken over as they are: decoding
/// the outcome reports them.
///
/// # Errors
/// If the patch makes no sense for the type: an item without its merge key, a directive that is none, an order that
/// contradicts the list.
pub fn strategic_merge(r#type: &TypeRef, original: Value, patch: Value) -> Result<Value, PatchError> {
    let (Value::Object(original), Value::Object(patch)) = (original, patch) else {
        return Err(PatchError::NotAnObject);
    };
    merge_objects(original, patch, Known::Fields(r#type)).map(Value::Object)
}

/// What is known of the object that is being merged.
#[derive(Clone, Copy)]
enum Known<'t> {
    Fields(&'t Type),
    /// All values have this shape.
    Values(&'t Shape),
    Nothing,
}

/// What is known of one field of it.
#[derive(Clone, Copy)]
struct About<'t> {
    shape: Option<&'t Shape>,
    /// Lists only.
    merge: Option<&'t Merge>,
}

impl<'t> Known<'t> {
    fn of(shape: Option<&'t Shape>) -> Self {
        match shape {
            Some(Shape::Object(r#type)) => Self::Fields(r#type),
            Some(Shape::Map(value)) => Self::Values(value),
            Some(Shape::Scalar(_) | Shape::Any | Shape::List(..)) | None => Self::Nothing,
        }
    }

    fn field(self, name: &str) -> About<'t> {
        match self {
            Self::Fields(r#type) => {
                let field: Option<&Field> = r#type.field(name);
                let merge = field.and_then(|field| field.patch.merge.as_ref());
                About { shape: field.map(|field| &field.shape), merge }
            }
            Self::Values(shape) => About { shape: Some(shape), merge: None },
            Self::Nothing => About { shape: None, merge: None },
        }
    }
}

impl<'t> About<'t> {
    fn key(self) -> Option<&'t str> {
        match self.merge {
            Some(Merge::Key(key)) => Some(key),
            Some(Merge::Scalars) | None => None,
        }
    }

    /// What is known of a list's items.
    fn items(self) -> Known<'t> {
        match self.shape {
            Some(Shape::List(item, _)) => Known::of(Some(item)),
            _ => Known::Nothing,
        }
    }
}

fn merge_objects(mut original: Fields, mut patch: Fields, known: Known<'_>) -> Result<Fields, PatchError> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Fields::new()),
            _ => Err(PatchError::UnknownDirective { directive, item: Value::Object(patch) }),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, known)?;
    for (name, change) in patch {
        if let Some(list) = name.strip_prefix(DELETE_FROM_LIST) {
            delete_from_list(&mut original, list, change)?;
        } else if name.starts_with("$deleteFromPrimitiveList") {
            return Err(PatchError::DeleteFromPrimitiveList);
        } else {
            merge_field(&mut original, name, change, known)?;
        }
    }
    Ok(original)
}

fn merge_field(
    original: &mut Fields,
    name: String,
    change: Value,
    known: Known<'_>,
) -> Result<(), PatchError> {
    let about = known.field(&name);
    let merged = match (original.remove(&name), change) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(old)), Value::Object(change)) => {
            Some(Value::Object(merge_objects(old, change, Known::of(about.shape))?))
        }
        (Some(Value::Array(old)), Value::Array(change)) if about.merge.is_some() => {
            Some(Value::Array(list::merge(&name, old, change, about)?))
        }
        (Some(Value::Array(_)), change @ Value::Array(_)) => Some(change),
        (_, change) => fresh(change),
    };
    if let Some(merged) = merged {
        original.insert(name, merged);
    }
    Ok(())
}

/// `$deleteFromPrimitiveList/finalizers: [a]`
fn delete_from_list(original: &mut Fields, name: &str, unwanted: Value) -> Result<(), PatchError> {
    match (original.get_mut(name), unwanted) {
        (Some(_), Value::Null) => {
            original.remove(name);
        }
        (Some(Value::Array(items)), Value::Array(unwanted)) => {
            list::uniform(items.iter().chain(&unwanted))?;
            let unwanted = order::Places::of(&unwanted, None)?;
            items.retain(|item| unwanted.get(item).is_none());
        }
        _ => {}
    }
    Ok(())
}

/// `$retainKeys: [a, b]`: what is not among them goes.
fn retain_keys(original: &mut Fields, patch: &mut Fields) -> Result<(), PatchError> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(PatchError::RetainKeys) };
    let keeps = |name: &str| keys.iter().any(|key| key == name);
    let is_directive = |name: &str| name.starts_with(DELETE_FROM_LIST) || name.starts_with(SET_ELEMENT_ORDER);
    if patch.iter().any(|(name, change)| !change.is_null() && !is_directive(name) && !keeps(name)) {
        return Err(PatchError::RetainKeys);
    }
    original.retain(|name, _| keeps(name));
    Ok(())
}

/// `$setElementOrder/x: [...]` with, or without, a patch of the list x itself; both are used up.
fn merge_ordered_lists(
    original: &mut Fields,
    patch: &mut Fields,
    known: Known<'_>,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|name| name.starts_with("$setElementOrder")).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else { continue };
        let order = array(order)?;
        let name = directive.strip_prefix(SET_ELEMENT_ORDER).ok_or(PatchError::SetElementOrder)?;
        let old = original.get(name).cloned().map(array).transpose()?;
        let change = patch.get(name).cloned().map(array).transpose()?;
        let about = known.field(name);
        if let (Known::Fields(owner), None) = (known, about.shape) {
            let owner = owner.go_name().to_string();
            return Err(PatchError::UnknownField { owner, field: name.to_string() });
        }
        patch.remove(name);
        if let Some(merged) = list::merge_in_order(name, old, change, order, about)? {
            original.insert(name.to_string(), Value::Array(merged));
        }
    }
    Ok(())
}

fn array(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(PatchError::WrongType { expected: "[]interface {}", found: type_name(&other) }),
    }
}

/// As Go names what JSON is read into.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// What a patch adds where nothing was: without nulls and directives. `None` if it is a directive itself.
fn fresh(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, value)| !value.is_null() && !is_parallel(name));
            Some(Value::Object(kept.filter_map(|(name, value)| Some((name, fresh(value)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(fresh).collect())),
        scalar => Some(scalar),
    }
}

/// Whether a name is not a field but a directive beside it.
fn is_parallel(name: &str) -> bool {
    name == RETAIN_KEYS || name.starts_with(SET_ELEMENT_ORDER) || name.starts_with(DELETE_FROM_LIST)
}

#[cfg(test)]
mod tests;
