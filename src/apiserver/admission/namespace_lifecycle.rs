//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going, and some namespaces stay.

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, GroupResource};

/// They cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];
const ACCESS_REVIEW: &str = "localsubjectaccessreviews";

#[derive(Clone, Copy, Debug, Default)]
pub struct NamespaceLifecycle;

fn namespaces() -> GroupResource {
    GroupResource::new("", "namespaces")
}

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, _subresource: &str) -> bool {
        match operation {
            Operation::Create | Operation::Update => {
                *resource != namespaces() && resource.resource != ACCESS_REVIEW
            }
            Operation::Delete => *resource == namespaces(),
            Operation::Connect => false,
        }
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        if attributes.operation == Operation::Delete {
            if IMMORTAL.contains(&attributes.name.as_str()) {
                return Err(attributes.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let name = attributes.namespace.as_str();
        if name.is_empty() {
            return Ok(());
        }
        let Some(namespace) = reader.get(&namespaces(), "", name) else {
            return Err(ApiError::not_found(&namespaces(), name));
        };
        if attributes.operation == Operation::Create && namespace["status"]["phase"] == "Terminating" {
            let why =
                format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(attributes.forbidden(&why).with_cause(
                "NamespaceTerminating",
                format!("namespace {name} is being terminated"),
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}
