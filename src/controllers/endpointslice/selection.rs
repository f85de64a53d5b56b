//! Which Services, pods and slices belong together.

use std::collections::BTreeMap;

use api::{constants::label, selector::Selector};
use client::{ObjectKey, Store};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};

/// The Service that a slice of `manager` belongs to.
pub(crate) fn service_of(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.get(label::ENDPOINT_SLICE_MANAGED_BY).map(String::as_str) != Some(manager) {
        return None;
    }
    let service = labels.get(label::SERVICE_NAME)?;
    Some(ObjectKey::namespaced(slice.metadata.namespace.as_deref().unwrap_or_default(), service))
}

/// What decides which Services a pod serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labelled {
    namespace: String,
    labels: Vec<(String, String)>,
}

impl Labelled {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default().into_iter().collect(),
        }
    }

    /// The Services that select it.
    pub(crate) fn services(&self, services: &Store<Service>) -> Vec<ObjectKey> {
        let labels: BTreeMap<String, String> = self.labels.iter().cloned().collect();
        let all = services.list_in(&self.namespace);
        let selecting = all.iter().filter(|service| selector(service).is_some_and(|s| s.matches(&labels)));
        selecting.map(|service| ObjectKey::of(&service.metadata)).collect()
    }
}

/// A Service's selector; none for those whose endpoints somebody else makes.
pub(crate) fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    Some(Selector::of_set(selector))
}
