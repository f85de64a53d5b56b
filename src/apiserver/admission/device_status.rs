//! Who writes the status of claims for devices writes the part that they have a right for: who binds claims their
//! devices and their users, a driver what it knows of its own devices. Upstream (`DRAResourceClaimGranularStatusAuthorization`)
//! asks while it validates; here only plugins know the user.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::{Attributes, Operation, Plugin, Reader};
use crate::authz::{self, Authorizer, Decision};
use crate::registry::strategy::at::same;
use crate::status::{ApiError, FieldError, GroupKind, GroupResource};
use crate::user::UserInfo;

const GROUP: &str = "resource.k8s.io";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// `resourceclaims/binding` and `resourceclaims/driver`, which no path has.
pub struct DeviceStatusRights {
    authorizer: Arc<dyn Authorizer>,
}

impl std::fmt::Debug for DeviceStatusRights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceStatusRights").finish_non_exhaustive()
    }
}

impl DeviceStatusRights {
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        Self { authorizer }
    }

    /// What is asked is not told here whether it is an update or a patch: either right will do.
    fn allows(&self, user: &UserInfo, prefix: &str, what: &authz::Attributes) -> bool {
        ["update", "patch"].into_iter().any(|verb| {
            let attributes = authz::Attributes { verb: format!("{prefix}{verb}"), ..what.clone() };
            matches!(self.authorizer.authorize(user, &attributes), Decision::Allow(_))
        })
    }
}

fn right(subresource: &str) -> authz::Attributes {
    authz::Attributes {
        is_resource: true,
        group: GROUP.to_owned(),
        version: "v1".to_owned(),
        resource: "resourceclaims".to_owned(),
        subresource: subresource.to_owned(),
        ..authz::Attributes::default()
    }
}

impl Plugin for DeviceStatusRights {
    fn name(&self) -> &'static str {
        "DeviceStatusRights"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        let claims = resource.group == GROUP && resource.resource == "resourceclaims";
        operation == Operation::Update && claims && subresource == "status"
    }

    fn validate(&self, attributes: &Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let Some(old) = attributes.old.as_deref() else { return Ok(()) };
        let (now, then) = (&attributes.object["status"], &old["status"]);
        let mut errors = Vec::new();
        let binds = ["allocation", "reservedFor"].iter().any(|field| !same(&now[*field], &then[*field]));
        if binds && !self.allows(&attributes.user, "", &right("binding")) {
            let why = "changing status.allocation or status.reservedFor requires \
                resource=\"resourceclaims/binding\", verb=\"update\" permission";
            errors.push(FieldError::forbidden("status.allocation", why));
        }
        // What a driver has told goes with the allocation: nobody writes it then.
        let drivers = if now["allocation"].is_object() { changed(now, then) } else { BTreeSet::new() };
        for driver in drivers {
            let what = authz::Attributes {
                namespace: attributes.namespace.clone(),
                name: driver,
                ..right("driver")
            };
            let beside = is_beside(&attributes.user, &now["allocation"]);
            let allowed = beside && self.allows(&attributes.user, "associated-node:", &what)
                || self.allows(&attributes.user, "arbitrary-node:", &what);
            if !allowed {
                let why = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", \
                     verb=\"arbitrary-node:update\" permission for {}",
                    what.name
                );
                errors.push(FieldError::forbidden("status.devices", why));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&GroupKind::new(GROUP, "ResourceClaim"), &attributes.name, &errors))
    }
}

/// The drivers of devices of which something else is told than before.
fn changed(now: &Value, then: &Value) -> BTreeSet<String> {
    let devices = |status: &Value| status["devices"].as_array().cloned().unwrap_or_default();
    let (now, then) = (devices(now), devices(then));
    let only_in = |some: &[Value], others: &[Value]| -> Vec<String> {
        let new = some.iter().filter(|device| !others.contains(device));
        new.map(|device| device["driver"].as_str().unwrap_or_default().to_owned()).collect()
    };
    only_in(&now, &then).into_iter().chain(only_in(&then, &now)).collect()
}

/// Whether it is a pod's account, and its node the one that has the devices.
fn is_beside(user: &UserInfo, allocation: &Value) -> bool {
    let terms = &allocation["nodeSelector"]["nodeSelectorTerms"];
    let one = |list: &Value| list.as_array().is_some_and(|list| list.len() == 1);
    let (by_label, field) = (&terms[0]["matchExpressions"], &terms[0]["matchFields"][0]);
    let of_one_node = one(terms)
        && by_label.as_array().is_none_or(Vec::is_empty)
        && one(&terms[0]["matchFields"])
        && field["key"] == "metadata.name"
        && field["operator"] == "In"
        && one(&field["values"]);
    let account = user.name.starts_with("system:serviceaccount:");
    match user.extra.get(NODE_NAME).map(Vec::as_slice) {
        Some([node]) => account && of_one_node && field["values"][0] == node.as_str(),
        _ => false,
    }
}
