//! TaintNodesByCondition: a new node is not ready until the node controller says so.

use serde_json::json;

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, GroupResource};

const NOT_READY: &str = "node.kubernetes.io/not-ready";

#[derive(Clone, Copy, Debug, Default)]
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && *resource == GroupResource::new("", "nodes")
            && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let node = &mut attributes.object;
        if node["spec"].is_null() {
            node["spec"] = json!({});
        }
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let tainted =
            |taint: &serde_json::Value| taint["key"] == NOT_READY && taint["effect"] == "NoSchedule";
        if node["spec"].is_object() && !taints.iter().any(tainted) {
            taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
            node["spec"]["taints"] = taints.into();
        }
        Ok(())
    }
}
