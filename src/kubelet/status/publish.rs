//! The one task that writes pod statuses to the API: the newest of each pod, several pods at a time, never twice the same.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use client::{ObjectKey, Store};
use futures_util::{StreamExt, stream::FuturesUnordered};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::patch::patch;
use crate::{
    pods::{self, PodName, PodUid},
    sources::merge::mirrors_content,
    worker::StatusSink,
};

/// Requests under way at once.
const PARALLEL: usize = 16;
const RETRY: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Entry {
    pod: Arc<Pod>,
    status: PodStatus,
    /// The API object goes once its last status is there.
    delete: bool,
    /// What this task last wrote: newer than what the cache may show.
    written: Option<Written>,
}

#[derive(Clone)]
struct Written {
    status: PodStatus,
    resource_version: String,
}

#[derive(Default)]
struct State {
    entries: HashMap<PodUid, Entry>,
    dirty: HashSet<PodUid>,
}

/// Where workers leave statuses. Cheap to clone.
#[derive(Clone, Default)]
pub struct Outbox {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Outbox")
    }
}

impl Outbox {
    /// The newest status of a pod, as the kubelet's own API shows it.
    pub fn latest(&self, uid: &PodUid) -> Option<PodStatus> {
        self.state.lock().entries.get(uid).map(|entry| entry.status.clone())
    }

    /// Pods whose mirror has appeared or changed are tried again.
    pub fn retry_static(&self) {
        let mut state = self.state.lock();
        let uids: Vec<PodUid> = state
            .entries
            .iter()
            .filter(|(_, entry)| pods::is_static(&entry.pod))
            .map(|(uid, _)| uid.clone())
            .collect();
        state.dirty.extend(uids);
        self.changed.notify_one();
    }

    /// The API shows something new of this pod: does it still show our status?
    pub fn compare(&self, uid: &PodUid) {
        if self.state.lock().entries.contains_key(uid) {
            self.mark(uid.clone());
        }
    }

    fn mark(&self, uid: PodUid) {
        self.state.lock().dirty.insert(uid);
        self.changed.notify_one();
    }
}

impl StatusSink for Outbox {
    fn publish(&self, pod: &Arc<Pod>, status: &PodStatus) {
        let uid = PodUid::of(pod);
        let mut state = self.state.lock();
        match state.entries.get_mut(&uid) {
            Some(entry) => {
                entry.pod = pod.clone();
                if entry.status == *status {
                    return;
                }
                entry.status = status.clone();
            }
            None => {
                let entry = Entry { pod: pod.clone(), status: status.clone(), delete: false, written: None };
                state.entries.insert(uid.clone(), entry);
            }
        }
        drop(state);
        self.mark(uid);
    }

    fn delete(&self, pod: &Arc<Pod>) {
        let uid = PodUid::of(pod);
        let mut state = self.state.lock();
        let status = pod.status.clone().unwrap_or_default();
        let entry = state.entries.entry(uid.clone()).or_insert_with(|| Entry {
            pod: pod.clone(),
            status,
            delete: false,
            written: None,
        });
        if std::mem::replace(&mut entry.delete, true) {
            return;
        }
        drop(state);
        self.mark(uid);
    }

    fn forget(&self, uid: &PodUid) {
        let mut state = self.state.lock();
        state.entries.remove(uid);
        state.dirty.remove(uid);
    }
}

/// Runs until dropped.
pub async fn publish(client: Client, outbox: Outbox, api: Store<Pod>) {
    let mut flights = FuturesUnordered::new();
    let mut flying: HashSet<PodUid> = HashSet::new();
    loop {
        if flights.len() < PARALLEL {
            let mut state = outbox.state.lock();
            let ready: Vec<PodUid> = state
                .dirty
                .iter()
                .filter(|uid| !flying.contains(*uid))
                .take(PARALLEL - flights.len())
                .cloned()
                .collect();
            for uid in ready {
                state.dirty.remove(&uid);
                let Some(entry) = state.entries.get(&uid).cloned() else { continue };
                flying.insert(uid.clone());
                let (client, api) = (client.clone(), api.clone());
                flights.push(async move {
                    let sent = send(&client, &api, &entry).await;
                    if matches!(sent, Sent::Failed) {
                        tokio::time::sleep(RETRY).await;
                    }
                    (uid, sent)
                });
            }
        }
        tokio::select! {
            Some((uid, sent)) = flights.next() => {
                flying.remove(&uid);
                match sent {
                    Sent::Written(written) => {
                        if let Some(entry) = outbox.state.lock().entries.get_mut(&uid) {
                            entry.written = Some(*written);
                        }
                    }
                    Sent::Nothing => {}
                    Sent::Failed => {
                        outbox.state.lock().dirty.insert(uid);
                    }
                }
            }
            () = outbox.changed.notified() => {}
        }
    }
}

enum Sent {
    Written(Box<Written>),
    Nothing,
    Failed,
}

/// The pod in the API that shows `pod`: itself, or its mirror.
fn target(api: &Store<Pod>, pod: &Pod) -> Option<Arc<Pod>> {
    let name = PodName::of(pod);
    let shown = api.get(&ObjectKey::namespaced(&name.namespace, &name.name))?;
    let right = if pods::is_static(pod) {
        mirrors_content(&shown, pod)
    } else {
        PodUid::of(&shown) == PodUid::of(pod)
    };
    right.then_some(shown)
}

async fn send(client: &Client, api: &Store<Pod>, entry: &Entry) -> Sent {
    let Some(target) = target(api, &entry.pod) else { return Sent::Nothing };
    let uid = PodUid::of(&target);
    let name = PodName::of(&target);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    let empty = PodStatus::default();
    // Our own last write counts until the cache shows it; then whatever others made of it is put right.
    let unseen = entry.written.as_ref().filter(|written| !api.has_seen(&written.resource_version));
    let shown = unseen.map(|written| &written.status).or(target.status.as_ref()).unwrap_or(&empty);
    let mut sent = Sent::Nothing;
    if let Some(patch) = patch(uid.as_str(), shown, &entry.status) {
        debug!(pod = %name, %patch, "publishing status");
        match pods.patch_status(&name.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(written) => {
                let resource_version = written.metadata.resource_version.unwrap_or_default();
                sent = Sent::Written(Box::new(Written { status: entry.status.clone(), resource_version }));
            }
            // Another pod has the name, or none: this one's status interests nobody.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                debug!(pod = %name, reason = status.reason, "status not taken");
            }
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "cannot publish a status");
                return Sent::Failed;
            }
        }
    }
    if entry.delete && !pods::is_static(&entry.pod) {
        let preconditions = Preconditions { uid: Some(uid.as_str().into()), resource_version: None };
        let params =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        match pods.delete(&name.name, &params).await {
            Ok(_) => info!(pod = %name, uid = %uid, "pod deleted"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "cannot delete a pod");
                return Sent::Failed;
            }
        }
    }
    sent
}
