//! The loop: wake, observe changes, plan, apply.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use api::pods;
use client::{Cache, Changes, Client, ObjectKey, Recorder, Store};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use lifecycle::{Chain, Scope, catch_panic};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use crate::{
    apply::{ApplyError, Writer, explanation},
    cluster::{Cluster, Removed},
    config::Config,
    diagnosis::Unschedulable,
    plan::{may_fit, plan},
    pod::PodInfo,
    queue::{Meaning, Queue},
};

/// Plans between two looks at what changed, so that a long queue does not plan on old news.
const BATCH: usize = 32;
/// A sleep without an end in sight.
const IDLE: Duration = Duration::from_secs(3600);

/// Schedules until `scope` is cancelled. With leader election, while elected; a lost Lease ends the term, and we stand
/// again.
pub async fn run(
    config: Config,
    client: Client,
    cache: &Cache,
    recorder: Recorder,
    scope: Scope,
) -> Result<(), Infallible> {
    let Some(elector) = &config.leader_election else {
        lead(&config, client, cache, recorder, scope).await;
        return Ok(());
    };
    while !scope.is_cancelled() {
        let term = |scope| lead(&config, client.clone(), cache, recorder.clone(), scope);
        elector.run(client.clone(), &scope, term).await;
    }
    Ok(())
}

async fn lead(config: &Config, client: Client, cache: &Cache, recorder: Recorder, scope: Scope) {
    let (nodes, pods, namespaces) = (cache.store::<Node>(), cache.store::<Pod>(), cache.store::<Namespace>());
    let synced = async {
        nodes.wait_synced().await;
        pods.wait_synced().await;
        namespaces.wait_synced().await;
    };
    tokio::select! {
        () = scope.cancelled() => return,
        () = synced => {}
    }
    let (tell, outcomes) = mpsc::channel(config.concurrent_writes.max(1));
    let scheduler = Scheduler {
        cluster: Cluster::default(),
        queue: Queue::new(config),
        config: config.clone(),
        nodes,
        pods,
        namespaces,
        writer: Writer { client, recorder },
        scope,
        tell,
        writing: 0,
        last_writes: HashMap::new(),
    };
    scheduler.run(outcomes).await;
}

struct Scheduler {
    config: Config,
    cluster: Cluster,
    queue: Queue,
    nodes: Store<Node>,
    pods: Store<Pod>,
    namespaces: Store<Namespace>,
    writer: Writer,
    scope: Scope,
    tell: mpsc::Sender<Written>,
    /// Writes under way; each ends with one outcome.
    writing: usize,
    /// The end of the last write about each pod: writes about one pod go one after another, lest a "no" that was
    /// overtaken by a "yes" have the last word.
    last_writes: HashMap<ObjectKey, LastWrite>,
}

struct LastWrite {
    under_way: usize,
    ended: oneshot::Receiver<()>,
}

/// A write about this pod has ended.
struct Written {
    pod: Arc<PodInfo>,
    outcome: Outcome,
}

/// How a write ended.
enum Outcome {
    Bound {
        result: Result<(), ApplyError>,
        started: Instant,
    },
    Explained,
    /// The task that wrote it panicked: whether it was written, the API will show.
    Lost,
}

/// Why the loop goes round.
enum Wake {
    Nodes(HashSet<ObjectKey>),
    Pods(HashSet<ObjectKey>),
    Namespaces(HashSet<ObjectKey>),
    Written(Written),
    Due,
}

/// What changed for the pods that wait.
enum Change<'a> {
    /// What this node is.
    Node(&'a str),
    /// This pod came to this node, or changed there.
    Pod(&'a PodInfo, &'a str),
    /// This pod left this node.
    Gone(&'a PodInfo, &'a str),
    /// What a namespace is called: only affinity cares.
    Namespace,
}

impl Scheduler {
    async fn run(mut self, mut outcomes: mpsc::Receiver<Written>) {
        let (mut nodes, mut pods, mut namespaces) =
            (self.nodes.changes(), self.pods.changes(), self.namespaces.changes());
        // In this order the first time: pods wake nobody while there are no nodes.
        self.namespaces_changed(namespaces.take());
        self.nodes_changed(nodes.take());
        self.pods_changed(pods.take());
        info!(nodes = self.cluster.nodes().len(), pending = self.queue.len(), "scheduler started");
        loop {
            self.plan_some();
            let wake = tokio::select! {
                biased;
                () = self.scope.cancelled() => return,
                Some(written) = outcomes.recv() => Wake::Written(written),
                changed = nodes.next() => Wake::Nodes(changed),
                changed = pods.next() => Wake::Pods(changed),
                changed = namespaces.next() => Wake::Namespaces(changed),
                () = sleep_until(self.due()) => Wake::Due,
            };
            match wake {
                Wake::Nodes(changed) => self.nodes_changed(changed),
                Wake::Pods(changed) => self.pods_changed(changed),
                Wake::Namespaces(changed) => self.namespaces_changed(changed),
                Wake::Written(written) => self.written(written),
                Wake::Due => self.expire(),
            }
            drain(&mut nodes, |changed| self.nodes_changed(changed));
            drain(&mut pods, |changed| self.pods_changed(changed));
        }
    }

