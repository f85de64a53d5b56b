//! A pass over all pods, after changes, at most every 20 seconds as upstream's.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::pods::is_terminal;
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Store, WorkQueue, kind_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use lifecycle::Scope;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use super::plan::{Observed, Why, missing, plan};
use crate::{
    ClientFor, Config,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler},
};

const PERIOD: Duration = Duration::from_secs(20);
/// A node that is missing may be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);

/// The one item of work: everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct All;

impl fmt::Display for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all pods")
    }
}

struct Collector {
    client: Client,
    threshold: usize,
    pods: Store<Pod>,
    nodes: Store<Node>,
    /// Missing nodes, and since when.
    missing: Mutex<HashMap<String, Instant>>,
}

pub(crate) fn start(config: &Config, clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::POD_GC);
    let recorder = Recorder::new(client.clone(), names::POD_GC, None, scope);
    let pods = cache.store::<Pod>();
    let nodes = cache.store::<Node>();
    let queue = WorkQueue::default();
    queue.add(All);
    let collector = Collector {
        client,
        threshold: config.terminated_pod_threshold,
        pods,
        nodes,
        missing: Mutex::default(),
    };
    work::start(scope, &Arc::new(collector), &queue, 1, &recorder);
}

impl Reconciler for Collector {
    type Key = All;
    const NAME: &'static str = names::POD_GC;

    async fn ready(&self) {
        self.pods.wait_synced().await;
        self.nodes.wait_synced().await;
    }

    async fn reconcile(&self, _all: &All) -> Result<Next, PassError> {
        let (pods, nodes) = (self.pods.list(), self.nodes.list());
        let gone = self.gone(&pods, &nodes).await?;
        let observed = Observed { pods: &pods, nodes: &nodes, gone: &gone, threshold: self.threshold };
        let mut first = Ok(());
        for (pod, why) in plan(&observed) {
            first = first.and(self.remove(&pod, why).await);
        }
        first.map(|()| Next::After(PERIOD))
    }
}

impl Collector {
    /// Missing nodes whose quarantine is over and whose absence the API confirms.
    async fn gone(&self, pods: &[Arc<Pod>], nodes: &[Arc<Node>]) -> Result<HashSet<String>, PassError> {
        let missing = missing(pods, nodes);
        let now = Instant::now();
        let due: Vec<String> = {
            let mut known = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|name, _| missing.contains(name));
            for name in missing {
                known.entry(name).or_insert(now);
            }
            known
                .iter()
                .filter(|(_, since)| now - **since >= QUARANTINE)
                .map(|(name, _)| name.clone())
                .collect()
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let mut gone = HashSet::new();
        for name in due {
            if api.get_opt(&name).await.during("read node", &name)?.is_none() {
                gone.insert(name);
            }
        }
        Ok(gone)
    }

    async fn remove(&self, pod: &Pod, why: Why) -> Result<(), PassError> {
        let key = ObjectKey::of(&pod.metadata);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), key.namespace());
        if !is_terminal(pod) {
            let mut status = json!({"phase": "Failed"});
            if why == Why::Orphaned {
                status["conditions"] = json!([{
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "DeletionByPodGC",
                    "message": "PodGC: node no longer exists",
                    "lastTransitionTime": api::time::seconds(Timestamp::now()),
                }]);
            }
            let patch = Patch::Strategic(json!({"status": status}));
            match api.patch_status(&key.name, &PatchParams::default(), &patch).await {
                Err(error) if kind_of(&error) == ErrorKind::NotFound => return Ok(()),
                patched => patched.map(drop).during("mark failed", &key)?,
            }
        }
        let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams::default().grace_period(0).preconditions(only);
        match api.delete(&key.name, &params).await {
            Err(error) if !matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Conflict) => {
                Err(error).during("delete", &key)
            }
            _ => {
                info!(pod = %key, why = ?why, "pod collected");
                Ok(())
            }
        }
    }
}
