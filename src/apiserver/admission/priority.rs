//! Priority: the name of a pod's priority class becomes its priority.

use serde_json::Value;

use super::{Attributes, Operation, Plugin, Reader};
use crate::registry::strategy::fill;
use crate::status::{ApiError, GroupResource};

#[derive(Clone, Copy, Debug, Default)]
pub struct Priority;

fn classes() -> GroupResource {
    GroupResource::new("scheduling.k8s.io", "priorityclasses")
}

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        let written = matches!(operation, Operation::Create | Operation::Update);
        written
            && subresource.is_empty()
            && (*resource == classes() || *resource == GroupResource::new("", "pods"))
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        if attributes.resource == classes() || !attributes.object["spec"].is_object() {
            return Ok(());
        }
        if let Some(old) = attributes.old.clone().filter(|_| attributes.operation == Operation::Update) {
            for field in ["priority", "preemptionPolicy"] {
                if let Some(value) = old["spec"].get(field) {
                    fill::fill(&mut attributes.object["spec"], field, value.clone());
                }
            }
            return Ok(());
        }
        let class = class_of(attributes, reader)?;
        let spec = &attributes.object["spec"];
        if let Some(given) = spec["priority"].as_i64().filter(|given| *given != class.value) {
            return Err(attributes.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.value
            )));
        }
        if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != class.policy) {
            return Err(attributes.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.policy
            )));
        }
        let spec = &mut attributes.object["spec"];
        if !class.name.is_empty() {
            spec["priorityClassName"] = class.name.into();
        }
        spec["priority"] = class.value.into();
        spec["preemptionPolicy"] = class.policy.into();
        Ok(())
    }

    /// Only one class is everybody's.
    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        if attributes.resource != classes() || attributes.object["globalDefault"] != true {
            return Ok(());
        }
        let default = default_class(reader);
        let name = &attributes.object["metadata"]["name"];
        match default {
            Some(other) if other["metadata"]["name"] != *name => Err(attributes.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other["metadata"]["name"].as_str().unwrap_or_default()
            ))),
            _ => Ok(()),
        }
    }
}

/// What a pod gets from its class.
struct Class {
    name: String,
    value: i64,
    policy: String,
}

impl From<&Value> for Class {
    fn from(class: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            name: text(&class["metadata"]["name"]).unwrap_or_default(),
            value: class["value"].as_i64().unwrap_or_default(),
            policy: text(&class["preemptionPolicy"]).unwrap_or_else(|| "PreemptLowerPriority".to_owned()),
        }
    }
}

fn class_of(attributes: &Attributes, reader: &dyn Reader) -> Result<Class, ApiError> {
    let name = attributes.object["spec"]["priorityClassName"].as_str().unwrap_or_default();
    if !name.is_empty() {
        let class = reader
            .get(&classes(), "", name)
            .ok_or_else(|| attributes.forbidden(&format!("no PriorityClass with name {name} was found")))?;
        return Ok(Class::from(class.as_ref()));
    }
    let default = default_class(reader);
    let nothing = || Class { name: String::new(), value: 0, policy: "PreemptLowerPriority".to_owned() };
    Ok(default.as_deref().map_or_else(nothing, Class::from))
}

/// Of several defaults (two were made at once) the lowest.
fn default_class(reader: &dyn Reader) -> Option<std::sync::Arc<Value>> {
    let all = reader.list(&classes(), "");
    all.into_iter()
        .filter(|class| class["globalDefault"] == true)
        .min_by_key(|class| class["value"].as_i64().unwrap_or_default())
}
