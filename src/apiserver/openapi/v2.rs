//! OpenAPI v2: one document for everything, for clients that know no v3. Made from the parts of v3.
#![deny(clippy::disallowed_methods)]

use serde_json::{Map, Value, json};

use super::{
    components::{Components, Dialect},
    descriptions::Texts,
    paths,
};
use crate::discovery::groups;

pub(super) fn document(versions: &[&groups::Version<'_>], server_version: &str) -> Value {
    let texts = Texts::unpack();
    let texts = texts.index();
    let mut components = Components::new(Dialect::V2, &texts, |group, name| {
        versions.iter().any(|version| (version.group, version.version) == (group, name))
    });
    let mut all = Map::new();
    for version in versions {
        if let Value::Object(paths) = paths::of(version, &mut components) {
            all.extend(paths.into_iter().map(|(path, item)| (path, path_item(item))));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": server_version},
        "paths": all,
        "definitions": components.finish(),
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer Token authentication",
        }},
        "security": [{"BearerToken": []}],
    })
}

fn path_item(item: Value) -> Value {
    let Value::Object(fields) = item else { return item };
    let converted = fields.into_iter().map(|(name, value)| {
        let value = if name == "parameters" { parameters(value) } else { operation(value) };
        (name, value)
    });
    Value::Object(converted.collect())
}

fn operation(mut operation: Value) -> Value {
    let mut all = parameters(operation["parameters"].take());
    if let Some(body) = operation.as_object_mut().and_then(|fields| fields.remove("requestBody")) {
        let (types, schema) = content(&body["content"]);
        operation["consumes"] = types;
        let required = body["required"].as_bool().unwrap_or(false);
        if let Value::Array(all) = &mut all {
            all.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
        }
    }
    operation["parameters"] = all;
    if let Value::Object(responses) = &mut operation["responses"] {
        let mut produces = Value::Null;
        for response in responses.values_mut() {
            if let Some(told) = response.as_object_mut().and_then(|fields| fields.remove("content")) {
                let (types, schema) = content(&told);
                response["schema"] = schema;
                produces = types;
            }
        }
        operation["produces"] = produces;
    }
    operation
}

/// v2 has a parameter's type beside its name.
fn parameters(parameters: Value) -> Value {
    let Value::Array(parameters) = parameters else { return Value::Array(Vec::new()) };
    let flat = parameters.into_iter().map(|mut parameter| {
        if let Some(Value::Object(schema)) =
            parameter.as_object_mut().and_then(|fields| fields.remove("schema"))
        {
            for (name, value) in schema {
                parameter[name] = value;
            }
        }
        parameter
    });
    flat.collect()
}

/// Media types, and the one schema that they share.
fn content(content: &Value) -> (Value, Value) {
    let Some(content) = content.as_object() else { return (Value::Null, Value::Null) };
    let schema = content.values().next().map(|of| of["schema"].clone()).unwrap_or_default();
    (content.keys().cloned().collect(), schema)
}
