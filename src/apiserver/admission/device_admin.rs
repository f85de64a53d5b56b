//! Access to devices that others use is for namespaces that an administrator has marked. Upstream asks for the mark
//! while it validates claims, and in these words; here only plugins read other objects.

use serde_json::Value;

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, FieldError, GroupKind, GroupResource};

const LABEL: &str = "resource.kubernetes.io/admin-access";

#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceAdminAccess;

impl Plugin for DeviceAdminAccess {
    fn name(&self) -> &'static str {
        "DeviceAdminAccess"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        let claims = matches!(resource.resource.as_str(), "resourceclaims" | "resourceclaimtemplates");
        resource.group == "resource.k8s.io"
            && claims
            && matches!(operation, Operation::Create | Operation::Update)
    }

    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let Some(field) = asks(attributes) else { return Ok(()) };
        let namespaces = GroupResource::new("", "namespaces");
        let namespace = reader.get(&namespaces, "", &attributes.namespace);
        if namespace.is_some_and(|namespace| namespace["metadata"]["labels"][LABEL] == "true") {
            return Ok(());
        }
        let why =
            format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
        let kind = GroupKind::new(attributes.resource.group.as_str(), attributes.kind.as_str());
        Err(ApiError::invalid(&kind, &attributes.name, &[FieldError::forbidden(&field, why)]))
    }
}

/// Where the access is asked for, if it is and was not before.
fn asks(attributes: &Attributes) -> Option<String> {
    let (object, old) = (&attributes.object, attributes.old.as_deref());
    match (attributes.operation, attributes.subresource.as_str()) {
        // Upstream leaves `exactly`, and the template's own `spec`, out of the path.
        (Operation::Create, _) => {
            let spec = ["/spec/devices/requests", "/spec/spec/devices/requests"];
            let at = spec.iter().find_map(|list| first(object, list, "/exactly/adminAccess"))?;
            Some(format!("spec.devices.requests[{at}].adminAccess"))
        }
        (Operation::Update, "status") => {
            const RESULTS: &str = "/status/allocation/devices/results";
            let granted = old.is_some_and(|old| first(old, RESULTS, "/adminAccess").is_some());
            let at = first(object, RESULTS, "/adminAccess").filter(|_| !granted)?;
            Some(format!("status.allocation.devices.results[{at}].adminAccess"))
        }
        _ => None,
    }
}

/// The first element of a list that has a flag.
fn first(object: &Value, list: &str, flag: &str) -> Option<usize> {
    let items = object.pointer(list)?.as_array()?;
    items.iter().position(|item| item.pointer(flag) == Some(&Value::Bool(true)))
}
