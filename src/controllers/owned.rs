//! What belongs to whom: lookups of dependents by the UID of their controller, and of orphans by namespace.

use std::sync::Arc;

use api::references::controller_of;
use client::{Cache, Index, Store};
use k8s_openapi::{Metadata, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};

/// Who something belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Belongs {
    /// To the controller of this UID.
    To(String),
    /// To nobody, in this namespace.
    Nobody(String),
}

impl Belongs {
    fn of(meta: &ObjectMeta) -> Self {
        match controller_of(meta) {
            Some(owner) => Self::To(owner.uid.clone()),
            None => Self::Nobody(meta.namespace.clone().unwrap_or_default()),
        }
    }
}

/// The objects of one kind, found by who they belong to.
pub(crate) struct Owned<T> {
    pub(crate) all: Store<T>,
    of: Index<Belongs, T>,
}

impl<T> Clone for Owned<T> {
    fn clone(&self) -> Self {
        Self { all: self.all.clone(), of: self.of.clone() }
    }
}

/// The pods of the cluster: one lookup serves all controllers that make pods.
pub(crate) type Pods = Owned<Pod>;

impl<T> Owned<T>
where
    T: client::Object + Metadata<Ty = ObjectMeta>,
{
    pub(crate) fn new(cache: &Cache) -> Self {
        let all = cache.store::<T>();
        Self { of: all.index(|_, object: &T| vec![Belongs::of(object.metadata())]), all }
    }

    /// What the controller of this UID controls.
    pub(crate) fn by(&self, uid: &str) -> Vec<Arc<T>> {
        self.of.get(&Belongs::To(uid.to_string()))
    }

    /// What nobody in this namespace controls.
    pub(crate) fn orphans(&self, namespace: &str) -> Vec<Arc<T>> {
        self.of.get(&Belongs::Nobody(namespace.to_string()))
    }
}
