//! A YAML document as a tree that remembers the line of each key and value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// A value and the line (from 1) where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) line: u64,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the document's order; a key that stands twice is here twice.
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: u64,
    pub(crate) node: Node,
}

/// Why a text is not YAML at all.
#[derive(Debug)]
pub(crate) struct SyntaxError {
    pub(crate) line: u64,
    pub(crate) message: String,
}

pub(crate) fn parse(text: &str) -> Result<Node, SyntaxError> {
    let options = serde_saphyr::options! {
        // Duplicates are reported with everything else, not as the one first mistake.
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
    };
    serde_saphyr::from_str_with_options::<Spanned<Value>>(text, options).map(Node::from).map_err(|error| {
        SyntaxError { line: error.location().map_or(1, |l| l.line()), message: brief(&error.to_string()) }
    })
}

/// The first line of the parser's message: the rest is a drawing of the text around it.
fn brief(message: &str) -> String {
    message.lines().next().unwrap_or("not valid YAML").trim_start_matches("error: ").to_string()
}

impl Value {
    /// What a person would call it, in a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }

    /// The value itself as a person would write it in a sentence.
    pub(crate) fn plain(&self) -> String {
        match self {
            Self::Null => "empty".into(),
            Self::Bool(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Text(text) if text.is_empty() => "empty".into(),
            Self::Text(text) => text.clone(),
            Self::List(items) if items.is_empty() => "an empty list".into(),
            Self::List(items) => items.iter().map(|item| item.value.plain()).collect::<Vec<_>>().join(","),
            Self::Map(entries) if entries.is_empty() => "an empty map".into(),
            Self::Map(entries) => {
                let words = entries.iter().map(|entry| format!("{}={}", entry.key, entry.node.value.plain()));
                words.collect::<Vec<_>>().join(",")
            }
        }
    }
}

impl Node {
    /// Nothing at all, said nowhere.
    pub(crate) fn empty() -> Self {
        Self { line: 0, value: Value::Map(Vec::new()) }
    }

    /// Puts a value where `path` (keys with dots between) leads, said at `line`.
    pub(crate) fn set(&mut self, path: &str, line: u64, value: Value) {
        let (key, rest) = path.split_once('.').map_or((path, None), |(key, rest)| (key, Some(rest)));
        let entries = self.map();
        let index = entries.iter().position(|entry| entry.key == key).unwrap_or_else(|| {
            entries.push(Entry { key: key.to_string(), line, node: Self::empty() });
            entries.len() - 1
        });
        match rest {
            Some(rest) => entries[index].node.set(rest, line, value),
            None => entries[index].node = Self { line, value },
        }
    }

    /// What is there at a key, if anything.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// This document with `above` over it: maps are merged, everything else is replaced. What is no map is left for
    /// whoever reads it to complain of.
    pub(crate) fn under(mut self, above: Self) -> Self {
        match (&mut self.value, above.value) {
            (Value::Map(_), Value::Map(more)) => {
                for entry in more {
                    let entries = self.map();
                    match entries.iter().position(|known| known.key == entry.key) {
                        Some(index) => {
                            let below = std::mem::replace(&mut entries[index].node, Self::empty());
                            entries[index].node = below.under(entry.node);
                        }
                        None => entries.push(entry),
                    }
                }
                self
            }
            (_, value) => Self { line: above.line, value },
        }
    }

    fn map(&mut self) -> &mut Vec<Entry> {
        if !matches!(self.value, Value::Map(_)) {
            self.value = Value::Map(Vec::new());
        }
        match &mut self.value {
            Value::Map(entries) => entries,
            _ => unreachable!("it was made a map above"),
        }
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Self {
        Self { line: spanned.referenced.line(), value: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Text(value.to_string()), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Spanned<Value>>()? {
            items.push(item.into());
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
            entries.push(Entry { line: key.referenced.line(), key: key.value, node: node.into() });
        }
        Ok(Value::Map(entries))
    }
}
