//! RuntimeClass: a pod's runtime class exists, and brings its overhead and its nodes.

use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, GroupResource};

#[derive(Clone, Copy, Debug, Default)]
pub struct RuntimeClass;

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && *resource == GroupResource::new("", "pods")
            && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let Some(class) = class_of(attributes, reader)? else { return Ok(()) };
        overhead(attributes, &class)?;
        node_selector(attributes, &class["scheduling"]["nodeSelector"])?;
        let spec = &mut attributes.object["spec"];
        let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
        for toleration in class["scheduling"]["tolerations"].as_array().into_iter().flatten() {
            if !tolerations.contains(toleration) {
                tolerations.push(toleration.clone());
            }
        }
        if !tolerations.is_empty() {
            spec["tolerations"] = tolerations.into();
        }
        Ok(())
    }

    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let class = class_of(attributes, reader)?;
        let fixed = class.as_ref().map_or(&Value::Null, |class| &class["overhead"]["podFixed"]);
        let own = &attributes.object["spec"]["overhead"];
        match (fixed.is_null(), own.as_object().is_none_or(serde_json::Map::is_empty)) {
            (true, false) => Err(attributes.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

fn class_of(attributes: &Attributes, reader: &dyn Reader) -> Result<Option<Arc<Value>>, ApiError> {
    let Some(name) = attributes.object["spec"]["runtimeClassName"].as_str() else { return Ok(None) };
    let classes = GroupResource::new("node.k8s.io", "runtimeclasses");
    match reader.get(&classes, "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(attributes.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn overhead(attributes: &mut Attributes, class: &Value) -> Result<(), ApiError> {
    let fixed = &class["overhead"]["podFixed"];
    if fixed.is_null() {
        return Ok(());
    }
    let own = &attributes.object["spec"]["overhead"];
    if !own.is_null() && own != fixed {
        let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
        return Err(attributes.forbidden(why));
    }
    attributes.object["spec"]["overhead"] = fixed.clone();
    Ok(())
}

fn node_selector(attributes: &mut Attributes, wanted: &Value) -> Result<(), ApiError> {
    for (key, value) in wanted.as_object().into_iter().flatten() {
        let own = attributes.object["spec"]["nodeSelector"].get(key);
        if let Some(own) = own.filter(|own| *own != value) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                text(value),
                text(own)
            );
            return Err(attributes.forbidden(&why));
        }
        attributes.object["spec"]["nodeSelector"][key.as_str()] = value.clone();
    }
    Ok(())
}
