//! What the fields of an API object are: the facts that drive strict decoding, pruning, strategic merge and OpenAPI,
//! for built-in and custom resources alike.
//!
//! ```text
//!   facts.txt ──facts.rs──▶ Type { fields } ◀── (a CustomResourceDefinition's structural schema)
//!                             │
//!      bytes ──decode/──▶ Value, known fields only, each of its type     patch/ ──▶ merged Value
//! ```
//!
//! A [`Type`] is read from the table when it is first asked for, and references to types are looked up when they are
//! followed: recursion needs no special case, and what nobody sends costs no memory.

pub mod decode;
mod facts;

use std::{borrow::Cow, fmt, ops::Deref, sync::Arc};

pub use decode::{DecodeError, Decoded, Encoding, FieldValidation, conform, decode, prune};
pub use facts::{all, kinds, lookup, named};
use serde_json::Value;

/// Text that is static for built-in types and owned for types made at run time.
pub type Name = Cow<'static, str>;

/// An object with fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Type {
    /// As in OpenAPI, with the abbreviations of facts.txt: `apps.v1.DeploymentSpec`, `meta.v1.ObjectMeta`.
    pub name: Name,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// Unknown fields are kept as they are (`x-kubernetes-preserve-unknown-fields`).
    pub preserves_unknown: bool,
    /// Server-side apply replaces it as a whole (`x-kubernetes-map-type: atomic`).
    pub atomic: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: Name,
    pub shape: Shape,
    pub required: bool,
    /// The zero value is dropped when the object is encoded (Go's `omitempty` on a field that is no pointer).
    pub drops_zero: bool,
    /// `null` is a value (custom resources; elsewhere it is as if the field were absent).
    pub nullable: bool,
    /// Server-side apply replaces the map or object in this field as a whole.
    pub atomic: bool,
    pub default: Option<Box<Value>>,
    /// The values that there are, if they are counted: told in OpenAPI, checked by validation. Of a list: its items'.
    pub values: Vec<Name>,
    pub patch: Patch,
    /// The protobuf tag, and before it the tags of messages around it that JSON does not show. Empty if the field is
    /// not in the message (`kind`, `apiVersion`) or the type has no protobuf form.
    pub tags: Vec<u16>,
    /// The embedded structs that hold it in Go, joined by dots: part of the path in complaints about a wrong type.
    pub via: Name,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    Scalar(Scalar),
    /// Kept as it is (`RawExtension`, `FieldsV1`, schema-less parts of custom resources).
    Any,
    Object(TypeRef),
    List(Box<Shape>, ListKind),
    Map(Box<Shape>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// base64 in JSON.
    Bytes,
    /// RFC 3339, to the second.
    Time,
    /// RFC 3339, to the microsecond.
    MicroTime,
    Quantity,
    IntOrString,
}

/// Whose items a list's items are when several managers apply it (`x-kubernetes-list-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    #[default]
    Atomic,
    Set,
    /// `x-kubernetes-list-map-keys`
    Map(Vec<Name>),
}

/// How a strategic merge patch treats a field (`patchStrategy`, `patchMergeKey`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patch {
    pub merge: Option<Merge>,
    /// Fields of the object that the patch does not name in `$retainKeys` are cleared.
    pub retain_keys: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Scalars are added if they are not there.
    Scalars,
    /// Objects are merged with the one that has the same value of this field.
    Key(Name),
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let at = self.index_of(name)?;
        self.fields.get(at)
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()
    }

    /// The type's name without its package: `DeploymentSpec`.
    pub fn bare_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or_default()
    }

    /// As Go programs call it: `v1.DeploymentSpec`.
    pub fn go_name(&self) -> &str {
        let dots = self.name.rmatch_indices('.').nth(1);
        dots.map_or(self.name.as_ref(), |(at, _)| &self.name[at + 1..])
    }
}

impl Field {
    /// A field of a custom resource: nothing but its name and shape.
    pub fn new(name: impl Into<Name>, shape: Shape) -> Self {
        Self {
            name: name.into(),
            shape,
            required: false,
            drops_zero: false,
            nullable: false,
            atomic: false,
            default: None,
            values: Vec::new(),
            patch: Patch::default(),
            tags: Vec::new(),
            via: "".into(),
        }
    }
}

impl Shape {
    /// The zero value in JSON: what `null` as a list's item or a map's value means.
    pub fn zero(&self) -> Value {
        match self {
            Self::Scalar(scalar) => scalar.zero(),
            Self::Any => Value::Null,
            Self::Object(_) | Self::Map(_) => Value::Object(serde_json::Map::new()),
            Self::List(..) => Value::Array(Vec::new()),
        }
    }

    /// As Go programs call it, in complaints about a wrong type.
    pub fn go_name(&self) -> Name {
        match self {
            Self::Scalar(scalar) => scalar.go_name().into(),
            Self::Any => "interface {}".into(),
            Self::Object(r#type) => r#type.go_name().to_string().into(),
            Self::List(item, _) => format!("[]{}", item.go_name()).into(),
            Self::Map(item) => format!("map[string]{}", item.go_name()).into(),
        }
    }
}

impl Scalar {
    fn zero(self) -> Value {
        match self {
            Self::String | Self::Bytes => "".into(),
            Self::Bool => false.into(),
            Self::Int32 | Self::Int64 | Self::IntOrString => 0.into(),
            Self::Double => 0.0.into(),
            Self::Time | Self::MicroTime => Value::Null,
            Self::Quantity => "0".into(),
        }
    }

    fn go_name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Bool => "bool",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Double => "float64",
            Self::Bytes => "[]uint8",
            Self::Time => "v1.Time",
            Self::MicroTime => "v1.MicroTime",
            Self::Quantity => "resource.Quantity",
            Self::IntOrString => "intstr.IntOrString",
        }
    }
}

/// A type's name in OpenAPI: `io.k8s.api.apps.v1.Deployment` for `apps.v1.Deployment`.
pub fn openapi_name(name: &str) -> String {
    const ABBREVIATED: [(&str, &str); 3] = [
        ("meta.", "io.k8s.apimachinery.pkg.apis."),
        ("apiextensions.", "io.k8s.apiextensions-apiserver.pkg.apis."),
        ("apiregistration.", "io.k8s.kube-aggregator.pkg.apis."),
    ];
    let prefix = ABBREVIATED.iter().find(|(short, _)| name.starts_with(short));
    format!("{}{name}", prefix.map_or("io.k8s.api.", |(_, long)| long))
}

/// A type, of the built-in table or made at run time.
#[derive(Clone)]
pub enum TypeRef {
    BuiltIn(facts::Index),
    Made(Arc<Type>),
}

impl TypeRef {
    /// The type's name, without reading the type.
    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(index) => index.name(),
            Self::Made(made) => &made.name,
        }
    }

    /// The type, read anew and not kept: for those who need many types once.
    pub fn read(&self) -> Cow<'_, Type> {
        match self {
            Self::BuiltIn(index) => Cow::Owned(index.read()),
            Self::Made(made) => Cow::Borrowed(made),
        }
    }
}

impl Deref for TypeRef {
    type Target = Type;

    fn deref(&self) -> &Type {
        match self {
            Self::BuiltIn(index) => index.get(),
            Self::Made(made) => made,
        }
    }
}

impl From<Type> for TypeRef {
    fn from(made: Type) -> Self {
        Self::Made(Arc::new(made))
    }
}

impl PartialEq for TypeRef {
    /// By name, since types refer to each other in circles.
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for TypeRef {
    /// The name only, since types refer to each other in circles.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
