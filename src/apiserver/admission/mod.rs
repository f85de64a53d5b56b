//! Admission: plugins that may change or refuse a write after authorization.

use std::sync::Arc;

use serde_json::Value;

use crate::{
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
