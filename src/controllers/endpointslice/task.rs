//! The loop over Services.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    constants::label,
    references::{controller_reference, object_reference},
};
use client::{Cache, Client, Index, ObjectKey, Recorder, Store, WorkQueue};
use k8s_openapi::api::{
    core::v1::{Node, ObjectReference, Pod, Service},
    discovery::v1::EndpointSlice,
};
use lifecycle::Scope;

use super::{
    apply::apply,
    convert::{endpoint, families, is_endpoint, is_headless, ports, publishes_not_ready},
    selection::{Labelled, selector, service_of},
    slicing::{Frame, Group, plan},
};
use crate::{
    ClientFor,
    error::PassError,
    ledger::Ledger,
    names,
    work::{self, Next, Reconciler, itself},
};

const WORKERS: usize = 5;
const UNSETTLED: Duration = Duration::from_secs(2);
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

struct Slices {
    client: Client,
    ledger: Ledger<ObjectKey>,
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    slices_of: Index<ObjectKey, EndpointSlice>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::ENDPOINT_SLICE);
    let recorder = Recorder::new(client.clone(), names::ENDPOINT_SLICE, None, scope);
    let services = cache.store::<Service>();
    let pods = cache.store::<Pod>();
    let slices = cache.store::<EndpointSlice>();
    let queue = WorkQueue::default();

    work::feed(scope, &queue, services.changes(), itself);
    let all = services.clone();
    work::feed(scope, &queue, pods.changes_by(|_, pod| vec![Labelled::of(pod)]), move |pod| {
        pod.services(&all)
    });
    let mine = |_: &ObjectKey, slice: &EndpointSlice| service_of(slice, MANAGED_BY).into_iter().collect();
    work::feed(scope, &queue, slices.changes_by(mine), itself);

    let reconciler = Arc::new(Slices {
        client,
        ledger: Ledger::default(),
        slices_of: slices.index(mine),
        services,
        pods,
        nodes: cache.store::<Node>(),
        slices,
    });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl Reconciler for Slices {
    type Key = ObjectKey;
    const NAME: &'static str = names::ENDPOINT_SLICE;

    async fn ready(&self) {
        self.services.wait_synced().await;
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
        self.slices.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.services.get(key).map(|service| object_reference::<Service>(&service.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(service) = self.services.get(key) else { return Ok(Next::OnChange) };
        let Some(selector) = selector(&service) else { return Ok(Next::OnChange) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let existing = self.slices_of.get(key);
        let there = |uid: &str| {
            existing.iter().any(|slice| {
                slice.metadata.uid.as_deref() == Some(uid) && slice.metadata.deletion_timestamp.is_none()
            })
        };
        if !self.ledger.settled(key, &self.slices, there) {
            return Ok(Next::After(UNSETTLED));
        }
        let existing: Vec<_> =
            existing.into_iter().filter(|slice| slice.metadata.deletion_timestamp.is_none()).collect();
        let pods = self.pods.list_in(key.namespace());
        let selected = pods.iter().filter(|pod| selector.matches(&pod.metadata.labels));
        let (groups, complete) = self.groups(&service, selected);
        let plan = plan(&frame(&service), &existing, groups, &families(&service));
        apply(&self.client, key, plan, &self.ledger).await?;
        Ok(if complete { Next::OnChange } else { Next::After(UNSETTLED) })
    }
}

impl Slices {
    /// Endpoints by family and ports; false if some pod's node is not known (yet).
    fn groups<'a>(&self, service: &Service, pods: impl Iterator<Item = &'a Arc<Pod>>) -> (Vec<Group>, bool) {
        let mut groups: Vec<Group> = Vec::new();
        let mut complete = true;
        let mut nodes: HashMap<String, Option<Arc<Node>>> = HashMap::new();
        for pod in pods.filter(|pod| is_endpoint(pod, true)) {
            let name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            let node = nodes.entry(name).or_insert_with_key(|name| self.nodes.get(&ObjectKey::cluster(name)));
            // A pod of a node that is gone does not serve; its collector follows.
            if node.is_none() && !publishes_not_ready(service) {
                complete = false;
                continue;
            }
            let ports = ports(service, pod);
            for family in families(service) {
                let Some(endpoint) = endpoint(service, pod, node.as_deref(), family) else { continue };
                match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
                    Some(group) => group.endpoints.push(endpoint),
                    None => {
                        groups.push(Group { family, ports: ports.clone(), endpoints: vec![endpoint] });
                    }
                }
            }
        }
        (groups, complete)
    }
}

fn frame(service: &Service) -> Frame {
    let name = service.metadata.name.clone().unwrap_or_default();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(label::HEADLESS);
    if is_headless(service) {
        labels.insert(label::HEADLESS.into(), String::new());
    }
    labels.insert(label::SERVICE_NAME.into(), name.clone());
    labels.insert(label::ENDPOINT_SLICE_MANAGED_BY.into(), MANAGED_BY.into());
    Frame {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name,
        owner: controller_reference::<Service>(&service.metadata),
        labels,
        annotations: None,
    }
}
