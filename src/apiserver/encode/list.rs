//! A list of objects, written from bytes that are there already.
#![deny(clippy::disallowed_methods)]

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

/// A list's `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    pub resource_version: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("resourceVersion".into(), self.resource_version.to_string().into());
        if let Some(token) = &self.continue_token {
            map.insert("continue".into(), token.as_str().into());
        }
        if let Some(remaining) = self.remaining.filter(|_| self.continue_token.is_some()) {
            map.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(map)
    }
}

/// How much a chunk of the body holds.
const CHUNK: usize = 64 << 10;

/// The list's bytes in chunks, made as they are asked for.
pub struct Chunks<I> {
    items: I,
    /// What each item begins with and is left out of it: a list says the type once.
    cut: Vec<u8>,
    pending: BytesMut,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    First,
    Items,
    Done,
}

/// `cut` is [`super::object::type_prefix`] of the items.
pub fn chunks<I: Iterator<Item = Bytes>>(
    kind: &str,
    api_version: &str,
    meta: &ListMeta,
    cut: Vec<u8>,
    items: I,
) -> Chunks<I> {
    let mut pending = BytesMut::with_capacity(CHUNK / 4);
    pending.put_slice(&super::object::type_prefix(kind, api_version));
    pending.put_slice(b"\"metadata\":");
    pending.put_slice(meta.to_value().to_string().as_bytes());
    pending.put_slice(b",\"items\":[");
    Chunks { items, cut, pending, state: State::First }
}

impl<I: Iterator<Item = Bytes>> Iterator for Chunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        while self.state != State::Done && self.pending.len() < CHUNK {
            let Some(item) = self.items.next() else {
                self.pending.put_slice(b"]}");
                self.state = State::Done;
                break;
            };
            if self.state == State::Items {
                self.pending.put_u8(b',');
            }
            self.state = State::Items;
            match item.strip_prefix(&self.cut[..]) {
                Some(rest) if !self.cut.is_empty() => {
                    self.pending.put_u8(b'{');
                    self.pending.put_slice(rest);
                }
                _ => self.pending.put_slice(&item),
            }
        }
        (!self.pending.is_empty()).then(|| self.pending.split().freeze())
    }
}

impl<I> std::fmt::Debug for Chunks<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chunks").field("pending_bytes", &self.pending.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::encode::object::type_prefix;

    fn whole(meta: &ListMeta, items: Vec<&'static str>) -> Value {
        let items = items.into_iter().map(|item| Bytes::from_static(item.as_bytes()));
        let bytes: Vec<u8> =
            chunks("PodList", "v1", meta, type_prefix("Pod", "v1"), items).flatten().collect();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn items_lose_their_type_and_keep_everything_else() {
        let meta = ListMeta { resource_version: 7, continue_token: Some("t".into()), remaining: Some(3) };
        let list = whole(
            &meta,
            vec![r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#, r#"{"other":1}"#],
        );
        assert_eq!(
            list,
            json!({
                "kind": "PodList", "apiVersion": "v1",
                "metadata": {"resourceVersion": "7", "continue": "t", "remainingItemCount": 3},
                "items": [{"metadata": {"name": "a"}}, {"other": 1}],
            })
        );
    }

    #[test]
    fn an_empty_list_has_an_empty_array() {
        assert_eq!(whole(&ListMeta::default(), vec![])["items"], json!([]));
    }
}
