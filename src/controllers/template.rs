//! Pod templates: their hash, and whether two are the same.
#![deny(clippy::disallowed_methods)]

use api::constants::label::POD_TEMPLATE_HASH;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use crate::hash::{fnv1a, safe};

/// Names a template among those of one owner. `collisions` makes another name for the same template when the
/// first one is taken. The value is ours; nobody computes it again to compare.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let text = normal(template).to_string();
    let salt = collisions.map(i32::to_le_bytes);
    safe(fnv1a(&[text.as_bytes(), salt.as_ref().map_or(&[], |salt| salt.as_slice())]))
}

/// Whether both make the same pods, but for the hash label.
pub(crate) fn same(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    normal(a) == normal(b)
}

/// The template as plain JSON without the hash label.
fn normal(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    plain(value)
}

/// A template without what differs in form only: empty lists and maps that a client may or may not have sent.
pub(crate) fn plain(mut value: Value) -> Value {
    drop_empty(&mut value);
    value
}

/// Fields that are maps, not structs: an empty one says nothing.
const MAPS: &[&str] =
    &["metadata", "labels", "annotations", "nodeSelector", "limits", "requests", "matchLabels"];

fn drop_empty(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(drop_empty);
            fields.retain(|name, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(inner) => !inner.is_empty() || !MAPS.contains(&name.as_str()),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(json: &Value) -> PodTemplateSpec {
        serde_json::from_value(json.clone()).unwrap()
    }

    #[test]
    fn templates_differ_by_content_and_not_by_form() {
        let base = serde_json::json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "x"}]}});
        let mut labelled = base.clone();
        labelled["metadata"]["labels"][POD_TEMPLATE_HASH] = "abc".into();
        labelled["spec"]["nodeSelector"] = serde_json::json!({});
        labelled["spec"]["tolerations"] = serde_json::json!([]);
        assert!(same(&template(&base), &template(&labelled)));
        let mut other = base.clone();
        other["spec"]["volumes"] = serde_json::json!([{"name": "v", "emptyDir": {}}]);
        assert!(!same(&template(&base), &template(&other)));
        assert_eq!(hash(&template(&base), None), hash(&template(&labelled), None));
        assert_ne!(hash(&template(&base), None), hash(&template(&base), Some(0)));
        assert_ne!(hash(&template(&base), None), hash(&template(&other), None));
    }
}
