//! Admission: plugins that may change or refuse a write after authorization.

mod certificates;
mod default_tolerations;
mod device_admin;
mod device_status;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod runtime_class;
mod service_account;
mod storage;
mod taint_nodes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use certificates::{CertificateRequester, CertificateSubjectRestriction, SignerRights};
pub use default_tolerations::DefaultTolerationSeconds;
pub use device_admin::DeviceAdminAccess;
pub use device_status::DeviceStatusRights;
pub use namespace_lifecycle::NamespaceLifecycle;
pub use node_restriction::NodeRestriction;
pub use priority::Priority;
pub use runtime_class::RuntimeClass;
pub use service_account::ServiceAccount;
pub use storage::{DefaultStorageClass, PersistentVolumeClaimResize, StorageObjectInUseProtection};
pub use taint_nodes::TaintNodesByCondition;

use api::constants::annotation::CONFIG_MIRROR;
use serde_json::Value;

use crate::{
    authz::{Authorization, escalation::Escalation},
    registry::{DeleteOptions, Registry},
    status::{ApiError, GroupResource},
    user::UserInfo,
};

/// One admission plugin. Pure but for what it reads through [`Reader`].
pub trait Plugin: Send + Sync {
    /// Upstream's name of the plugin.
    fn name(&self) -> &'static str;

    /// `subresource` is empty for the object itself. Operations are those of [`Operation`].
    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool;

    #[expect(unused_variables, reason = "most plugins do one of the two")]
    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        Ok(())
    }

    #[expect(unused_variables, reason = "most plugins do one of the two")]
    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// A write under judgement.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub operation: Operation,
    pub user: UserInfo,
    pub resource: GroupResource,
    pub version: String,
    pub kind: String,
    pub subresource: String,
    /// Empty if cluster-scoped.
    pub namespace: String,
    /// Empty for a create with generateName, until a name was generated, and for deletecollection.
    pub name: String,
    /// The object to be written, in the storage version, defaulted; a subresource's own body for acting
    /// subresources; `Null` for deletes.
    pub object: Value,
    /// What is stored now; `None` for creates.
    pub old: Option<Arc<Value>>,
    /// For deletes.
    pub delete_options: Option<DeleteOptions>,
    pub dry_run: bool,
    /// Texts for `Warning` headers, added by plugins.
    pub warnings: Vec<String>,
}

impl Attributes {
    /// 403 in upstream's words: `pods "x" is forbidden: why`.
    pub fn forbidden(&self, why: &str) -> ApiError {
        ApiError::forbidden(&self.resource, &self.name, why)
    }
}

/// Reads of the watch cache, for plugins and authorizers. The cache has seen every write that was answered.
pub trait Reader: Send + Sync {
    /// `namespace` is empty for cluster-scoped resources. Objects are in the storage version.
    fn get(&self, what: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects of a namespace, or (empty) of all.
    fn list(&self, what: &GroupResource, namespace: &str) -> Vec<Arc<Value>>;

    /// The revision of the last change of any object of the resource: for caches of what was computed from a
    /// list. 0 if there has been none.
    fn changed(&self, what: &GroupResource) -> u64;

    /// The objects that changed after a revision, as they are now. `None`: that is no longer known, list instead.
    #[expect(unused_variables, reason = "the default knows of no history")]
    fn changes_after(&self, what: &GroupResource, revision: u64) -> Option<Changes> {
        None
    }

    fn registry(&self) -> &Registry;
}

/// What changed of a resource.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Complete up to this revision, which is [`Reader::changed`]'s at that moment.
    pub revision: u64,
    pub objects: Vec<Changed>,
}

/// One object that changed, as it is now.
#[derive(Clone, Debug)]
pub struct Changed {
    pub namespace: String,
    pub name: String,
    /// `None`: it is gone.
    pub object: Option<Arc<Value>>,
}

/// The plugins that are always on, in the order in which they run.
pub fn plugins(authorization: &Arc<Authorization>) -> Vec<Arc<dyn Plugin>> {
    vec![
        Arc::new(NamespaceLifecycle),
        Arc::new(ServiceAccount),
        Arc::new(NodeRestriction),
        Arc::new(TaintNodesByCondition),
        Arc::new(Priority),
        Arc::new(DefaultTolerationSeconds),
        Arc::new(RuntimeClass),
        Arc::new(DeviceAdminAccess),
        Arc::new(DeviceStatusRights::new(authorization.clone())),
        Arc::new(DefaultStorageClass),
        Arc::new(PersistentVolumeClaimResize),
        Arc::new(StorageObjectInUseProtection),
        Arc::new(CertificateRequester),
        Arc::new(SignerRights::new(authorization.clone())),
        Arc::new(CertificateSubjectRestriction),
        Arc::new(Escalation::new(authorization.clone())),
    ]
}

/// Whether a pod only shows what a node runs from its own files.
fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"][CONFIG_MIRROR].is_string()
}

/// The resources that a pod spec refers to by name, each once: what a pod from a node's own files must not do.
fn references(spec: &Value) -> Vec<&'static str> {
    let mut found = Vec::new();
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        found.push("serviceaccounts");
    }
    if !list(spec, "imagePullSecrets").is_empty() {
        found.push("secrets");
    }
    for container in
        ["containers", "initContainers", "ephemeralContainers"].iter().flat_map(|name| list(spec, name))
    {
        for source in list(&container, "envFrom") {
            found.extend(source["configMapRef"].is_object().then_some("configmaps"));
            found.extend(source["secretRef"].is_object().then_some("secrets"));
        }
        for variable in list(&container, "env") {
            found.extend(variable["valueFrom"]["configMapKeyRef"].is_object().then_some("configmaps"));
            found.extend(variable["valueFrom"]["secretKeyRef"].is_object().then_some("secrets"));
        }
    }
    const KINDS: [(&str, &str); 8] = [
        ("secret", "secrets"),
        ("configMap", "configmaps"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims"),
        ("csi", "csidrivers"),
        ("serviceAccountToken", "serviceaccounts"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "podcertificates"),
    ];
    for volume in list(spec, "volumes") {
        let sources = list(&volume["projected"], "sources");
        for source in std::iter::once(&volume).chain(&sources) {
            found.extend(KINDS.iter().filter(|(field, _)| source[*field].is_object()).map(|(_, kind)| *kind));
        }
    }
    if !list(spec, "resourceClaims").is_empty() {
        found.push("resourceclaims");
    }
    found
}
