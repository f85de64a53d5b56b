//! From a request's body to a value that holds nothing but what its type knows.
//!
//! Upstream decodes JSON into Go structs and later writes those; what comes out there comes out here: unknown fields
//! are gone, `null`s are gone, zero values are gone where the struct's field says `omitempty`, times and quantities
//! are in their canonical form. Its complaints, and the order of them, are upstream's too.

mod prune;
mod scalar;
mod walk;

use std::fmt;

pub use prune::prune;
use serde::de::DeserializeSeed as _;
use serde_json::Value;

use self::walk::{Node, Walk};
use super::{Shape, TypeRef};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Yaml,
}

/// What becomes of unknown and duplicate fields (the request's `fieldValidation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped, and each is told in a warning.
    #[default]
    Warn,
    /// They fail the request, all in one error.
    Strict,
}

impl FieldValidation {
    /// The option's value; empty is the default. `None` for what is none of `Ignore`, `Warn`, `Strict`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Ignore" => Some(Self::Ignore),
            "" | "Warn" => Some(Self::Warn),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// A body that fits its type.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// For `Warning` headers: `unknown field "spec.replica"`.
    pub warnings: Vec<String>,
}

/// Why a body is refused; always 400 BadRequest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Neither JSON nor YAML.
    Syntax(String),
    /// A value of the wrong type, or a text that its type can't read.
    Type(String),
    /// Unknown and duplicate fields.
    Strict(Vec<String>),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(said) | Self::Type(said) => f.write_str(said),
            Self::Strict(fields) => write!(f, "strict decoding error: {}", fields.join(", ")),
        }
    }
}

impl std::error::Error for DecodeError {}

impl DecodeError {
    /// The error's message in a Status, for a body that should be a `kind` of `version`.
    pub fn message(&self, kind: &str, version: &str, body: &[u8]) -> String {
        match self {
            Self::Syntax(said) => {
                let summary = summarize(body);
                format!("the object provided is unrecognized (must be of type {kind}): {said} ({summary})")
            }
            Self::Type(_) | Self::Strict(_) => {
                format!("{kind} in version {version:?} cannot be handled as a {kind}: {self}")
            }
        }
    }
}

/// The start of the body in hexadecimal, as upstream shows it.
fn summarize(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    if body.is_empty() {
        return "<empty>".into();
    }
    let mut text: String = body.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if body.len() > SHOWN {
        text.push_str(" ...");
    }
    text
}

/// Decodes a body. Nesting is bounded (128 levels); the size is the caller's to bound.
///
/// # Errors
/// If it's no JSON (YAML) object, a value is of the wrong type, or, with `Strict`, a field is unknown or there twice.
pub fn decode(
    body: &[u8],
    encoding: Encoding,
    r#type: &TypeRef,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::default();
    let shape = Shape::Object(r#type.clone());
    let value = match encoding {
        Encoding::Json => from_json(body, Node::root(&mut walk, &shape))?,
        Encoding::Yaml => from_yaml(body, Node::root(&mut walk, &shape))?,
    };
    finish(value, walk, validation)
}

/// The same for a value, such as the outcome of a patch.
///
/// # Errors
/// As [`decode`].
pub fn conform(value: Value, r#type: &TypeRef, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::default();
    let shape = Shape::Object(r#type.clone());
    let value = Node::root(&mut walk, &shape).deserialize(value);
    let value = value.map_err(|error| DecodeError::Syntax(error.to_string()))?;
    finish(value, walk, validation)
}

/// Reads a body without a type: a patch, whose fields are checked once it is applied. Duplicate fields are reported as
/// `decode` does.
///
/// # Errors
/// If it is not JSON (YAML).
pub fn decode_untyped(
    body: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
) -> Result<Decoded, DecodeError> {
    let mut walk = Walk::default();
    let value = match encoding {
        Encoding::Json => from_json(body, Node::root(&mut walk, &Shape::Any))?,
        Encoding::Yaml => from_yaml(body, Node::root(&mut walk, &Shape::Any))?,
    };
    finish(value, walk, validation)
}

fn from_json(body: &[u8], root: Node<'_, '_>) -> Result<Option<Value>, DecodeError> {
    let said = |error: serde_json::Error| {
        DecodeError::Syntax(format!("couldn't get version/kind; json parse error: {error}"))
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = root.deserialize(&mut json).map_err(said)?;
    json.end().map_err(said)?;
    Ok(value)
}

fn from_yaml(body: &[u8], root: Node<'_, '_>) -> Result<Option<Value>, DecodeError> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    serde_saphyr::with_deserializer_from_slice_with_options(body, options, |yaml| root.deserialize(yaml))
        .map_err(|error| DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {error}")))
}

fn finish(value: Option<Value>, walk: Walk<'_>, validation: FieldValidation) -> Result<Decoded, DecodeError> {
    if let Some(wrong) = walk.wrong {
        return Err(DecodeError::Type(wrong));
    }
    let warnings = match validation {
        FieldValidation::Strict if !walk.strict.is_empty() => return Err(DecodeError::Strict(walk.strict)),
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => walk.strict,
    };
    Ok(Decoded { value: value.unwrap_or_default(), warnings })
}

/// Whether the type's decoder would leave out this value of a field with `drops_zero`.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// What a fuzzer calls: bytes of anybody against a type. Must not panic, and what it accepts once it accepts again.
#[doc(hidden)]
pub fn fuzz(body: &[u8], r#type: &TypeRef) {
    for encoding in [Encoding::Json, Encoding::Yaml] {
        let Ok(decoded) = decode(body, encoding, r#type, FieldValidation::Warn) else { continue };
        let again = conform(decoded.value.clone(), r#type, FieldValidation::Strict);
        assert_eq!(again.map(|again| again.value), Ok(decoded.value), "decoding is not stable");
    }
}

/// Whether a root value is an object at all is told in upstream's words for it.
fn not_an_object(found: &str) -> String {
    format!(
        "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ \
         APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

#[cfg(test)]
mod tests;
