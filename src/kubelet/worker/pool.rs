//! The workers of this node: one for each pod that should run here, that ends here, or that nobody wants any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use lifecycle::{Backoff, Scope};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::{error, info};

use super::{
    admit::{self, Refusal},
    bells::Bells,
    ports::PodResources,
    task::{Begin, Mail, Post, Worker},
    tools::Tools,
};
use crate::{
    events::{self, EventType},
    pods::{self, PodName, PodUid},
    runtime::{PodSummary, Runtime},
    shutdown::{self, Alive},
    status::Waiting,
};

/// How long the node's labels may be on their way.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const AFTER_PANIC: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(300));
/// The panics of a worker that ran this long are counted afresh.
const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// What the sources want on this node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    pub pods: BTreeMap<PodUid, Arc<Pod>>,
    /// Every source has told all it has: what is not here is not wanted.
    pub synced: bool,
}

/// A handle to the workers. Clones share them.
pub struct Pool<R: Runtime, P: PodResources> {
    tools: Arc<Tools<R, P>>,
    scope: Scope,
    bells: Bells,
    handles: Arc<Mutex<BTreeMap<PodUid, Handle>>>,
    /// A worker has ended: those that waited for it may start.
    ended: Arc<Notify>,
    /// A pod holds nothing of the node any more.
    progress: watch::Sender<()>,
    /// Pods that do not fit the node's labels, and until when that is not believed.
    doubts: Arc<Mutex<BTreeMap<PodUid, Instant>>>,
}

enum Verdict {
    Fits,
    Refused(Refusal),
    NotYet,
}

struct Handle {
    name: PodName,
    is_static: bool,
    mail: watch::Sender<Mail>,
    /// It holds nothing of the node any more, or never did.
    done: Arc<AtomicBool>,
}

impl<R: Runtime, P: PodResources> std::fmt::Debug for Pool<R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("workers", &self.handles.lock().len()).finish_non_exhaustive()
    }
}

impl<R: Runtime, P: PodResources> Clone for Pool<R, P> {
    fn clone(&self) -> Pool<R, P> {
        Pool {
            tools: self.tools.clone(),
            scope: self.scope.clone(),
            bells: self.bells.clone(),
            handles: self.handles.clone(),
            ended: self.ended.clone(),
            progress: self.progress.clone(),
            doubts: self.doubts.clone(),
        }
    }
}

impl<R: Runtime, P: PodResources> Pool<R, P> {
    pub fn new(tools: Arc<Tools<R, P>>, bells: Bells, scope: &Scope) -> Pool<R, P> {
        Pool {
            tools,
            bells,
            scope: scope.child("pods"),
            handles: Arc::default(),
            ended: Arc::default(),
            progress: watch::Sender::new(()),
            doubts: Arc::default(),
        }
    }

