//! Subresources that do something and need nothing but the API's own objects.

mod binding;
mod eviction;

pub use binding::Binding;
pub use eviction::Eviction;
use serde_json::{Value, json};

use crate::status::GroupResource;

fn pods() -> GroupResource {
    GroupResource::new("", "pods")
}

/// What an action without a result of its own answers.
fn success(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code})
}

#[cfg(test)]
mod tests;
