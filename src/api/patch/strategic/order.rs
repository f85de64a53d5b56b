//! The strategic merge patch: in what order the items of a merged list are.
//!
//! First counts the order that the patch asks for, then the order in the original (upstream's design "preserve order
//! in strategic merge patch").

use std::collections::HashMap;

use serde_json::Value;

use super::DIRECTIVE;
use crate::patch::PatchError;

/// What an item is told by: its merge key's value, or itself.
fn identity<'v>(item: &'v Value, key: Option<&str>) -> Result<&'v Value, PatchError> {
    key.map_or(Ok(item), |key| key_of(item, key))
}

pub(super) fn key_of<'v>(item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
    item.get(key).ok_or_else(|| PatchError::NoMergeKey { item: item.clone(), key: key.to_string() })
}

/// Where each item is first, by its identity: lists of a patch may be long.
#[derive(Default)]
pub(super) struct Places(HashMap<String, usize>);

impl Places {
    pub(super) fn of(items: &[Value], key: Option<&str>) -> Result<Self, PatchError> {
        let mut places = Self::default();
        for (at, item) in items.iter().enumerate() {
            places.note(identity(item, key)?, at);
        }
        Ok(places)
    }

    pub(super) fn note(&mut self, id: &Value, at: usize) {
        self.0.entry(id.to_string()).or_insert(at);
    }

    pub(super) fn get(&self, id: &Value) -> Option<usize> {
        self.0.get(&id.to_string()).copied()
    }
}

/// Items that `wanted` names come in its order, the others in the original's; the two are interleaved so that an other
/// stays before the wanted ones that it was before.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    original: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let wanted = Places::of(wanted, key)?;
    let original = Places::of(original, key)?;
    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in merged {
        let id = identity(&item, key)?;
        let before = original.get(id);
        match wanted.get(id) {
            Some(at) => named.push((at, before, item)),
            None => others.push((before, item)),
        }
    }
    named.sort_by_key(|(at, ..)| *at);
    others.sort_by_key(|(before, _)| *before);

    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, before, item) in named {
        let goes_first =
            |other: &(Option<usize>, Value)| matches!((other.0, before), (Some(l), Some(r)) if l < r);
        while let Some((_, other)) = others.next_if(goes_first) {
            arranged.push(other);
        }
        arranged.push(item);
    }
    arranged.extend(others.map(|(_, other)| other));
    Ok(arranged)
}

/// Whether the patch's list, but for its deletions, is a part of `order` in the same order.
pub(super) fn check(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let order_ids: Result<Vec<&Value>, PatchError> = order.iter().map(|item| identity(item, key)).collect();
    let mut rest = order_ids?.into_iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let id = identity(item, key)?;
        if !rest.any(|known| known == id) {
            return Err(PatchError::OrderMismatch { list: patch.into(), order: order.into() });
        }
    }
    Ok(())
}
