//! The objects of the shared read cache, found by what names ask about. Nothing is copied: names are made when asked for.

use std::{net::IpAddr, sync::Arc};

use client::{Cache, Index, ObjectKey, Store};
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};

use crate::{
    service_name,
    zone::{World, cluster_ips},
};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

#[derive(Clone)]
pub(crate) struct Objects {
    namespaces: Store<Namespace>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    services_at: Index<IpAddr, Service>,
    slices_of: Index<ObjectKey, EndpointSlice>,
    slices_at: Index<IpAddr, EndpointSlice>,
}

impl Objects {
    pub(crate) fn new(cache: &Cache) -> Self {
        let services: Store<Service> = cache.store();
        let slices: Store<EndpointSlice> = cache.store();
        Self {
            namespaces: cache.store(),
            services_at: services
                .index(|_, service: &Service| service.spec.as_ref().map(cluster_ips).unwrap_or_default()),
            slices_of: slices
                .index(|_, slice| key_of(slice).filter(|_| is_indexed(slice)).into_iter().collect()),
            slices_at: slices.index(|_, slice| if is_indexed(slice) { addresses(slice) } else { Vec::new() }),
            services,
            slices,
        }
    }

    /// Whether an absence is known to be one.
    pub(crate) fn synced(&self) -> bool {
        self.namespaces.synced() && self.services.synced() && self.slices.synced()
    }

    pub(crate) async fn wait_synced(&self) {
        self.namespaces.wait_synced().await;
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
    }
}

impl World for Objects {
    fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces.get(&ObjectKey::cluster(name)).is_some()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&ObjectKey::namespaced(namespace, name))
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let found = self.slices_of.get(&ObjectKey::namespaced(namespace, service));
        if !found.is_empty() {
            return found;
        }
        // An endpoint of a Service with a cluster IP was asked for by name, which hardly anybody does.
        let mut all = self.slices.list_in(namespace);
        all.retain(|slice| service_name(slice) == Some(service));
        all
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        self.services_at.get(&ip)
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        self.slices_at.get(&ip)
    }
}

/// Most slices are those of Services with a cluster IP, whose endpoints nobody looks up: an index of them would cost
/// more than all the others. The controller says which they are; of what others make, nothing is known.
fn is_indexed(slice: &EndpointSlice) -> bool {
    let Some(labels) = &slice.metadata.labels else { return true };
    labels.contains_key(HEADLESS) || labels.get(MANAGED_BY).is_none_or(|by| by != CONTROLLER)
}

fn key_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    Some(ObjectKey::namespaced(slice.metadata.namespace.as_deref()?, service_name(slice)?))
}

fn addresses(slice: &EndpointSlice) -> Vec<IpAddr> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.flat_map(|endpoint| endpoint.addresses.iter().filter_map(|text| text.parse().ok())).collect()
}