    /// Resolves when a worker has ended since the last call; call [`Pool::desire`] again then.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    pub fn has(&self, uid: &PodUid) -> bool {
        self.handles.lock().contains_key(uid)
    }

    /// Changes when a pod has ended, after its last status was told.
    pub(crate) fn progress(&self) -> watch::Receiver<()> {
        self.progress.subscribe()
    }

    /// The pods that have not ended.
    pub(crate) fn alive(&self) -> Vec<Alive> {
        let handles = self.handles.lock();
        let alive = handles.iter().filter(|(_, handle)| !handle.done.load(Ordering::Relaxed));
        alive
            .map(|(uid, handle)| {
                let mail = handle.mail.borrow();
                Alive {
                    uid: uid.clone(),
                    priority: mail.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
                    grace_seconds: pods::grace_seconds(&mail.pod),
                    asked: mail.shutdown.is_some(),
                }
            })
            .collect()
    }

    pub(crate) fn is_alive(&self, uid: &PodUid) -> bool {
        self.handles.lock().get(uid).is_some_and(|handle| !handle.done.load(Ordering::Relaxed))
    }

    /// Ends a pod because the machine goes down; there is no way back.
    pub(crate) fn end(&self, uid: &PodUid, grace_seconds: i64) {
        if let Some(handle) = self.handles.lock().get(uid) {
            handle.mail.send_modify(|mail| mail.shutdown = Some(grace_seconds));
        }
    }

    pub fn len(&self) -> usize {
        self.handles.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Brings the workers in line with what is wanted. Idempotent. Pods that are new here are asked whether they fit
    /// `node`, the eldest first; while that is not known, they wait. Returns when to call again at the latest.
    pub fn desire(&self, desired: &Desired, node: Option<&Node>) -> Option<Instant> {
        let mut handles = self.handles.lock();
        let mut new = Vec::new();
        for (uid, pod) in &desired.pods {
            match handles.get(uid) {
                Some(handle) => tell(handle, pod),
                None if pods::is_static(pod) && has_namesake(&handles, pod) => {}
                None => new.push((uid, pod)),
            }
        }
        // Those that are here already before those that want to come.
        new.sort_by_key(|(_, pod)| {
            (admit::is_new(pod), pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
        });
        for (uid, pod) in new {
            let begin = match self.admit(pod, &handles, node) {
                Verdict::Fits => Begin::Runs,
                Verdict::Refused(refusal) => Begin::Refused(self.tell_refusal(pod, refusal)),
                Verdict::NotYet => continue,
            };
            let handle = self.start(pod, begin);
            handles.insert(uid.clone(), handle);
        }
        if desired.synced {
            for (uid, handle) in handles.iter() {
                if !desired.pods.contains_key(uid) {
                    handle.mail.send_if_modified(|mail| !std::mem::replace(&mut mail.removed, true));
                }
            }
        }
        let mut doubts = self.doubts.lock();
        doubts.retain(|uid, _| desired.pods.contains_key(uid) && !handles.contains_key(uid));
        doubts.values().min().copied()
    }

    fn admit(&self, pod: &Pod, handles: &BTreeMap<PodUid, Handle>, node: Option<&Node>) -> Verdict {
        if self.tools.going.is_down() && pods::is_static(pod) {
            // It waits: the machine may stay after all.
            return Verdict::NotYet;
        }
        if !admit::is_new(pod) {
            return Verdict::Fits;
        }
        if self.tools.going.is_down() {
            let (reason, message) = (shutdown::NODE_SHUTDOWN.into(), shutdown::NOT_ADMITTED_MESSAGE.into());
            return Verdict::Refused(Refusal { reason, message });
        }
        let known = |node: &&Node| node.status.as_ref().is_some_and(|status| status.allocatable.is_some());
        let Some(node) = node.filter(known) else { return Verdict::NotYet };
        let holds = |handle: &&Handle| !handle.done.load(Ordering::Relaxed);
        let others: Vec<Arc<Pod>> =
            handles.values().filter(holds).map(|handle| handle.mail.borrow().pod.clone()).collect();
        let others: Vec<&Pod> =
            others.iter().map(|pod| &**pod).filter(|pod| !api::pods::is_terminal(pod)).collect();
        let Err(refusal) = admit::admit(pod, &others, node) else { return Verdict::Fits };
        if refusal.reason == admit::NODE_AFFINITY {
            // Bound by a label that the watch of the node has not told yet? Upstream asks the API then.
            let now = Instant::now();
            let uid = PodUid::of(pod);
            if *self.doubts.lock().entry(uid).or_insert(now + SECOND_LOOK) > now {
                return Verdict::NotYet;
            }
        }
        Verdict::Refused(refusal)
    }

    fn tell_refusal(&self, pod: &Pod, refusal: Refusal) -> Waiting {
        let Refusal { reason, message } = refusal;
        info!(pod = %PodName::of(pod), uid = %PodUid::of(pod), reason, message, "pod refused");
        self.tools.events.event(
            &events::of_pod(pod),
            EventType::Warning,
            events::of_refusal(&reason),
            message.clone(),
        );
        Waiting { reason, message: format!("Pod was rejected: {message}") }
    }

    /// Ends what the runtime has and nobody wants. `desired` must be synced, and newer than `listed`.
    pub fn adopt_orphans<'a>(&self, desired: &Desired, listed: impl Iterator<Item = &'a PodSummary>) {
        if !desired.synced {
            return;
        }
        let mut handles = self.handles.lock();
        for summary in listed {
            let known: BTreeSet<&PodUid> = desired.pods.keys().chain(handles.keys()).collect();
            if known.contains(&summary.uid) {
                continue;
            }
            info!(pod = %summary.name, uid = %summary.uid, "ending a pod that nobody wants");
            let mut pod = Pod::default();
            pod.metadata.uid = Some(summary.uid.as_str().into());
            pod.metadata.name = Some(summary.name.name.clone());
            pod.metadata.namespace = Some(summary.name.namespace.clone());
            let handle = self.start(&Arc::new(pod), Begin::Orphan);
            handles.insert(summary.uid.clone(), handle);
        }
    }

    fn start(&self, pod: &Arc<Pod>, begin: Begin) -> Handle {
        let uid = PodUid::of(pod);
        let (mail, inbox) =
            watch::channel(Mail { pod: pod.clone(), removed: begin == Begin::Orphan, shutdown: None });
        let done = Arc::new(AtomicBool::new(begin != Begin::Runs));
        let bell = self.bells.hang(&uid);
        let (tools, scope) = (self.tools.clone(), self.scope.clone());
        let (handles, bells, ended) = (self.handles.clone(), self.bells.clone(), self.ended.clone());
        let progress = self.progress.clone();
        let post = Post { inbox: inbox.clone(), bell, done: done.clone(), progress: progress.clone() };
        let task = async move {
            let begin = || Worker::new(tools.clone(), post.clone(), scope.clone(), begin.clone());
            run(begin, &tools, &inbox, &scope).await;
            {
                // Together: a successor that is started in between would lose its bell.
                let mut handles = handles.lock();
                bells.remove(&uid);
                handles.remove(&uid);
            }
            ended.notify_one();
            progress.send_replace(());
        };
        drop(self.scope.spawn_guarded("pod worker", task));
        Handle { name: PodName::of(pod), is_static: pods::is_static(pod), mail, done }
    }
}

