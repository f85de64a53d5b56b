//! The loop over nodes, for their address ranges. One worker: it is the one writer of what is free.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use api::references::object_reference;
use client::{Cache, Client, EventType, ObjectKey, Recorder, Store, WorkQueue};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use lifecycle::Scope;
use serde_json::json;

use super::plan::{Cidr, Pool};
use crate::{
    ClientFor, Config, StartError,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

struct Ranges {
    client: Client,
    recorder: Recorder,
    nodes: Store<Node>,
    pools: Vec<Pool>,
    /// What we gave and the cache may not show yet.
    given: Mutex<HashMap<ObjectKey, Vec<Cidr>>>,
}

pub(crate) fn start(
    config: &Config,
    clients: &dyn ClientFor,
    cache: &Cache,
    scope: &Scope,
) -> Result<(), StartError> {
    let mut pools = Vec::new();
    for cidr in &config.cluster_cidrs {
        let pool = Cidr::parse(cidr).and_then(|cluster| {
            let v6 = cluster.is_v6();
            Pool::new(cluster, if v6 { config.node_cidr_mask_ipv6 } else { config.node_cidr_mask_ipv4 })
        });
        pools.push(pool.map_err(|source| StartError::ClusterCidr { cidr: cidr.clone(), source })?);
    }
    if pools.is_empty() {
        return Ok(());
    }
    let client = clients.client(names::NODE);
    let recorder = Recorder::new(client.clone(), "cidrAllocator", None, scope);
    let nodes = cache.store::<Node>();
    let queue = WorkQueue::default();
    work::feed(scope, &queue, nodes.changes(), itself);
    let ranges = Ranges { client, recorder: recorder.clone(), nodes, pools, given: Mutex::default() };
    work::start(scope, &Arc::new(ranges), &queue, 1, &recorder);
    Ok(())
}

impl Reconciler for Ranges {
    type Key = ObjectKey;
    const NAME: &'static str = "node-ipam-controller";

    async fn ready(&self) {
        self.nodes.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.nodes.get(key).map(|node| object_reference::<Node>(&node.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let node = self.nodes.get(key);
        let held = node.as_deref().map(ranges).unwrap_or_default();
        let Some(node) = node.filter(|_| held.is_empty()) else {
            self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Next::OnChange);
        };
        let Some(chosen) = self.choose(key) else {
            let about = object_reference::<Node>(&node.metadata);
            let note = format!("Node {key} status is now: CIDRNotAvailable");
            self.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", "", note);
            return Err(PassError::NoRange { what: format!("node {key}") });
        };
        let texts: Vec<String> = chosen.iter().map(ToString::to_string).collect();
        let patch = json!({
            "metadata": {"uid": node.metadata.uid},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
        });
        let api: Api<Node> = Api::all(self.client.clone());
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .during("give range to", key)?;
        Ok(Next::OnChange)
    }
}

impl Ranges {
    /// One free range of each pool, the same ones again if we chose for this node before.
    fn choose(&self, key: &ObjectKey) -> Option<Vec<Cidr>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chosen) = given.get(key) {
            return Some(chosen.clone());
        }
        let mut taken: BTreeSet<Cidr> = self.nodes.list().iter().flat_map(|node| ranges(node)).collect();
        taken.extend(given.values().flatten());
        let chosen: Option<Vec<Cidr>> = self.pools.iter().map(|pool| pool.free(&taken)).collect();
        if let Some(chosen) = &chosen {
            given.insert(key.clone(), chosen.clone());
        }
        chosen
    }
}

fn ranges(node: &Node) -> Vec<Cidr> {
    let spec = node.spec.as_ref();
    let many = spec.into_iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    many.chain(one).filter_map(|text| Cidr::parse(text).ok()).collect()
}
