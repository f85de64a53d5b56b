//! One object in the cache: its bytes, and what selections look at.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde_json::Value;

use crate::{encode::object, registry::Resource};

/// An object at one revision.
#[derive(Debug)]
pub struct Entry {
    pub key: Arc<str>,
    pub revision: u64,
    pub header: Header,
    /// JSON in the storage version, with the resourceVersion.
    pub bytes: Bytes,
    /// A watch event's line around `bytes`; they share their memory.
    pub line: Bytes,
    /// What was stored, for a splice of another resourceVersion.
    stored: Bytes,
}

/// What can be selected by, without parsing the object.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Header {
    pub namespace: Box<str>,
    pub name: Box<str>,
    pub uid: Box<str>,
    pub labels: BTreeMap<String, String>,
    /// Values of the row's selectable fields, in its order.
    pub fields: Box<[Box<str>]>,
}

pub(super) const ADDED: &[u8] = b"{\"type\":\"ADDED\",\"object\":";
pub(super) const MODIFIED: &[u8] = b"{\"type\":\"MODIFIED\",\"object\":";
pub(super) const DELETED: &[u8] = b"{\"type\":\"DELETED\",\"object\":";
pub(super) const LINE_END: &[u8] = b"}\n";

impl Entry {
    /// `line_start` is the event that made it; later readers only want `bytes`.
    pub(super) fn new(
        row: &Resource,
        key: Arc<str>,
        stored: Bytes,
        revision: u64,
        line_start: &[u8],
    ) -> Self {
        let header = Header::read(row, &stored, &key);
        let (line, range) = object::frame(line_start, &stored, revision, LINE_END);
        Self { key, revision, header, bytes: line.slice(range), line, stored }
    }

    /// As read from the store's history.
    pub(crate) fn at(row: &Resource, key: &str, stored: Bytes, revision: u64) -> Self {
        Self::new(row, key.into(), stored, revision, ADDED)
    }

    /// The same state under another resourceVersion, as the line of a DELETED event.
    pub(super) fn deleted_at(&self, revision: u64) -> (Bytes, Bytes) {
        let (line, range) = object::frame(DELETED, &self.stored, revision, LINE_END);
        (line.slice(range), line)
    }

    /// As the line of an ADDED event.
    pub(super) fn added_line(&self) -> Bytes {
        if self.line.starts_with(ADDED) {
            return self.line.clone();
        }
        object::frame(ADDED, &self.stored, self.revision, LINE_END).0
    }

    /// Parses the object.
    ///
    /// # Errors
    /// When the store holds something that is not JSON.
    pub fn value(&self) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(&self.bytes)
    }
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct Typed {
    metadata: TypedMetadata,
}

#[derive(serde::Deserialize, Default)]
#[serde(default)]
struct TypedMetadata {
    namespace: String,
    name: String,
    uid: String,
    labels: Option<BTreeMap<String, String>>,
}

impl Header {
    fn read(row: &Resource, stored: &[u8], key: &str) -> Self {
        let (typed, fields) = if row.fields.is_empty() {
            (serde_json::from_slice::<Typed>(stored).ok(), Box::default())
        } else {
            let value: Value = serde_json::from_slice(stored).unwrap_or_default();
            let fields = row.fields.iter().map(|field| field_text(&value, field)).collect();
            (serde_json::from_value::<Typed>(value).ok(), fields)
        };
        let Some(Typed { metadata }) = typed else {
            return Self::of_key(row, key);
        };
        Self {
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
            uid: metadata.uid.into(),
            labels: metadata.labels.unwrap_or_default(),
            fields,
        }
    }

    /// For what is not an object: it can still be named, and so deleted.
    fn of_key(row: &Resource, key: &str) -> Self {
        let path = key.strip_prefix(&row.prefix()).unwrap_or(key);
        let (namespace, name) = path.split_once('/').unwrap_or(("", path));
        let fields = row.fields.iter().map(|field| field.absent.as_ref().into()).collect();
        Self { namespace: namespace.into(), name: name.into(), fields, ..Self::default() }
    }
}

/// A selectable field's value as text.
fn field_text(object: &Value, field: &crate::registry::Field) -> Box<str> {
    let read = |pointer: &str| {
        object.pointer(pointer).filter(|value| !value.is_null() && value.as_str() != Some(""))
    };
    let found = read(&field.pointer).or_else(|| read(field.otherwise.as_deref()?));
    match found {
        None => field.absent.as_ref().into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}
