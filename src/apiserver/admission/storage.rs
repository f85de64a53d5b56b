//! What claims for storage get and may ask: a default class, protection while they are in use, more room where their
//! class allows it.

use std::{cmp::Reverse, sync::Arc};

use api::quantity::Quantity;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin, Reader};
use crate::status::{ApiError, GroupResource};

const CLAIMS: &str = "persistentvolumeclaims";
const VOLUMES: &str = "persistentvolumes";
/// A claim's class, from before there was a field for it.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

fn is(resource: &GroupResource, plural: &str) -> bool {
    resource.group.is_empty() && resource.resource == plural
}

fn classes() -> GroupResource {
    GroupResource::new("storage.k8s.io", "storageclasses")
}

/// `DefaultStorageClass`: a claim that names no class gets the default one, the newest if there are several.
#[derive(Clone, Copy, Debug, Default)]
pub struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create && is(resource, CLAIMS) && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let claim = &mut attributes.object;
        if class_of(claim).is_some() || !claim["spec"].is_object() {
            return Ok(());
        }
        let text =
            |class: &Value, field: &str| class["metadata"][field].as_str().unwrap_or_default().to_owned();
        let is_default = |class: &Arc<Value>| {
            DEFAULT.iter().any(|annotation| class["metadata"]["annotations"][*annotation] == "true")
        };
        let defaults = reader.list(&classes(), "").into_iter().filter(is_default);
        let newest =
            defaults.min_by_key(|class| (Reverse(text(class, "creationTimestamp")), text(class, "name")));
        if let Some(class) = newest {
            claim["spec"]["storageClassName"] = text(&class, "name").into();
        }
        Ok(())
    }
}

/// What a claim says about its class, were it that it wants none.
fn class_of(claim: &Value) -> Option<&str> {
    let annotation = claim["metadata"]["annotations"][CLASS].as_str();
    annotation.or_else(|| claim["spec"]["storageClassName"].as_str())
}

/// `StorageObjectInUseProtection`: volumes and claims stay until the controllers have seen that nobody uses them.
#[derive(Clone, Copy, Debug, Default)]
pub struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        let kind = is(resource, CLAIMS) || is(resource, VOLUMES);
        operation == Operation::Create && kind && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, _reader: &dyn Reader) -> Result<(), ApiError> {
        let finalizer = if is(&attributes.resource, CLAIMS) {
            "kubernetes.io/pvc-protection"
        } else {
            "kubernetes.io/pv-protection"
        };
        let Some(metadata) = attributes.object["metadata"].as_object_mut() else { return Ok(()) };
        let finalizers = metadata.entry("finalizers").or_insert(Value::Null);
        if finalizers.is_null() {
            *finalizers = json!([]);
        }
        if let Some(list) = finalizers.as_array_mut()
            && !list.iter().any(|known| known == finalizer)
        {
            list.push(finalizer.into());
        }
        Ok(())
    }
}

/// `PersistentVolumeClaimResize`: a claim grows once it has its volume, if its class allows that.
#[derive(Clone, Copy, Debug, Default)]
pub struct PersistentVolumeClaimResize;

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Update && is(resource, CLAIMS) && subresource.is_empty()
    }

    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        let (new, Some(old)) = (&attributes.object, attributes.old.as_deref()) else { return Ok(()) };
        let size = |claim: &Value| {
            Quantity::of_value(&claim["spec"]["resources"]["requests"]["storage"]).unwrap_or_default()
        };
        if size(new) <= size(old) {
            return Ok(());
        }
        if old["status"]["phase"] != "Bound" {
            return Err(attributes.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = class_of(new).filter(|class| !class.is_empty() && class_of(old) == Some(*class));
        let class = class.and_then(|class| reader.get(&classes(), "", class));
        if class.is_some_and(|class| class["allowVolumeExpansion"] == true) {
            return Ok(());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
            support resize";
        Err(attributes.forbidden(why))
    }
}
