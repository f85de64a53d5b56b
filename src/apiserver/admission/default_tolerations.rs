//! DefaultTolerationSeconds: a pod outlives five minutes of its node's trouble, unless it says otherwise.

use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, GroupResource};

const SECONDS: i64 = 300;

#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && *resource == GroupResource::new("", "pods")
            && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let spec = &mut attributes.object["spec"];
        if !spec.is_object() {
            return Ok(());
        }
        let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            if !tolerations.iter().any(|toleration| covers(toleration, taint)) {
                tolerations.push(json!({
                    "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
                }));
            }
        }
        spec["tolerations"] = tolerations.into();
        Ok(())
    }
}

fn covers(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    matches!(text("key"), key if key.is_empty() || key == taint) && matches!(text("effect"), "" | "NoExecute")
}
