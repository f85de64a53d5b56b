//! The loop over nodes, and what feeds the evictions.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::{conditions, references::object_reference};
use client::{
    Cache, Client, ErrorKind, EventType, Index, ObjectKey, Recorder, Selector, Store, WorkQueue, kind_of,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Node, NodeCondition, ObjectReference, Pod, Taint},
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use lifecycle::Scope;
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use super::{
    eviction::Evictions,
    health::Health,
    plan::{Observed, Plan, plan},
};
use crate::{
    ClientFor, Config,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

const LEASES: &str = "kube-node-lease";
/// Between two nodes that are tainted for eviction (`--node-eviction-rate` 0.1).
const TURN: Duration = Duration::from_secs(10);
const EVICTION_WORKERS: usize = 8;

struct Nodes {
    client: Client,
    recorder: Recorder,
    grace: Duration,
    nodes: Store<Node>,
    leases: Store<Lease>,
    pods: Store<Pod>,
    pods_on: Index<String, Pod>,
    health: Mutex<HashMap<ObjectKey, Health>>,
    next_turn: Mutex<Option<Instant>>,
}

pub(crate) fn start(config: &Config, clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::NODE);
    let recorder = Recorder::new(client.clone(), names::NODE, None, scope);
    let nodes = cache.store::<Node>();
    let pods = cache.store::<Pod>();
    let leases = cache.store_with::<Lease>(Selector::default().in_namespace(LEASES));
    let pods_on = pods.index(|_, pod: &Pod| node_of(pod).into_iter().collect());

    let queue = WorkQueue::default();
    work::feed(scope, &queue, nodes.changes(), itself);
    work::feed(scope, &queue, leases.changes(), |key| vec![ObjectKey::cluster(&key.name)]);
    let reconciler = Arc::new(Nodes {
        client: client.clone(),
        recorder: recorder.clone(),
        grace: config.node_monitor_grace,
        nodes: nodes.clone(),
        leases,
        pods: pods.clone(),
        pods_on: pods_on.clone(),
        health: Mutex::default(),
        next_turn: Mutex::default(),
    });
    work::start(scope, &reconciler, &queue, 2, &recorder);

    let queue = WorkQueue::default();
    work::feed(scope, &queue, pods.changes(), itself);
    // Only a change of the taints concerns the pods.
    let tainted = nodes.changes_by(|key, node: &Node| vec![(key.clone(), evicting(node))]);
    work::feed(scope, &queue, tainted, move |(node, _)| {
        pods_on.get(&*node.name).iter().map(|pod| ObjectKey::of(&pod.metadata)).collect()
    });
    let evictions = Arc::new(Evictions { client, recorder: recorder.clone(), pods, nodes });
    work::start(scope, &evictions, &queue, EVICTION_WORKERS, &recorder);
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty())
}

fn evicting(node: &Node) -> Vec<(String, Option<String>)> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let evicting = taints.filter(|taint| api::taints::evicts(taint));
    evicting.map(|taint| (taint.key.clone(), taint.value.clone())).collect()
}

fn conditions_of(node: &Node) -> Option<&[NodeCondition]> {
    node.status.as_ref().and_then(|status| status.conditions.as_deref())
}

impl Reconciler for Nodes {
    type Key = ObjectKey;
    const NAME: &'static str = "node-lifecycle-controller";

    async fn ready(&self) {
        self.nodes.wait_synced().await;
        self.leases.wait_synced().await;
        self.pods.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.nodes.get(key).map(|node| about(&node))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(node) = self.nodes.get(key) else {
            self.health.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
            return Ok(Next::OnChange);
        };
        let silent_for = self.listen(key, &node);
        let observed = Observed {
            node: &node,
            silent: silent_for >= self.grace,
            all_down: self.all_down(key, silent_for >= self.grace),
            may_evict: self.turn_is_free(),
        };
        let plan = plan(&observed, Timestamp::now());
        self.apply(&node, &plan).await?;
        if plan.takes_turn {
            *self.next_turn.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + TURN);
        }
        if plan.pods_not_ready {
            self.mark_pods(key).await?;
        }
        let until_silent = self.grace.saturating_sub(silent_for);
        Ok(Next::After(match (plan.wants_turn, until_silent.is_zero()) {
            (true, _) => TURN,
            // Silent already: only a sign of life, or another node's fate, changes anything.
            (false, true) => self.grace,
            (false, false) => until_silent + Duration::from_millis(10),
        }))
    }
}

