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
use lifecycle::Backoff;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::{debug, info, warn};

use super::{patch::patch, phase::is_terminal};
use crate::{
    pods::{self, PodName, PodUid},
    sources::merge::mirrors_content,
    worker::StatusSink,
};

/// Requests under way at once.
const PARALLEL: usize = 16;
/// An API that cannot be reached is asked again soon: it comes back for all pods at once.
const UNREACHED: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(10));
/// A status that is refused will be refused again: it waits, unless it changes.
const REFUSED: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(300));

#[derive(Clone)]
struct Entry {
    pod: Arc<Pod>,
    status: PodStatus,
    /// The API object goes once its last status is there.
    delete: bool,
    /// What this task last wrote: newer than what the cache may show.
    written: Option<Written>,
    /// Counts what workers said: a wait is for what was tried, not for what came after.
    version: u64,
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
    /// Those of the dirty ones that failed.
    waits: HashMap<PodUid, Wait>,
    /// Those whose request is under way.
    flying: HashSet<PodUid>,
}

#[derive(Clone, Copy)]
struct Wait {
    failures: u32,
    until: Instant,
    version: u64,
}

impl State {
    /// Up to `most` pods that may be tried now.
    fn ready(&self, most: usize, now: Instant) -> Vec<PodUid> {
        let may = |uid: &&PodUid| {
            let version = self.entries.get(*uid).map(|entry| entry.version);
            let waits = self.waits.get(*uid);
            !self.flying.contains(*uid)
                && waits.is_none_or(|wait| wait.until <= now || Some(wait.version) != version)
        };
        self.dirty.iter().filter(may).take(most).cloned().collect()
    }

    /// When the first of those that wait may be tried again.
    fn next(&self) -> Option<Instant> {
        let waiting = self.dirty.iter().filter(|uid| !self.flying.contains(*uid));
        waiting.filter_map(|uid| self.waits.get(uid)).map(|wait| wait.until).min()
    }

    fn failed(&mut self, uid: &PodUid, version: u64, backoff: Backoff, now: Instant) {
        if !self.entries.contains_key(uid) {
            return;
        }
        let failures = match self.waits.get(uid) {
            Some(before) if before.version == version => before.failures + 1,
            // Another status: nothing is known of its fate.
            _ => 1,
        };
        self.waits.insert(uid.clone(), Wait { failures, until: now + backoff.delay(failures), version });
        self.dirty.insert(uid.clone());
    }
}

/// Where workers leave statuses. Cheap to clone.
#[derive(Clone)]
pub struct Outbox {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    /// A request has ended, or a pod is of no interest any more.
    landings: watch::Sender<()>,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox { state: Arc::default(), changed: Arc::default(), landings: watch::Sender::new(()) }
    }
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

    /// Changes when a pod may have become one of those of [`Outbox::has_written_end`].
    pub(crate) fn landings(&self) -> watch::Receiver<()> {
        self.landings.subscribe()
    }

    /// Whether the API shows the last that there is to say of a pod that has ended.
    pub(crate) fn has_written_end(&self, uid: &PodUid) -> bool {
        let state = self.state.lock();
        let Some(entry) = state.entries.get(uid) else { return true };
        let ended = match entry.pod.metadata.deletion_timestamp {
            Some(_) if !pods::is_static(&entry.pod) => entry.delete,
            _ => is_terminal(entry.status.phase.as_deref()),
        };
        ended && !state.dirty.contains(uid) && !state.flying.contains(uid)
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

    fn landed(&self, uid: &PodUid, version: u64, sent: Sent) {
        let mut state = self.state.lock();
        state.flying.remove(uid);
        let backoff = match sent {
            Sent::Failed(backoff) => backoff,
            Sent::Written(written) => {
                if let Some(entry) = state.entries.get_mut(uid) {
                    entry.written = Some(*written);
                }
                state.waits.remove(uid);
                return;
            }
            Sent::Nothing => {
                state.waits.remove(uid);
                return;
            }
        };
        state.failed(uid, version, backoff, Instant::now());
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
                entry.version += 1;
            }
            None => {
                let entry = Entry {
                    pod: pod.clone(),
                    status: status.clone(),
                    delete: false,
                    written: None,
                    version: 0,
                };
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
            version: 0,
        });
        if std::mem::replace(&mut entry.delete, true) {
            return;
        }
        entry.version += 1;
        drop(state);
        self.mark(uid);
    }

    fn forget(&self, uid: &PodUid) {
        let mut state = self.state.lock();
        state.entries.remove(uid);
        state.dirty.remove(uid);
        state.waits.remove(uid);
        drop(state);
        self.landings.send_replace(());
    }
}

