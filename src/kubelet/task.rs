//! The loop that hands pods to their workers: wakes, merges the sources, and waits for nothing that may hang.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use client::{Changes, ObjectKey};
use k8s_openapi::api::core::v1::Pod;
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::info;

use crate::{
    agent::Cluster,
    pods::{self, PodUid},
    runtime::{PodSummary, Runtime},
    sources::merge,
    status::Outbox,
    worker::{Bells, Desired, NodeFacts, Pool, ports::PodResources},
};

/// Hands the pods of this node to their workers, and ends what nobody wants.
pub(super) struct Agent<R: Runtime, P: PodResources> {
    pub(super) node_name: String,
    pub(super) cluster: Option<Cluster>,
    pub(super) pool: Pool<R, P>,
    pub(super) resources: Arc<P>,
    pub(super) outbox: Outbox,
    pub(super) bells: Bells,
    /// What a task of its own makes of the API's mirrors.
    pub(super) mirrors: watch::Sender<merge::MirrorPlan>,
    pub(super) scope: Scope,
    pub(super) ending: Arc<Ending>,
}

/// Pods that nobody wanted, whose remains are being removed. One of them that is wanted again waits for that.
#[derive(Default)]
pub(super) struct Ending {
    pods: Mutex<BTreeSet<PodUid>>,
    ended: Notify,
}

/// The loop turns at least this often, so that one that hangs is told from one that has nothing to do.
const TURN: Duration = Duration::from_secs(60);

type Files = watch::Receiver<Option<Vec<Arc<Pod>>>>;
type Noticed = watch::Receiver<Option<Arc<Vec<PodSummary>>>>;

type Keys = HashSet<ObjectKey>;

async fn next(changes: Option<&mut Changes>) -> Keys {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

impl<R: Runtime, P: PodResources> Agent<R, P> {
    /// Runs until dropped.
    pub(super) async fn run(
        &self,
        mut files: Files,
        mut noticed: Noticed,
        mut facts: watch::Receiver<NodeFacts>,
        mut going: watch::Receiver<bool>,
    ) {
        let mut changes = self.cluster.as_ref().map(|cluster| cluster.pods.changes());
        let mut node_changes = self.cluster.as_ref().map(|cluster| cluster.node.changes());
        loop {
            self.bells.turned();
            let (desired, mirrors) = merge::merge(&self.sources(&files));
            let look_again = self.desire(desired);
            self.mirrors.send_if_modified(|plan| std::mem::replace(plan, mirrors) != *plan);
            let changed = next(changes.as_mut());
            let node_changed = next(node_changes.as_mut());
            let due = async {
                match look_again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let synced = async {
                match &self.cluster {
                    Some(cluster) if !cluster.pods.synced() => cluster.pods.wait_synced().await,
                    _ => std::future::pending().await,
                }
            };
            let mut list = false;
            let mut network = false;
            tokio::select! {
                keys = changed => self.compare(&keys),
                // New pods may fit it now.
                _ = node_changed => {}
                () = due => {}
                // Nothing to do, but to be seen.
                () = tokio::time::sleep(TURN) => {}
                () = synced => list = true,
                Ok(()) = files.changed() => {}
                Ok(()) = noticed.changed() => list = true,
                Ok(()) = facts.changed() => network = true,
                // Pods that waited may come now.
                Ok(()) = going.changed() => {}
                () = self.pool.ended() => {}
                () = self.ending.ended.notified() => {}
            }
            if network {
                facts.borrow_and_update();
                self.bells.retry_all();
            }
            if list {
                self.sweep(&files, &mut noticed).await;
            }
        }
    }

    fn sources(&self, files: &Files) -> merge::Sources {
        let api = match &self.cluster {
            None => Some(Vec::new()),
            Some(cluster) => cluster.pods.synced().then(|| cluster.pods.list()),
        };
        merge::Sources { api, files: files.borrow().clone() }
    }

    fn desired(&self, files: &Files) -> Desired {
        merge::merge(&self.sources(files)).0
    }

    fn desire(&self, mut desired: Desired) -> Option<Instant> {
        let ending = self.ending.pods.lock();
        desired.pods.retain(|uid, _| !ending.contains(uid));
        let node = self.cluster.as_ref().and_then(|cluster| cluster.node(&self.node_name));
        self.pool.desire(&desired, node.as_deref())
    }

    /// The API shows something new of these pods: is it what we said?
    fn compare(&self, keys: &Keys) {
        let Some(cluster) = &self.cluster else { return };
        for key in keys {
            match cluster.pods.get(key) {
                Some(pod) if pods::is_mirror(&pod) => self.outbox.retry_static(),
                Some(pod) => self.outbox.compare(&PodUid::of(&pod)),
                None => {}
            }
        }
    }

    /// Ends what the runtime or the disk has of pods that nobody wants.
    async fn sweep(&self, files: &Files, noticed: &mut Noticed) {
        // Not listed yet is not empty: what is not known to run may run.
        let Some(listed) = noticed.borrow_and_update().clone() else { return };
        // Newer than the list: a pod that came in between is known.
        let desired = self.desired(files);
        let ending = self.ending.pods.lock().clone();
        self.pool.adopt_orphans(&desired, listed.iter().filter(|pod| !ending.contains(&pod.uid)));
        if !desired.synced {
            return;
        }
        for uid in self.resources.leftovers().await {
            if !desired.pods.contains_key(&uid)
                && !self.pool.has(&uid)
                && !listed.iter().any(|pod| pod.uid == uid)
            {
                self.end(uid);
            }
        }
    }

    /// In a task of its own: a file system that hangs keeps nobody else.
    fn end(&self, uid: PodUid) {
        if !self.ending.pods.lock().insert(uid.clone()) {
            return;
        }
        info!(%uid, "removing what is left of a pod");
        let (resources, ending, token) = (self.resources.clone(), self.ending.clone(), self.scope.token());
        let task = async move {
            let work = lifecycle::catch_panic(resources.teardown(&uid));
            tokio::select! {
                () = token.cancelled() => {}
                outcome = work => if let Ok(Err(error)) = outcome {
                    tracing::warn!(%uid, error = &error as &dyn std::error::Error, "cannot remove what is left of a pod");
                }
            }
            ending.pods.lock().remove(&uid);
            ending.ended.notify_one();
        };
        drop(self.scope.spawn_guarded("leftovers", task));
    }
}
