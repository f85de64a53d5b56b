//! NodeRestriction: a node writes what is about itself and its own pods, and nothing that would make it more.

mod node;
mod pods;
mod token;

use super::certificates::Subject;
use super::{Attributes, Operation, Plugin, Reader};
use crate::authz::node::node_of;
use crate::status::{ApiError, GroupResource};

#[derive(Clone, Copy, Debug, Default)]
pub struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, operation: Operation, _resource: &GroupResource, _subresource: &str) -> bool {
        operation != Operation::Connect
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let Some(node) = node_of(&attributes.user) else { return Ok(()) };
        let node = node.to_owned();
        if node.is_empty() {
            let why = format!("could not determine node from user {:?}", attributes.user.name);
            return Err(attributes.forbidden(&why));
        }
        let resource = (attributes.resource.group.as_str(), attributes.resource.resource.as_str());
        match resource {
            ("", "pods") => pods::judge(&node, attributes, reader),
            ("", "nodes") => node::judge(&node, attributes),
            ("", "serviceaccounts") => token::judge(&node, attributes, reader),
            ("", "persistentvolumeclaims") => Err(attributes.forbidden("may only update PVC status")),
            ("coordination.k8s.io", "leases") => lease(&node, attributes),
            ("storage.k8s.io", "csinodes") => csi_node(&node, attributes),
            ("resource.k8s.io", "resourceslices") => slice(&node, attributes),
            ("certificates.k8s.io", "certificatesigningrequests") => request(&node, attributes),
            _ => Ok(()),
        }
    }
}

/// The name in the object for a create, whose path has none.
fn name_of(attributes: &Attributes) -> &str {
    if attributes.operation == Operation::Create {
        attributes.object["metadata"]["name"].as_str().unwrap_or_default()
    } else {
        &attributes.name
    }
}

fn lease(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    if attributes.namespace != "kube-node-lease" {
        let why = "can only access leases in the \"kube-node-lease\" system namespace";
        return Err(attributes.forbidden(why));
    }
    if name_of(attributes) != node {
        let why = "can only access node lease with the same name as the requesting node";
        return Err(attributes.forbidden(why));
    }
    Ok(())
}

fn csi_node(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    if name_of(attributes) != node {
        let why = "can only access CSINode with the same name as the requesting node";
        return Err(attributes.forbidden(why));
    }
    Ok(())
}

/// A node tells of its own devices. What it changes, the authorizer has looked at.
fn slice(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    let (object, done) = match attributes.operation {
        Operation::Create => (Some(&attributes.object), "create"),
        Operation::Delete => (attributes.old.as_deref(), "delete"),
        Operation::Update | Operation::Connect => return Ok(()),
    };
    if object.is_some_and(|slice| slice["spec"]["nodeName"] == node) {
        return Ok(());
    }
    let why = format!("can only {done} ResourceSlice with the same NodeName as the requesting node");
    Err(attributes.forbidden(&why))
}

/// A node asks for its own certificates.
fn request(node: &str, attributes: &Attributes) -> Result<(), ApiError> {
    const OWN: [&str; 2] = ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
    let signer = attributes.object["spec"]["signerName"].as_str().unwrap_or_default();
    if attributes.operation != Operation::Create || !OWN.contains(&signer) {
        return Ok(());
    }
    let Some(subject) = Subject::of(&attributes.object) else {
        return Err(attributes.forbidden("unable to parse csr"));
    };
    let expected = format!("system:node:{node}");
    if subject.common_name != expected {
        return Err(attributes.forbidden(&format!("can only create a node CSR with CN={expected}")));
    }
    Ok(())
}
