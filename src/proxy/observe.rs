//! Reads one Service with its EndpointSlices from the read cache.

use std::{collections::HashSet, sync::Arc};

use client::{Cache, Changes, Index, ObjectKey, Store};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::model::{ServiceModel, build};

const SERVICE_NAME: &str = "service.kubernetes.io/service-proxy-name";
const SLICE_SERVICE: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The two kinds that Services are made of, found by the Service's key.
pub(crate) struct World {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    slices_of: Index<ObjectKey, EndpointSlice>,
    changed_services: Changes,
    changed_slices: Changes<ObjectKey>,
    node: String,
}

impl World {
    pub(crate) fn new(cache: &Cache, node: String) -> Self {
        let services: Store<Service> = cache.store();
        let slices: Store<EndpointSlice> = cache.store();
        let slices_of =
            slices.index(|_, slice: &EndpointSlice| service_of(slice).into_iter().collect::<Vec<_>>());
        let changed_slices =
            slices.changes_by(|_, slice: &EndpointSlice| service_of(slice).into_iter().collect::<Vec<_>>());
        let changed_services = services.changes();
        Self { services, slices, slices_of, changed_services, changed_slices, node }
    }

    pub(crate) async fn wait_synced(&self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
    }

    /// Keys of Services that may have changed, each once, however often it changed.
    pub(crate) async fn changed(&mut self) -> HashSet<ObjectKey> {
        let mut keys = tokio::select! {
            keys = self.changed_services.next() => keys,
            keys = self.changed_slices.next() => keys,
        };
        // What came in meanwhile goes with it.
        keys.extend(self.changed_services.take());
        keys.extend(self.changed_slices.take());
        keys
    }

    /// Every Service; what changed until now is in it.
    pub(crate) fn all(&mut self) -> Vec<(ObjectKey, ServiceModel)> {
        self.changed_services.take();
        self.changed_slices.take();
        self.services.keys().into_iter().map(|key| self.model(key)).collect()
    }

    /// A Service that is gone, or that another proxy serves, has the empty model.
    pub(crate) fn model(&self, key: ObjectKey) -> (ObjectKey, ServiceModel) {
        let Some(service) = self.services.get(&key).filter(|service| is_ours(service)) else {
            return (key, ServiceModel::default());
        };
        let slices = self.slices_of.get(&key);
        let slices: Vec<&EndpointSlice> = slices.iter().map(Arc::as_ref).collect();
        let model = build(&service, &slices, &self.node);
        (key, model)
    }
}

fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    !labels.is_some_and(|labels| labels.contains_key(SERVICE_NAME) || labels.contains_key(HEADLESS))
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SLICE_SERVICE)?;
    Some(ObjectKey::namespaced(slice.metadata.namespace.as_deref()?, name))
}
