//! The strategic merge patch: in what order the items of a merged list are.
//!
//! First counts the order that the patch asks for, then the order in the original (upstream's design "preserve order
//! in strategic merge patch").

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

fn identities<'v>(items: &'v [Value], key: Option<&str>) -> Result<Vec<&'v Value>, PatchError> {
    items.iter().map(|item| identity(item, key)).collect()
}

/// Items that `wanted` names come in its order, the others in the original's; the two are interleaved so that an other
/// stays before the wanted ones that it was before.
pub(super) fn arrange(
    merged: Vec<Value>,
    wanted: &[Value],
    original: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    let wanted = identities(wanted, key)?;
    let original = identities(original, key)?;
    let place = |list: &[&Value], id: &Value| list.iter().position(|known| *known == id);

    let mut named = Vec::new();
    let mut others = Vec::new();
    for item in merged {
        let id = identity(&item, key)?;
        let before = place(&original, id);
        match place(&wanted, id) {
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
    let mut rest = identities(order, key)?.into_iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let id = identity(item, key)?;
        if !rest.any(|known| known == id) {
            return Err(PatchError::OrderMismatch { list: patch.into(), order: order.into() });
        }
    }
    Ok(())
}
