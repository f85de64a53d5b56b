//! One request for a resource, on its way through the handlers.

use std::sync::Arc;

use api::schema::FieldValidation;
use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{decode::Expected, metadata};
use crate::{
    admission::{Attributes, Operation, Plugin},
    cache::{Cache, ResourceCache},
    encode::accept::Wanted,
    registry::{Registry, Resource, Served},
    request::RequestInfo,
    status::{ApiError, GroupResource},
    transaction::Writer,
    user::UserInfo,
};

/// What all handlers share.
pub struct Api {
    pub cache: Arc<Cache>,
    pub registry: Arc<Registry>,
    pub admission: Vec<Arc<dyn Plugin>>,
    pub writer: Writer,
}

/// A request for a stored resource.
pub(crate) struct Call {
    pub(crate) user: UserInfo,
    pub(crate) info: RequestInfo,
    pub(crate) headers: HeaderMap,
    pub(crate) row: Arc<Resource>,
    /// The version asked for: an index of `row.served`.
    pub(crate) served: usize,
    pub(crate) wanted: Wanted,
    pub(crate) now: Timestamp,
}

impl Call {
    pub(crate) fn version(&self) -> &Served {
        &self.row.served[self.served]
    }

    pub(crate) fn what(&self) -> GroupResource {
        self.info.group_resource()
    }

    /// Empty for cluster-scoped resources, although a Namespace's path names one.
    pub(crate) fn namespace(&self) -> &str {
        if self.row.is_namespaced() { &self.info.namespace } else { "" }
    }

    /// What a body of the object itself must be.
    pub(crate) fn expected(&self) -> Expected<'_> {
        let version = self.version();
        Expected { group: &version.group, version: &version.version, kind: &self.row.kind }
    }

    pub(crate) fn cache(&self, api: &Api) -> Result<Arc<ResourceCache>, ApiError> {
        api.cache.resource(&self.row).ok_or_else(|| ApiError::internal("storage is (re)initializing"))
    }

    /// The body as an object of the served version.
    pub(crate) fn decode(
        &self,
        body: &Bytes,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let decoded = self.expected().decode(&self.headers, body, validation)?;
        warnings.extend(decoded.warnings);
        let mut object = decoded.value;
        metadata::drop_server_side(&mut object);
        Ok(object)
    }

    /// From the served version to the storage version.
    pub(crate) fn to_storage(&self, object: &mut Value) {
        if let Some(conversion) = self.version().conversion {
            (conversion.to_storage)(object);
        }
        if self.served != 0 {
            object["apiVersion"] = self.row.storage().api_version().into();
        }
    }

    /// From the storage version to the served version.
    pub(crate) fn to_served(&self, object: &mut Value) {
        if let Some(conversion) = self.version().conversion {
            (conversion.from_storage)(object);
        }
        if self.served != 0 {
            object["apiVersion"] = self.version().api_version().into();
        }
    }

    pub(crate) fn attributes(
        &self,
        operation: Operation,
        object: Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Attributes {
        Attributes {
            operation,
            user: self.user.clone(),
            resource: self.row.group_resource(),
            version: self.row.storage().version.to_string(),
            kind: self.row.kind.to_string(),
            subresource: self.info.subresource.clone(),
            namespace: self.namespace().to_string(),
            name: self.info.name.clone(),
            object,
            old: old.cloned().map(Arc::new),
            delete_options: None,
            dry_run,
            warnings: Vec::new(),
        }
    }
}

impl Api {
    pub(crate) fn mutate(&self, attributes: &mut Attributes) -> Result<(), ApiError> {
        for plugin in self.interested(attributes) {
            plugin.mutate(attributes, self.cache.as_ref())?;
        }
        Ok(())
    }

    pub(crate) fn validate(&self, attributes: &Attributes) -> Result<(), ApiError> {
        for plugin in self.interested(attributes) {
            plugin.validate(attributes, self.cache.as_ref())?;
        }
        Ok(())
    }

    fn interested(&self, attributes: &Attributes) -> Vec<Arc<dyn Plugin>> {
        let (operation, resource) = (attributes.operation, &attributes.resource);
        let handles =
            |plugin: &&Arc<dyn Plugin>| plugin.handles(operation, resource, &attributes.subresource);
        self.admission.iter().filter(handles).cloned().collect()
    }
}

/// `metav1.Status` of a success.
pub(crate) fn success(what: &GroupResource, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": what.resource});
    if !what.group.is_empty() {
        details["group"] = what.group.as_str().into();
    }
    if !uid.is_empty() {
        details["uid"] = uid.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}
