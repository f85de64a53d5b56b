//! One object's bytes: the stored layout, and the splice of the resourceVersion.
#![deny(clippy::disallowed_methods)]

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::strings;

const METADATA: &[u8] = b"\"metadata\":{";
const VERSION_KEY: &str = "\"resourceVersion\":\"";

/// What every stored object of a kind begins with; a list's items leave it out.
pub fn type_prefix(kind: &str, api_version: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.push(b'{');
    put_member(&mut out, "kind", &Value::from(kind));
    out.push(b',');
    put_member(&mut out, "apiVersion", &Value::from(api_version));
    out.push(b',');
    out
}

/// The bytes to store: type first, then metadata (without resourceVersion), then the rest.
pub fn to_stored(object: &Value) -> Vec<u8> {
    let nothing = Map::new();
    let members = object.as_object().unwrap_or(&nothing);
    let text = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut out = type_prefix(text("kind"), text("apiVersion"));
    out.extend_from_slice(METADATA);
    let mut first = true;
    for (key, value) in members.get("metadata").and_then(Value::as_object).unwrap_or(&nothing) {
        if key != "resourceVersion" {
            put_comma(&mut out, &mut first);
            put_member(&mut out, key, value);
        }
    }
    out.push(b'}');
    for (key, value) in members {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            out.push(b',');
            put_member(&mut out, key, value);
        }
    }
    out.push(b'}');
    out
}

fn put_comma(out: &mut Vec<u8>, first: &mut bool) {
    if !std::mem::take(first) {
        out.push(b',');
    }
}

fn put_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    strings::put(out, key);
    out.push(b':');
    strings::put(out, value);
}

/// Bytes written as `before`, the object with its resourceVersion, `after`: one allocation.
/// Answers the whole and where in it the object is.
pub fn frame(before: &[u8], stored: &[u8], revision: u64, after: &[u8]) -> (Bytes, std::ops::Range<usize>) {
    let version = revision.to_string();
    let size = before.len() + stored.len() + VERSION_KEY.len() + version.len() + 2 + after.len();
    let mut out = BytesMut::with_capacity(size);
    out.put_slice(before);
    match split_at_metadata(stored) {
        Some((head, tail)) => {
            out.put_slice(head);
            out.put_slice(VERSION_KEY.as_bytes());
            out.put_slice(version.as_bytes());
            out.put_slice(b"\"");
            if tail.first() != Some(&b'}') {
                out.put_slice(b",");
            }
            out.put_slice(tail);
        }
        None => out.put_slice(&respliced(stored, &version)),
    }
    let range = before.len()..out.len();
    out.put_slice(after);
    (out.freeze(), range)
}

/// Just the object with its resourceVersion.
pub fn with_version(stored: &[u8], revision: u64) -> Bytes {
    frame(b"", stored, revision, b"").0
}

/// In our layout the first `"metadata":{` is the object's own: before it are only kind and apiVersion, in which
/// quotes are escaped.
fn split_at_metadata(stored: &[u8]) -> Option<(&[u8], &[u8])> {
    if !stored.starts_with(b"{\"kind\":") {
        return None;
    }
    let window = &stored[..stored.len().min(1024)];
    let at = window.windows(METADATA.len()).position(|part| part == METADATA)? + METADATA.len();
    Some(stored.split_at(at))
}

/// For bytes that somebody else wrote into the store in another layout.
fn respliced(stored: &[u8], version: &str) -> Vec<u8> {
    let Ok(mut object) = serde_json::from_slice::<Value>(stored) else { return stored.to_vec() };
    set_version(&mut object, version);
    serde_json::to_vec(&object).unwrap_or_else(|_| stored.to_vec())
}

pub fn set_version(object: &mut Value, version: &str) {
    if let Some(members) = object.as_object_mut() {
        let metadata = members.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("resourceVersion".into(), version.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn stored_and_read(object: &Value, revision: u64) -> Value {
        serde_json::from_slice(&with_version(&to_stored(object), revision)).unwrap()
    }

    #[test]
    fn the_revision_becomes_the_resource_version_and_nothing_else_changes() {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "\"metadata\":{"},
            "metadata": {"name": "x", "resourceVersion": "3", "labels": {"a": "b"}},
        });
        let mut expected = object.clone();
        expected["metadata"]["resourceVersion"] = "42".into();
        assert_eq!(stored_and_read(&object, 42), expected);
    }

    #[test]
    fn empty_metadata_stays_valid_json() {
        let object = json!({"kind": "X", "apiVersion": "v1", "metadata": {}});
        assert_eq!(stored_and_read(&object, 7)["metadata"], json!({"resourceVersion": "7"}));
    }

    #[test]
    fn bytes_in_another_layout_are_parsed() {
        let foreign = br#"{"apiVersion":"v1","kind":"X","a":{"metadata":{}},"metadata":{"name":"n"}}"#;
        let read: Value = serde_json::from_slice(&with_version(foreign, 9)).unwrap();
        assert_eq!(read["metadata"], json!({"name": "n", "resourceVersion": "9"}));
        assert_eq!(read["a"]["metadata"], json!({}));
    }

    #[test]
    fn the_type_comes_first_so_that_lists_can_cut_it() {
        let stored =
            to_stored(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}}));
        assert!(stored.starts_with(&type_prefix("Deployment", "apps/v1")));
    }

    proptest! {
        #[test]
        fn any_names_survive(kind in ".{0,20}", key in ".{0,20}", value in ".{0,40}") {
            let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": value}});
            object["metadata"]["labels"] = json!({ key.clone(): value });
            if key != "kind" && key != "apiVersion" && key != "metadata" {
                object[key] = json!({"metadata": {"x": 1}});
            }
            let mut expected = object.clone();
            expected["metadata"]["resourceVersion"] = "5".into();
            prop_assert_eq!(stored_and_read(&object, 5), expected);
        }
    }
}
