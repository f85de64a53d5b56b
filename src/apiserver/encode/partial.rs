//! PartialObjectMetadata: an object's metadata alone.
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

pub const API_VERSION: &str = "meta.k8s.io/v1";

pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": API_VERSION,
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}
