//! The strategic merge patch: lists that are merged rather than replaced.

use serde_json::Value;

use super::{About, DIRECTIVE, fresh, merge_objects, order, type_name};
use crate::patch::PatchError;

/// Merges a patch's list into the original's.
pub(super) fn merge(
    field: &str,
    original: Vec<Value>,
    patch: Vec<Value>,
    about: About<'_>,
) -> Result<Vec<Value>, PatchError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if uniform(original.iter().chain(&patch))? == Kind::Scalars {
        let was = original.clone();
        let mut merged = Vec::new();
        let mut places = order::Places::default();
        for item in original.into_iter().chain(patch.iter().cloned()) {
            if places.get(&item).is_none() {
                places.note(&item, merged.len());
                merged.push(item);
            }
        }
        return order::arrange(merged, &patch, &was, None);
    }
    let Some(key) = about.key() else { return Err(PatchError::UnkeyedList { field: field.to_string() }) };
    let (original, patch) = obey_directives(original, patch, key)?;
    let was = original.clone();
    let merged = merge_by_key(original, patch.clone(), key, about)?;
    order::arrange(merged, &patch, &was, Some(key))
}

/// Merges, and gives the items that `order` names their order. `None` if there is no list on either side.
pub(super) fn merge_in_order(
    field: &str,
    original: Option<Vec<Value>>,
    patch: Option<Vec<Value>>,
    order: Vec<Value>,
    about: About<'_>,
) -> Result<Option<Vec<Value>>, PatchError> {
    let key = about.key();
    if let Some(patch) = &patch {
        order::check(patch, &order, key)?;
    }
    let was = original.clone().unwrap_or_default();
    let merged = match (original, patch) {
        (None, None) => return Ok(None),
        (Some(original), None) => original,
        (None, Some(patch)) => patch.into_iter().filter_map(fresh).collect(),
        (Some(original), Some(patch)) if about.merge.is_some() => merge(field, original, patch, about)?,
        (Some(_), Some(patch)) => patch,
    };
    if !merged.is_empty() {
        uniform(was.iter().chain(&merged))?;
    }
    order::arrange(merged, &order, &was, key).map(Some)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Objects,
    Scalars,
}

/// What all items are.
pub(super) fn uniform<'v>(items: impl Iterator<Item = &'v Value> + Clone) -> Result<Kind, PatchError> {
    let mut kinds = items.clone().map(type_name);
    let first = kinds.next();
    if first == Some("[]interface {}") {
        return Err(PatchError::ListOfLists);
    }
    if kinds.any(|kind| Some(kind) != first) {
        return Err(PatchError::MixedList { items: items.cloned().collect() });
    }
    Ok(if first == Some("map[string]interface {}") { Kind::Objects } else { Kind::Scalars })
}

/// `{$patch: delete, name: x}` deletes from the original; `{$patch: replace}` makes the patch the whole list.
/// Gives the original and the patch without directives.
fn obey_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut unwanted = order::Places::default();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE) else {
            plain.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => unwanted.note(order::key_of(&item, key)?, 0),
            Some("replace") => replace = true,
            Some("merge") => return Err(PatchError::MergeInList),
            _ => return Err(PatchError::UnknownDirective { directive: directive.clone(), item }),
        }
    }
    original.retain(|old| old.get(key).is_none_or(|id| unwanted.get(id).is_none()));
    Ok(if replace { (plain, Vec::new()) } else { (original, plain) })
}

/// Each item is merged with the first that has its key, or added.
fn merge_by_key(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
    about: About<'_>,
) -> Result<Vec<Value>, PatchError> {
    let mut places = order::Places::default();
    for (at, item) in original.iter().enumerate() {
        if let Some(value) = item.get(key) {
            places.note(value, at);
        }
    }
    for item in patch {
        let value = order::key_of(&item, key)?;
        let at = places.get(value);
        match (at.and_then(|at| original.get_mut(at)), item) {
            (Some(Value::Object(old)), Value::Object(change)) => {
                *old = merge_objects(std::mem::take(old), change, about.items())?;
            }
            (_, item) => {
                places.note(order::key_of(&item, key)?, original.len());
                original.extend(fresh(item));
            }
        }
    }
    Ok(original)
}