/// Runs until dropped.
pub async fn publish(client: Client, outbox: Outbox, api: Store<Pod>) {
    let mut flights = FuturesUnordered::new();
    loop {
        let next = {
            let mut state = outbox.state.lock();
            for uid in state.ready(PARALLEL - flights.len(), Instant::now()) {
                state.dirty.remove(&uid);
                let Some(entry) = state.entries.get(&uid).cloned() else { continue };
                state.flying.insert(uid.clone());
                let (client, api) = (client.clone(), api.clone());
                flights.push(async move {
                    let sent = send(&client, &api, &entry).await;
                    (uid, entry.version, sent)
                });
            }
            state.next().filter(|_| flights.len() < PARALLEL)
        };
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((uid, version, sent)) = flights.next() => {
                outbox.landed(&uid, version, sent);
                outbox.landings.send_replace(());
            }
            () = outbox.changed.notified() => {}
            () = due => {}
        }
    }
}

enum Sent {
    Written(Box<Written>),
    Nothing,
    Failed(Backoff),
}

/// Is it the API's judgement of what was sent (422, 403), rather than of the moment?
fn failed(error: &kube::Error) -> Sent {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            Sent::Failed(REFUSED)
        }
        _ => Sent::Failed(UNREACHED),
    }
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
                return failed(&error);
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
                return failed(&error);
            }
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use client::Selector;
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
    use hyper::body::Frame;
    use kube::client::Body;
    use lifecycle::Scope;
    use serde_json::{Value, json};
    use tower::BoxError;

    use super::*;

    type Answer = Response<UnsyncBoxBody<bytes::Bytes, BoxError>>;

    fn answer(code: u16, body: &Value) -> Answer {
        let body = Full::new(bytes::Bytes::from(body.to_string())).map_err(BoxError::from).boxed_unsync();
        Response::builder().status(code).body(body).unwrap()
    }

    /// An API whose pods are `names`, and which refuses the statuses of those that are called bad. Tells each patch.
    fn api(names: &[String]) -> (Client, Arc<Mutex<Vec<String>>>) {
        let pods: Vec<Value> = names.iter().map(|name| json!(&*pod(name))).collect();
        let patches = Arc::new(Mutex::new(Vec::new()));
        let told = patches.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (told, path) = (told.clone(), request.uri().path().to_string());
            let name = path.trim_end_matches("/status").rsplit('/').next().unwrap().to_string();
            let answer = if request.method() == http::Method::PATCH {
                told.lock().push(name.clone());
                match name.starts_with("bad") {
                    true => answer(422, &json!({"kind": "Status", "code": 422, "reason": "Invalid"})),
                    false => answer(200, &json!(&*pod(&name))),
                }
            } else if request.uri().query().is_some_and(|query| query.contains("watch=")) {
                let silence = futures_util::stream::pending::<Result<Frame<bytes::Bytes>, BoxError>>();
                Response::new(StreamBody::new(silence).boxed_unsync())
            } else {
                answer(200, &json!({"metadata": {"resourceVersion": "1"}, "items": pods}))
            };
            std::future::ready(Ok::<_, BoxError>(answer))
        });
        (client::from_service(service), patches)
    }

    fn pod(name: &str) -> Arc<Pod> {
        let meta = json!({"name": name, "namespace": "d", "uid": name, "resourceVersion": "1"});
        Arc::new(serde_json::from_value(json!({"metadata": meta})).unwrap())
    }

    fn phase(phase: &str) -> PodStatus {
        PodStatus { phase: Some(phase.into()), ..PodStatus::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_status_waits_longer_and_longer_and_keeps_no_other_waiting() {
        let mut names: Vec<String> = (0..PARALLEL).map(|n| format!("bad{n}")).collect();
        names.push("good".into());
        let (client, patches) = api(&names);
        let scope = Scope::root("test");
        let store = client::reflect(&client, Selector::default(), &scope);
        store.wait_synced().await;
        let outbox = Outbox::default();
        for name in &names[..PARALLEL] {
            outbox.publish(&pod(name), &phase("Running"));
        }
        let publishing = publish(client, outbox.clone(), store);
        let count = |name: &str| patches.lock().iter().filter(|it| *it == name).count();
        let watching = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            outbox.publish(&pod("good"), &phase("Running"));
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(count("good"), 1, "those that wait hold no place");
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(count("bad0"), 6, "after 1, 2, 4, 8, 16 seconds");
            outbox.publish(&pod("bad0"), &phase("Failed"));
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(count("bad0"), 7, "another status is tried at once");
        };
        tokio::select! {
            () = publishing => panic!("it publishes for ever"),
            () = watching => {}
        }
        assert!(scope.close(Duration::from_secs(5)).await);
    }
}