    /// Now, if there is more to plan and room to write it.
    fn due(&self) -> Instant {
        let now = Instant::now();
        let free = self.writing < self.config.concurrent_writes;
        if free && self.queue.is_ready(now) {
            return now;
        }
        let queued = if free { self.queue.next_due() } else { None };
        [queued, self.cluster.next_expiry()].into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    fn plan_some(&mut self) {
        for _ in 0..BATCH {
            if self.writing >= self.config.concurrent_writes {
                return;
            }
            let now = Instant::now();
            let Some(pod) = self.queue.pop(now) else { return };
            // No object may stop the loop, whatever is in it.
            let Ok(planned) = catch_unwind(AssertUnwindSafe(|| plan(&self.cluster, &pod))) else {
                error!(pod = %pod.key, uid = %pod.uid, "planning panicked");
                self.queue.retry(&pod.key, &pod.uid, now);
                self.writer.failed(&pod, "planning panicked: this is a bug of the scheduler");
                continue;
            };
            match planned {
                Ok(node) => {
                    self.cluster.assume(Arc::clone(&pod), &node);
                    self.wake(&Change::Pod(&pod, &node));
                    self.bind(&pod, node, now);
                }
                Err(why) => self.rejected(&pod, &why, now),
            }
        }
    }

    fn bind(&mut self, pod: &Arc<PodInfo>, node: Arc<str>, started: Instant) {
        let (writer, bound) = (self.writer.clone(), Arc::clone(pod));
        self.write("bind", pod, async move {
            let result = writer.bind(&bound, &node).await;
            Outcome::Bound { result, started }
        });
    }

    fn rejected(&mut self, pod: &Arc<PodInfo>, why: &Unschedulable, now: Instant) {
        let message = why.to_string();
        debug!(pod = %pod.key, uid = %pod.uid, reason = %message, "pod not scheduled");
        self.queue.unschedulable(&pod.key, why.is_topological(), now);
        self.writer.failed(pod, &message);
        self.explain(pod, "Unschedulable", &message);
    }

    fn explain(&mut self, pod: &Arc<PodInfo>, reason: &str, message: &str) {
        let Some(condition) = explanation(pod, reason, message, Timestamp::now()) else { return };
        let (writer, about) = (self.writer.clone(), Arc::clone(pod));
        self.write("explain", pod, async move {
            writer.explain(&about, &condition).await;
            Outcome::Explained
        });
    }

    fn write(
        &mut self,
        name: &'static str,
        pod: &Arc<PodInfo>,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        self.writing += 1;
        let (end, ended) = oneshot::channel();
        let before = self.last_writes.remove(&pod.key);
        let under_way = before.as_ref().map_or(0, |before| before.under_way) + 1;
        self.last_writes.insert(pod.key.clone(), LastWrite { under_way, ended });
        let (tell, pod) = (self.tell.clone(), Arc::clone(pod));
        self.scope.spawn(name, async move {
            if let Some(before) = before {
                // Nothing is ever sent: the sender's end is the message.
                drop(before.ended.await);
            }
            let outcome = catch_panic(work).await.unwrap_or(Outcome::Lost);
            drop(end); // which lets the next one begin
            // Fails only when the loop is gone.
            drop(tell.send(Written { pod, outcome }).await);
        });
    }

    fn written(&mut self, Written { pod, outcome }: Written) {
        self.writing -= 1;
        if let Some(last) = self.last_writes.get_mut(&pod.key) {
            last.under_way -= 1;
            if last.under_way == 0 {
                self.last_writes.remove(&pod.key);
            }
        }
        let confirm_by = Instant::now() + self.config.assume_timeout;
        match outcome {
            Outcome::Explained => {}
            Outcome::Lost => self.cluster.expect_by(&pod.key, &pod.uid, confirm_by),
            Outcome::Bound { result: Ok(()), started } => {
                self.cluster.expect_by(&pod.key, &pod.uid, confirm_by);
                debug!(pod = %pod.key, uid = %pod.uid, elapsed_ms = started.elapsed().as_millis(), "pod bound");
            }
            Outcome::Bound { result: Err(error), .. } => self.not_bound(&pod, &error),
        }
    }

    fn not_bound(&mut self, pod: &Arc<PodInfo>, error: &ApplyError) {
        let freed = self.cluster.forget(&pod.key, &pod.uid);
        // Also what is settled comes back after a while, unless the API has shown by then that it is: had it to come
        // back at once, a slow watch would make us ask and ask.
        self.queue.retry(&pod.key, &pod.uid, Instant::now());
        if error.is_settled() {
            debug!(pod = %pod.key, error = error as &dyn std::error::Error, "pod needs no binding any more");
        } else {
            warn!(pod = %pod.key, error = error as &dyn std::error::Error, "pod not bound");
            let message = Chain(error).to_string();
            self.writer.failed(pod, &message);
            self.explain(pod, "SchedulerError", &message);
        }
        self.freed(freed);
    }

    /// Takes back what the API did not confirm, and looks at those pods again.
    fn expire(&mut self) {
        for key in self.cluster.expired(Instant::now()) {
            warn!(pod = %key, "binding not confirmed");
            let freed = self.cluster.remove(&key);
            self.queue.remove(&key);
            self.pod_changed(&key);
            self.freed(freed);
        }
    }

    fn freed(&mut self, removed: Option<Removed>) {
        if let Some(Removed { pod, node }) = removed {
            self.wake(&Change::Gone(&pod, &node));
        }
    }

    fn namespaces_changed(&mut self, changed: HashSet<ObjectKey>) {
        let mut relevant = false;
        for key in changed {
            relevant |= self.cluster.set_namespace(&key.name, self.namespaces.get(&key).as_deref());
        }
        if relevant {
            self.wake(&Change::Namespace);
        }
    }

    fn nodes_changed(&mut self, changed: HashSet<ObjectKey>) {
        for key in changed {
            let relevant = match self.nodes.get(&key) {
                Some(node) => self.cluster.set_node(&key.name, &node),
                None => self.cluster.remove_node(&key.name),
            };
            if relevant {
                self.wake(&Change::Node(&key.name));
            }
        }
    }

    fn pods_changed(&mut self, changed: HashSet<ObjectKey>) {
        // In the order of their creation, so that of many new pods the first comes first.
        let created =
            |key: &ObjectKey| self.pods.get(key).and_then(|pod| pod.metadata.creation_timestamp.clone());
        let mut changed: Vec<_> = changed.into_iter().map(|key| (created(&key), key)).collect();
        changed.sort();
        for (_, key) in changed {
            self.pod_changed(&key);
        }
    }

    /// Looks at one pod: is it on a node, ours to place, or neither?
    fn pod_changed(&mut self, key: &ObjectKey) {
        let pod = self.pods.get(key).filter(|pod| !pods::is_terminal(pod));
        let Some(pod) = pod else {
            self.queue.remove(key);
            let freed = self.cluster.remove(key);
            self.freed(freed);
            return;
        };
        let info = Arc::new(PodInfo::of(&pod));
        if let Some(node) = info.node_name().map(String::from) {
            self.queue.remove(key);
            let before = self.cluster.placed(key).cloned();
            self.cluster.bind(Arc::clone(&info), &node);
            if !before.as_ref().is_some_and(|before| counts_the_same(before, &info)) {
                before.iter().for_each(|before| self.wake(&Change::Pod(before, &node)));
                self.wake(&Change::Pod(&info, &node));
            }
        } else if !self.cluster.is_assumed(key, &info.uid) {
            // Its namesake, if any was placed, is gone.
            let freed = self.cluster.remove(key);
            self.freed(freed);
            self.pending(info);
        }
    }

    fn pending(&mut self, pod: Arc<PodInfo>) {
        let profile = pod.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        let profile = profile.unwrap_or(api::constants::DEFAULT_SCHEDULER);
        if pod.terminating || !self.config.profiles.iter().any(|ours| ours == profile) {
            self.queue.remove(&pod.key);
            return;
        }
        if pod.gates().next().is_some() {
            self.explain(&pod, "SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
        }
        self.queue.add(pod);
    }

    /// A node that changed, and a pod that went, change what all that wait are told: their message counts the nodes
    /// by reason.
    fn wake(&mut self, change: &Change<'_>) {
        let cluster = &self.cluster;
        self.queue.wake(Instant::now(), |pod, topological| {
            let helps = |other: &PodInfo, node: &str| {
                (topological && pod.is_concerned_by(other)) || may_fit(cluster, pod, node)
            };
            let (may_help, otherwise) = match change {
                Change::Node(node) => (topological || may_fit(cluster, pod, node), Meaning::OtherReasons),
                Change::Gone(other, node) => (helps(other, node), Meaning::OtherReasons),
                Change::Pod(other, node) => (helps(other, node), Meaning::Nothing),
                Change::Namespace => (topological, Meaning::Nothing),
            };
            if may_help { Meaning::MayHelp } else { otherwise }
        });
    }
}

/// Whether a change of a placed pod means nothing to those that wait.
fn counts_the_same(known: &PodInfo, now: &PodInfo) -> bool {
    known.uid == now.uid
        && known.requests == now.requests
        && known.terminating == now.terminating
        && known.pod.metadata.labels == now.pod.metadata.labels
}

fn drain(changes: &mut Changes, mut look: impl FnMut(HashSet<ObjectKey>)) {
    let changed = changes.take();
    if !changed.is_empty() {
        look(changed);
    }
}