/// One worker after the other, until one ends: after a panic, its pod is looked at again by a new one, later each time.
async fn run<R: Runtime, P: PodResources>(
    begin: impl Fn() -> Worker<R, P>,
    tools: &Tools<R, P>,
    inbox: &watch::Receiver<Mail>,
    scope: &Scope,
) {
    let mut panics = 0;
    loop {
        let began = Instant::now();
        let Err(panicked) = lifecycle::catch_panic(begin().run()).await else { return };
        panics = if began.elapsed() >= HEALTHY_AFTER { 1 } else { panics + 1 };
        let wait = AFTER_PANIC.delay(panics);
        let pod = inbox.borrow().pod.clone();
        let (name, wait_ms) = (PodName::of(&pod), wait.as_millis());
        error!(pod = %name, uid = %PodUid::of(&pod), panics, wait_ms, error = %panicked, "a pod worker panicked");
        // Not the words of the panic: they may hold what the pod keeps secret.
        let message =
            format!("error syncing pod, skipping: the pod worker panicked; tried again in {wait:?}");
        tools.events.event(&events::of_pod(&pod), EventType::Warning, events::FAILED_SYNC, message);
        tokio::select! {
            () = scope.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Only what a worker looks at wakes it: not every touch of the object.
fn tell(handle: &Handle, pod: &Arc<Pod>) {
    handle.mail.send_if_modified(|mail| {
        let (old, new) = (&mail.pod, pod);
        let same = !mail.removed
            && old.spec == new.spec
            && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
            && old.metadata.deletion_grace_period_seconds == new.metadata.deletion_grace_period_seconds
            && old.metadata.labels == new.metadata.labels
            && old.metadata.annotations == new.metadata.annotations
            && foreign_conditions(old) == foreign_conditions(new);
        mail.pod = new.clone();
        mail.removed = false;
        !same
    });
}

/// Readiness gates are conditions that others write.
fn foreign_conditions(pod: &Pod) -> Vec<(&str, &str)> {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    gates
        .filter_map(|gate| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let found = conditions.iter().find(|condition| condition.type_ == gate.condition_type)?;
            Some((found.type_.as_str(), found.status.as_str()))
        })
        .collect()
}

/// A static pod's successor waits until nothing is left of the pod before it.
fn has_namesake(handles: &BTreeMap<PodUid, Handle>, pod: &Pod) -> bool {
    let name = PodName::of(pod);
    handles.values().any(|handle| handle.is_static && handle.name == name)
}