impl Nodes {
    /// How long the node has been silent.
    fn listen(&self, key: &ObjectKey, node: &Node) -> Duration {
        let now = Instant::now();
        let lease = self.leases.get(&ObjectKey::namespaced(LEASES, &key.name));
        let mut all = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let health = Health::observe(all.get(key), node, lease.as_deref(), now);
        let silent_for = health.silent_for(now);
        all.insert(key.clone(), health);
        silent_for
    }

    fn all_down(&self, this: &ObjectKey, silent: bool) -> bool {
        let up = |node: &Arc<Node>| {
            let is_this = ObjectKey::of(&node.metadata) == *this;
            conditions::is_true(conditions_of(node), "Ready") && !(is_this && silent)
        };
        !self.nodes.list().iter().any(up)
    }

    fn turn_is_free(&self) -> bool {
        let next = *self.next_turn.lock().unwrap_or_else(PoisonError::into_inner);
        next.is_none_or(|next| next <= Instant::now())
    }

    async fn apply(&self, node: &Node, plan: &Plan) -> Result<(), PassError> {
        if !plan.conditions.is_empty() {
            self.write_conditions(node, &plan.conditions).await?;
            let note = format!("Node {} status is now: NodeNotReady", name(node));
            self.recorder.event(&about(node), EventType::Normal, "NodeNotReady", "", note);
        }
        match &plan.taints {
            Some(taints) => self.write_taints(node, taints).await,
            None => Ok(()),
        }
    }

    async fn write_conditions(&self, node: &Node, conditions: &[NodeCondition]) -> Result<(), PassError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let patch = json!({"status": {"conditions": conditions}});
        warn!(node = name(node), "node is silent");
        gone_is_fine(api.patch_status(name(node), &PatchParams::default(), &Patch::Strategic(patch)).await)
            .during("write status of node", name(node))
    }

    async fn write_taints(&self, node: &Node, taints: &[Taint]) -> Result<(), PassError> {
        let api: Api<Node> = Api::all(self.client.clone());
        // The list is replaced as a whole: nobody else's change in between may be lost. After our own write
        // of the status the version differs; only the list that we decided by must be the same.
        let current = api.get(name(node)).await.during("read node", name(node))?;
        let list = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if list(&current) != list(node) || current.metadata.uid != node.metadata.uid {
            return Err(PassError::Replaced { what: format!("taints of node {}", name(node)) });
        }
        let patch = json!({
            "metadata": {"resourceVersion": current.metadata.resource_version},
            "spec": {"taints": taints},
        });
        gone_is_fine(api.patch(name(node), &PatchParams::default(), &Patch::Merge(patch)).await)
            .during("write taints of node", name(node))
    }

    /// Pods of a node that is not ready are not ready, so that Services send them nothing.
    async fn mark_pods(&self, key: &ObjectKey) -> Result<(), PassError> {
        for pod in self.pods_on.get(&*key.name) {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
            if !conditions::is_true(conditions, "Ready") {
                continue;
            }
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let patch = json!({"status": {"conditions": [{
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": api::time::seconds(Timestamp::now()),
            }]}});
            gone_is_fine(api.patch_status(pod_name, &PatchParams::default(), &Patch::Strategic(patch)).await)
                .during("mark not ready", pod_name)?;
            let about = object_reference::<Pod>(&pod.metadata);
            self.recorder.event(&about, EventType::Warning, "NodeNotReady", "", "Node is not ready");
        }
        Ok(())
    }
}

fn gone_is_fine<K>(written: Result<K, kube::Error>) -> Result<(), kube::Error> {
    match written {
        Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
        written => written.map(drop),
    }
}

/// Events about a node name it by its name, as upstream's, so that `kubectl describe node` finds them.
fn about(node: &Node) -> ObjectReference {
    object_reference::<Node>(&node.metadata)
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}
