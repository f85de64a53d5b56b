//! Reads one Service with its EndpointSlices from the read cache.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use client::{Cache, Changes, Index, ObjectKey, Store};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};

use crate::model::{Place, ServiceModel, build};

const SERVICE_NAME: &str = "service.kubernetes.io/service-proxy-name";
const SLICE_SERVICE: &str = "kubernetes.io/service-name";
const ZONE: &str = "topology.kubernetes.io/zone";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The two kinds that Services are made of, found by the Service's key, and where this node is.
pub(crate) struct World {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    slices_of: Index<ObjectKey, EndpointSlice>,
    changed_services: Changes,
    changed_slices: Changes<ObjectKey>,
    nodes: Store<Node>,
    changed_node: Changes<()>,
    place: Place,
}

impl World {
    pub(crate) fn new(cache: &Cache, nodes: Store<Node>, node: String) -> Self {
        let services: Store<Service> = cache.store();
        let slices: Store<EndpointSlice> = cache.store();
        let slices_of =
            slices.index(|_, slice: &EndpointSlice| service_of(slice).into_iter().collect::<Vec<_>>());
        let changed_slices =
            slices.changes_by(|_, slice: &EndpointSlice| service_of(slice).into_iter().collect::<Vec<_>>());
        let changed_services = services.changes();
        let own = node.clone();
        let changed_node =
            nodes.changes_by(move |key, _| (*key.name == *own).then_some(()).into_iter().collect());
        let place = Place { node, ..Place::default() };
        Self { services, slices, slices_of, changed_services, changed_slices, nodes, changed_node, place }
    }

    pub(crate) async fn wait_synced(&self) {
        self.services.wait_synced().await;
        self.slices.wait_synced().await;
    }

    /// Keys of Services that may have changed, each once, however often it changed.
    pub(crate) async fn changed(&mut self) -> HashSet<ObjectKey> {
        let mut keys = loop {
            tokio::select! {
                keys = self.changed_services.next() => break keys,
                keys = self.changed_slices.next() => break keys,
                _ = self.changed_node.next() => {
                    if self.look_around() {
                        break self.services.keys().into_iter().collect();
                    }
                }
            }
        };
        // What came in meanwhile goes with it.
        keys.extend(self.changed_services.take());
        keys.extend(self.changed_slices.take());
        keys
    }

    /// Whether this node is somewhere else than it was. A Node that is not known yet is in no zone and has no address.
    fn look_around(&mut self) -> bool {
        let node = self.nodes.get(&ObjectKey::cluster(&self.place.node));
        let zone = node.as_ref().and_then(|node| node.metadata.labels.as_ref()?.get(ZONE).cloned());
        let place = Place {
            node: self.place.node.clone(),
            zone,
            addresses: node.as_deref().map(addresses_of).unwrap_or_default(),
        };
        let moved = self.place != place;
        self.place = place;
        moved
    }

    /// Every Service; what changed until now is in it.
    pub(crate) fn all(&mut self) -> Vec<(ObjectKey, ServiceModel)> {
        self.changed_services.take();
        self.changed_slices.take();
        self.look_around();
        self.services.keys().into_iter().map(|key| self.model(key)).collect()
    }

    /// A Service that is gone, or that another proxy serves, has the empty model.
    pub(crate) fn model(&self, key: ObjectKey) -> (ObjectKey, ServiceModel) {
        let Some(service) = self.services.get(&key).filter(|service| is_ours(service)) else {
            return (key, ServiceModel::default());
        };
        let slices = self.slices_of.get(&key);
        let slices: Vec<&EndpointSlice> = slices.iter().map(Arc::as_ref).collect();
        let model = build(&service, &slices, &self.place);
        (key, model)
    }
}

/// Whether packets that conntrack takes for no connection's are kept from passing: not where it is told to be liberal, since it
/// then takes those that are late for their connection's.
pub(crate) fn drops_invalid() -> bool {
    // Without conntrack there is no such setting yet, and its default is not to be.
    let liberal = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
    liberal.map_or(true, |value| value.trim() == "0")
}

fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    !labels.is_some_and(|labels| labels.contains_key(SERVICE_NAME) || labels.contains_key(HEADLESS))
}

fn addresses_of(node: &Node) -> BTreeSet<IpAddr> {
    let listed = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let ips = listed.filter(|address| ["InternalIP", "ExternalIP"].contains(&address.type_.as_str()));
    ips.filter_map(|address| address.address.parse().ok()).collect()
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SLICE_SERVICE)?;
    Some(ObjectKey::namespaced(slice.metadata.namespace.as_deref()?, name))
}
