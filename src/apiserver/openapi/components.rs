//! The schemas of types, as `components.schemas` of OpenAPI v3 (or `definitions` of v2) have them.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, HashMap};

use api::schema::{self, Field, ListKind, Merge, Scalar, Shape, Type, TypeRef, openapi_name};
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;

/// Which OpenAPI is written: what a reference looks like, and what may stand beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    V3,
    V2,
}

impl Dialect {
    pub(super) fn reference(self, name: &str) -> Value {
        let place = match self {
            Self::V3 => "#/components/schemas/",
            Self::V2 => "#/definitions/",
        };
        json!({"$ref": format!("{place}{name}")})
    }
}

type Kind = (&'static str, &'static str, &'static str);

/// Collects schemas, each with all that it refers to.
pub(super) struct Components<'d> {
    dialect: Dialect,
    texts: &'d Descriptions<'d>,
    /// By the type's name.
    kinds: HashMap<String, Vec<Kind>>,
    done: BTreeMap<String, Value>,
}

impl<'d> Components<'d> {
    /// `is_served` tells of which (group, version)s kinds are named.
    pub(super) fn new(
        dialect: Dialect,
        texts: &'d Descriptions<'d>,
        is_served: impl Fn(&str, &str) -> bool,
    ) -> Self {
        let mut kinds: HashMap<String, Vec<Kind>> = HashMap::new();
        for (kind, r#type) in schema::kinds() {
            if is_served(kind.0, kind.1) || kind.0 == "*" {
                kinds.entry(r#type.name().to_string()).or_default().push(kind);
            }
        }
        Self { dialect, texts, kinds, done: BTreeMap::new() }
    }

    /// A reference to the type, whose schema is added.
    pub(super) fn refer(&mut self, r#type: &TypeRef) -> Value {
        let name = openapi_name(r#type.name());
        if !self.done.contains_key(&name) {
            self.done.insert(name.clone(), Value::Null); // types that contain themselves find it here
            let made = self.object(&r#type.read(), &name);
            self.done.insert(name.clone(), made);
        }
        self.dialect.reference(&name)
    }

    /// A reference to a schema that is no type of the table.
    pub(super) fn refer_plain(&mut self, name: &str, schema: Value) -> Value {
        let texts = self.texts;
        self.done.entry(name.to_string()).or_insert_with(|| {
            let mut schema = schema;
            describe(&mut schema, texts.of_type(name));
            schema
        });
        self.dialect.reference(name)
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.done.into_iter().collect())
    }

    fn object(&mut self, r#type: &Type, name: &str) -> Value {
        let mut schema = json!({"type": "object"});
        let list = name.ends_with("List").then(|| format!("{} is a list of objects.", r#type.bare_name()));
        describe(&mut schema, self.texts.of_type(name).or(list.as_deref()));
        let mut properties = Map::new();
        for field in &r#type.fields {
            properties.insert(field.name.to_string(), self.field(field, name));
        }
        let required: Vec<&str> =
            r#type.fields.iter().filter(|field| field.required).map(|field| field.name.as_ref()).collect();
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if r#type.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if r#type.preserves_unknown {
            schema["x-kubernetes-preserve-unknown-fields"] = true.into();
        }
        if let Some(kinds) = self.kinds.get(r#type.name.as_ref()) {
            // What is in every group and version is told as the core group's.
            let told = kinds.iter().map(|kind| match kind {
                ("*", _, kind) => kind_of("", "v1", kind),
                (group, version, kind) => kind_of(group, version, kind),
            });
            schema["x-kubernetes-group-version-kind"] = told.collect();
        }
        schema
    }

    fn field(&mut self, field: &Field, owner: &str) -> Value {
        let mut schema = match &field.shape {
            Shape::Any => self.loose(&field.name, owner),
            shape => self.shape(shape),
        };
        if !field.values.is_empty() {
            let counted = if schema.get("items").is_some() { &mut schema["items"] } else { &mut schema };
            counted["enum"] = field.values.iter().map(AsRef::as_ref).collect();
        }
        let text = self.texts.of_field(owner, &field.name).or_else(|| self.common_text(&field.name, owner));
        if self.dialect == Dialect::V3 && schema.get("$ref").is_some() {
            // Beside a reference nothing is read.
            schema = json!({"allOf": [schema]});
        }
        describe(&mut schema, text);
        if let Some(default) = &field.default {
            schema["default"] = default.as_ref().clone();
        }
        if field.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if field.nullable {
            schema["nullable"] = true.into();
        }
        let strategies = [(field.patch.merge.is_some(), "merge"), (field.patch.retain_keys, "retainKeys")];
        let strategies: Vec<&str> =
            strategies.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
        if !strategies.is_empty() {
            schema["x-kubernetes-patch-strategy"] = strategies.join(",").into();
        }
        if let Some(Merge::Key(key)) = &field.patch.merge {
            schema["x-kubernetes-patch-merge-key"] = key.as_ref().into();
        }
        schema
    }

    /// Lists have no texts of their own; these fields are the same everywhere.
    fn common_text(&self, field: &str, owner: &str) -> Option<&'d str> {
        let is_list = owner.ends_with("List");
        match field {
            "items" if is_list => Some("The objects of the list."),
            "metadata" if is_list => Some("Standard list metadata."),
            "apiVersion" | "kind" => self.texts.of_field("io.k8s.api.core.v1.Pod", field),
            _ => None,
        }
    }

    /// A field of which nothing is known; upstream has names for some.
    fn loose(&mut self, field: &str, owner: &str) -> Value {
        let object = json!({"type": "object"});
        if field == "fieldsV1" {
            self.refer_plain("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", object)
        } else if owner.starts_with("io.k8s.api.") || owner.starts_with("io.k8s.apimachinery.") {
            self.refer_plain("io.k8s.apimachinery.pkg.runtime.RawExtension", object)
        } else {
            json!({"x-kubernetes-preserve-unknown-fields": true})
        }
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::Scalar(scalar) => self.scalar(*scalar),
            Shape::Any => json!({"x-kubernetes-preserve-unknown-fields": true}),
            Shape::Object(r#type) => self.refer(r#type),
            Shape::Map(value) => json!({"type": "object", "additionalProperties": self.shape(value)}),
            Shape::List(item, kind) => {
                let mut schema = json!({"type": "array", "items": self.shape(item)});
                let (name, keys) = match kind {
                    ListKind::Atomic => ("atomic", None),
                    ListKind::Set => ("set", None),
                    ListKind::Map(keys) => ("map", Some(keys)),
                };
                schema["x-kubernetes-list-type"] = name.into();
                if let Some(keys) = keys {
                    schema["x-kubernetes-list-map-keys"] = keys.iter().map(AsRef::as_ref).collect();
                }
                schema
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Value {
        let date_time = || json!({"type": "string", "format": "date-time"});
        match scalar {
            Scalar::String => json!({"type": "string"}),
            Scalar::Bool => json!({"type": "boolean"}),
            Scalar::Int32 => json!({"type": "integer", "format": "int32"}),
            Scalar::Int64 => json!({"type": "integer", "format": "int64"}),
            Scalar::Double => json!({"type": "number", "format": "double"}),
            Scalar::Bytes => json!({"type": "string", "format": "byte"}),
            Scalar::Time => self.refer_plain("io.k8s.apimachinery.pkg.apis.meta.v1.Time", date_time()),
            Scalar::MicroTime => {
                self.refer_plain("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", date_time())
            }
            Scalar::Quantity => {
                let schema = match self.dialect {
                    Dialect::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                    Dialect::V2 => json!({"type": "string"}),
                };
                self.refer_plain("io.k8s.apimachinery.pkg.api.resource.Quantity", schema)
            }
            Scalar::IntOrString => {
                let schema = match self.dialect {
                    Dialect::V3 => {
                        json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
                    }
                    Dialect::V2 => json!({"format": "int-or-string", "type": "string"}),
                };
                self.refer_plain("io.k8s.apimachinery.pkg.util.intstr.IntOrString", schema)
            }
        }
    }
}

pub(super) fn kind_of(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn describe(schema: &mut Value, text: Option<&str>) {
    if let Some(text) = text {
        schema["description"] = text.into();
    }
}
