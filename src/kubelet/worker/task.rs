//! The loop of one pod: wake, observe, decide, publish, and one job at a time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use lifecycle::{Guarded, Panicked, Scope};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    apply::{self, Made, Outcome, RETRY, RETRY_LONGEST},
    backoff::{self, Backoff},
    bells::Bell,
    garbage::garbage,
    kill::{self, Hooked},
    plan::{self, Held, HeldBy, PodActions, compute_pod_actions},
    ports::{PodResources, Probed, Reading},
    state::{Effect, Event, PodState, Why},
    tools::Tools,
};
use crate::{
    pods::{self, PodName, PodUid},
    runtime::{ContainerState, PodObservation, Runtime, shown_pod},
    status::{self, Generated, Waiting},
};

/// Content of volumes is looked at this often even if nobody says that it changed.
const REFRESH: Duration = Duration::from_secs(60);
/// A pull or a pass that is announced by a wake; this only covers a lost one.
const LOST_WAKE: Duration = Duration::from_secs(60);

/// What is said to have ended, and seems to live, is looked at again after as long as it has been so, within these.
const SOONEST_LOOK: Duration = Duration::from_millis(5);
const LATEST_LOOK: Duration = Duration::from_secs(5);

/// What the pool tells a worker. Only the newest counts.
#[derive(Clone, Debug)]
pub(super) struct Mail {
    pub(super) pod: Arc<Pod>,
    /// Its source has it no more.
    pub(super) removed: bool,
    /// The machine goes down: it is to end, with this grace in seconds.
    pub(super) shutdown: Option<i64>,
}

/// What a worker shares with the pool.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub(super) inbox: watch::Receiver<Mail>,
    pub(super) bell: Arc<Bell>,
    /// Set once the pod holds nothing of the node any more.
    pub(super) done: Arc<AtomicBool>,
    /// Told after that.
    pub(super) progress: watch::Sender<()>,
}

/// What a worker is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    Runs,
    /// The pod does not fit here: it fails, for this reason.
    Refused(Waiting),
    /// Nobody wants the pod: it only ends.
    Orphan,
}

pub(super) struct Worker<R: Runtime, P: PodResources> {
    tools: Arc<Tools<R, P>>,
    uid: PodUid,
    name: PodName,
    inbox: watch::Receiver<Mail>,
    bell: Arc<Bell>,
    done: Arc<AtomicBool>,
    progress: watch::Sender<()>,
    scope: Scope,
    state: PodState,
    backoff: Backoff,
    recalled: bool,
    hooked: Hooked,
    waiting: BTreeMap<String, Waiting>,
    refusals: BTreeMap<String, Refusal>,
    previous: Option<PodStatus>,
    failed: Option<Waiting>,
    failures: u32,
    refresh: bool,
    cleaned: bool,
    /// What failed jobs wait for came while one ran: its result is old.
    again: bool,
    retry_at: Option<Instant>,
    wake_at: Option<Instant>,
    job: Option<Job>,
}

/// A container that could not be started: it waits, and nobody waits for it.
#[derive(Default)]
struct Refusal {
    until: Timestamp,
    /// In a row.
    failures: u32,
}

struct Job {
    cancel: CancellationToken,
    result: Guarded<Option<JobDone>>,
}

/// Nobody waits for it any more, also when its worker panicked: a new one must not find it at work.
impl Drop for Job {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

enum JobDone {
    Synced(Outcome),
    /// Everything was ended, or it failed.
    Ended(bool),
    TornDown(bool),
    Cleaned(bool),
}

enum Wake {
    Stop,
    Mail,
    Look,
    Retry,
    Timer,
    Job(Result<Option<JobDone>, Panicked>),
}

impl<R: Runtime, P: PodResources> Worker<R, P> {
    pub(super) fn new(
        tools: Arc<Tools<R, P>>,
        Post { inbox, bell, done, progress }: Post,
        scope: Scope,
        begin: Begin,
    ) -> Worker<R, P> {
        let pod = inbox.borrow().pod.clone();
        let mut state = PodState::Syncing;
        if begin == Begin::Orphan {
            state = state.on(Event::EndAsked { why: Why::Orphaned, grace_seconds: 1 }).0;
        }
        Worker {
            uid: PodUid::of(&pod),
            name: PodName::of(&pod),
            backoff: Backoff::new(tools.config.crash_loop),
            tools,
            inbox,
            bell,
            done,
            progress,
            scope,
            state,
            recalled: false,
            hooked: Hooked::default(),
            waiting: BTreeMap::new(),
            refusals: BTreeMap::new(),
            previous: None,
            failed: match begin {
                Begin::Refused(why) => Some(why),
                Begin::Runs | Begin::Orphan => None,
            },
            failures: 0,
            refresh: true,
            cleaned: false,
            again: false,
            retry_at: None,
            wake_at: None,
            job: None,
        }
    }

    /// Returns when nothing of the pod is left here and its source has it no more, or with the agent.
    pub(super) async fn run(mut self) {
        self.pass().await;
        loop {
            if self.is_over() {
                break;
            }
            match self.wait().await {
                Wake::Stop => return,
                Wake::Mail | Wake::Retry => {
                    self.try_again();
                    self.refresh = true;
                    self.again = self.job.is_some();
                }
                Wake::Look | Wake::Timer => {}
                Wake::Job(done) => self.on_job(done),
            }
            self.pass().await;
        }
        self.tools.probes.forget(&self.uid);
        self.tools.images.forget(&self.uid);
        self.tools.statuses.forget(&self.uid);
        info!(pod = %self.name, uid = %self.uid, "pod is gone");
    }

    fn is_over(&self) -> bool {
        let PodState::Finished(ending) = &self.state else { return false };
        let gone = self.inbox.borrow().removed || self.is_orphan();
        let over = (gone && self.cleaned) || (ending.why == Why::Shutdown && self.runs_again());
        over && self.job.is_none()
    }

    /// A static pod that ended with a machine that stays after all. A new worker begins with it.
    fn runs_again(&self) -> bool {
        !self.tools.going.is_down() && pods::is_static(&self.inbox.borrow().pod)
    }

    fn is_orphan(&self) -> bool {
        self.state.ending().is_some_and(|ending| ending.why == Why::Orphaned)
    }

    async fn wait(&mut self) -> Wake {
        let timer = [self.retry_at, self.wake_at].into_iter().flatten().min();
        let job = self.job.as_mut();
        let done = async {
            match job {
                Some(job) => (&mut job.result).await,
                None => std::future::pending().await,
            }
        };
        let sleep = async {
            match timer {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.scope.cancelled() => Wake::Stop,
            done = done => Wake::Job(done),
            changed = self.inbox.changed() => if changed.is_ok() { Wake::Mail } else { Wake::Stop },
            () = self.bell.retry.notified() => Wake::Retry,
            () = self.bell.look.notified() => Wake::Look,
            () = sleep => Wake::Timer,
        }
    }

    fn on_job(&mut self, done: Result<Option<JobDone>, Panicked>) {
        self.job = None;
        self.retry_at = None;
        let failed = match done {
            Ok(Some(JobDone::Synced(outcome))) => self.on_synced(outcome),
            Ok(Some(JobDone::Ended(ok))) => !ok,
            Ok(Some(JobDone::TornDown(ok))) => {
                if ok {
                    self.turn(Event::TornDown);
                }
                !ok
            }
            Ok(Some(JobDone::Cleaned(ok))) => {
                self.cleaned = ok;
                !ok
            }
            // Cancelled: its state is over.
            Ok(None) => false,
            Err(panicked) => {
                warn!(pod = %self.name, error = %panicked, "work on a pod panicked");
                true
            }
        };
        if failed {
            self.retry_at = Some(Instant::now() + delay(self.failures));
            self.failures += 1;
        } else {
            self.failures = 0;
        }
        if std::mem::take(&mut self.again) {
            self.try_again();
        }
    }

    /// What failed or was refused waits no longer.
    fn try_again(&mut self) {
        self.retry_at = None;
        for refusal in self.refusals.values_mut() {
            refusal.until = Timestamp::MIN;
        }
    }

    fn on_synced(&mut self, outcome: Outcome) -> bool {
        let now = self.tools.clock.now();
        for Made { name, hash, after } in outcome.made {
            self.waiting.remove(&name);
            if let Some(ended) = after {
                self.backoff.started(&backoff::of_container(&name, hash), ended, now);
            }
        }
        self.waiting.extend(outcome.waiting);
        for (name, retry) in outcome.refused {
            let refusal = self.refusals.entry(name).or_default();
            let wait = retry.unwrap_or_else(|| {
                refusal.failures += 1;
                delay(refusal.failures - 1)
            });
            refusal.until = now.saturating_add(signed(wait)).unwrap_or(Timestamp::MAX);
        }
        outcome.failed
    }

    fn turn(&mut self, event: Event) {
        let (state, effects) = std::mem::replace(&mut self.state, PodState::Syncing).on(event);
        self.state = state;
        for effect in effects {
            match effect {
                Effect::CancelJob => {
                    self.retry_at = None;
                    self.failures = 0;
                    if let Some(job) = &self.job {
                        job.cancel.cancel();
                    }
                }
            }
        }
    }

    async fn pass(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
        }
        self.wake_at = None;
        let Mail { pod, removed, shutdown } = self.inbox.borrow_and_update().clone();
        let told: Vec<String> = self.bell.exits.lock().keys().cloned().collect();
        let observed = match self.tools.runtime.observe(&self.uid).await {
            Ok(observed) => observed,
            Err(error) => {
                warn!(pod = %self.name, error = &error as &dyn std::error::Error, "cannot observe the pod");
                self.wake_at = Some(Instant::now() + RETRY_LONGEST);
                return;
            }
        };
        self.look_for_exits(&told, &observed);
        self.forget_gone(&observed);
        if self.failed.is_some() && !observed.sandboxes.is_empty() {
            // An agent before this one had begun with it, and nobody told the API: it stays.
            self.failed = None;
            self.done.store(false, Ordering::Relaxed);
        }
        if removed || pod.metadata.deletion_timestamp.is_some() {
            self.turn(Event::EndAsked { why: Why::Deleted, grace_seconds: pods::grace_seconds(&pod) });
        }
        let readings = self.probe(&pod, &observed);
        if self.is_orphan() {
            self.advance(&pod, &observed);
            return;
        }
        let time = self.tools.clock.now();
        self.recall(&observed);
        let actions = self.plan(&pod, &observed, &readings, time);
        let mut generated = self.generate(&pod, &observed, &readings, time);
        if generated.completed && self.state.is_syncing() {
            let grace_seconds = pods::grace_seconds(&pod);
            self.turn(Event::EndAsked { why: Why::Completed, grace_seconds });
        }
        // After that: what was done before counts as done.
        if let Some(grace_seconds) = shutdown {
            self.turn(Event::EndAsked { why: Why::Shutdown, grace_seconds });
            generated = self.generate(&pod, &observed, &readings, time);
        }
        if self.advance(&pod, &observed) {
            generated = self.generate(&pod, &observed, &readings, time);
        }
        self.publish(&pod, generated, time);
        if self.state.is_syncing() {
            self.sync(&pod, observed, actions, time);
        } else if matches!(&self.state, PodState::Finished(ending) if ending.why == Why::Deleted) && !removed
        {
            self.tools.statuses.delete(&pod);
        }
    }

    /// What is remembered of single containers goes with them. A job may have made some that are not observed yet.
    fn forget_gone(&self, observed: &PodObservation) {
        if self.job.is_some() {
            return;
        }
        self.hooked.lock().retain(|id| observed.containers.iter().any(|it| it.id == *id));
        let containers = observed.containers.iter().map(|it| it.id.as_str());
        let ids = containers.chain(observed.sandboxes.iter().map(|it| it.id.as_str())).collect();
        self.tools.bells.keep(&self.uid, &ids);
    }

    /// containerd tells of an exit before it has noted it: what of `told` still seems to live is looked at again soon.
    /// What was told while the runtime was asked is for the next pass: this answer may be older.
    fn look_for_exits(&mut self, told: &[String], observed: &PodObservation) {
        let lives = |id: &str| {
            observed.containers.iter().any(|it| it.id.as_str() == id && it.may_run())
                || observed.sandboxes.iter().any(|it| it.id.as_str() == id && it.ready)
        };
        let mut exits = self.bell.exits.lock();
        exits.retain(|id, _| !told.contains(id) || lives(id));
        if let Some(since) = exits.values().max() {
            let soon = Instant::now() + since.elapsed().clamp(SOONEST_LOOK, LATEST_LOOK);
            self.wake_at = Some(self.wake_at.map_or(soon, |other| other.min(soon)));
        }
    }

    /// Tells the probes what runs, and asks what they measured.
    fn probe(&self, pod: &Arc<Pod>, observed: &PodObservation) -> Vec<Reading> {
        if self.is_orphan() {
            return Vec::new();
        }
        let host_network = pods::is_host_network(pod);
        let pod_ip = match host_network {
            true => self.tools.node.borrow().addresses.first().copied(),
            false => observed.sandboxes.first().and_then(|sandbox| sandbox.ips.first().copied()),
        };
        let shown = self.previous.as_ref().or(pod.status.as_ref());
        let running: Vec<Probed> = observed
            .containers
            .iter()
            .filter_map(|container| {
                let ContainerState::Running { started_at } = container.state else { return None };
                let before = shown.and_then(|shown| {
                    let all = shown.container_statuses.iter().chain(&shown.init_container_statuses).flatten();
                    let id = container.id.as_str();
                    all.into_iter()
                        .find(|it| it.container_id.as_deref().is_some_and(|shown| shown.ends_with(id)))
                        .cloned()
                });
                Some(Probed {
                    name: container.name.clone(),
                    id: container.id.clone(),
                    started_at,
                    pod_ip,
                    was_ready: before.as_ref().is_some_and(|before| before.ready),
                    was_started: before.is_some_and(|before| before.started == Some(true)),
                })
            })
            .collect();
        self.tools.probes.update(pod, &running, !self.state.is_syncing());
        self.tools.probes.readings(&self.uid)
    }

    /// Once after a start of the agent: the waits that containers in a crash loop must have had.
    fn recall(&mut self, observed: &PodObservation) {
        if std::mem::replace(&mut self.recalled, true) {
            return;
        }
        for container in &observed.containers {
            if let (ContainerState::Exited(exit), Some(hash)) = (&container.state, container.hash) {
                let began = exit.started_at.unwrap_or(container.created_at);
                let key = backoff::of_container(&container.name, hash);
                // Attempts count on when the container is changed; its failures do not.
                let older = observed.containers.iter().filter(|it| it.name == container.name);
                let changed = older.filter(|it| it.hash != Some(hash)).map(|it| it.attempt);
                let first =
                    changed.filter(|attempt| *attempt < container.attempt).max().map_or(0, |last| last + 1);
                self.backoff.recall(&key, container.attempt - first, began);
            }
        }
    }

    /// Also says, in `waiting`, what is held back.
    fn plan(
        &mut self,
        pod: &Pod,
        observed: &PodObservation,
        readings: &[Reading],
        now: Timestamp,
    ) -> PodActions {
        if !self.state.is_syncing() {
            return PodActions::default();
        }
        self.refusals.retain(|name, _| !observed.latest(name).is_some_and(|latest| latest.is_running()));
        let refused = self.refusals.iter().map(|(name, refusal)| (name.clone(), refusal.until)).collect();
        let (backoff, refused) = (&self.backoff, &refused);
        let actions = compute_pod_actions(&plan::Inputs { pod, observed, readings, backoff, refused, now });
        for held in &actions.held {
            self.wake_by(held.until(), now);
            let Held { name, by: HeldBy::CrashLoop(wait) } = held else { continue };
            let message = format!(
                "back-off {} restarting failed container={name} pod={}",
                api::duration::format(wait.wait),
                shown_pod(pod)
            );
            let why = Waiting { reason: "CrashLoopBackOff".into(), message };
            if self.waiting.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                self.tell_back_off(pod, name);
            }
        }
        actions
    }

    fn tell_back_off(&self, pod: &Pod, name: &str) {
        use crate::events::{self, EventType};
        let Some(container) = pods::all_containers(pod).find(|it| it.name == name) else { return };
        let message = format!("Back-off restarting failed container {name} in pod {}", shown_pod(pod));
        let about = events::of_container(pod, container);
        self.tools.events.event(&about, EventType::Warning, events::BACK_OFF, message);
    }

    fn generate(
        &self,
        pod: &Pod,
        observed: &PodObservation,
        readings: &[Reading],
        now: Timestamp,
    ) -> Generated {
        let node = self.tools.node.borrow().clone();
        status::generate(&status::Inputs {
            pod,
            previous: self.previous.as_ref(),
            observed,
            readings,
            waiting: &self.waiting,
            failed: self.failed.as_ref(),
            ending: matches!(self.state, PodState::Terminated(_) | PodState::Finished(_)),
            shutdown: self.state.ending().is_some_and(|ending| ending.why == Why::Shutdown),
            host_ips: &node.addresses,
            runtime_name: &node.runtime_name,
            now,
        })
    }

    fn publish(&mut self, pod: &Arc<Pod>, generated: Generated, now: Timestamp) {
        if let Some(next) = generated.next {
            self.wake_by(next, now);
        }
        // Before anybody hears of it, and puts another pod in its place.
        if status::is_terminal(generated.status.phase.as_deref())
            || matches!(self.state, PodState::Terminated(_) | PodState::Finished(_))
        {
            self.done.store(true, Ordering::Relaxed);
        }
        self.tools.statuses.publish(pod, &generated.status);
        self.previous = Some(generated.status);
        if self.done.load(Ordering::Relaxed) {
            self.progress.send_replace(());
        }
    }

    fn wake_by(&mut self, at: Timestamp, now: Timestamp) {
        let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        // A little late rather than a little early, which would be a pass for nothing.
        let at = Instant::now() + wait + Duration::from_millis(5);
        self.wake_at = Some(self.wake_at.map_or(at, |other| other.min(at)));
    }

    fn sync(&mut self, pod: &Arc<Pod>, observed: PodObservation, actions: PodActions, now: Timestamp) {
        let refreshed = now + signed(REFRESH);
        if self.job.is_some() || self.retry_at.is_some() || (actions.is_empty() && !self.refresh) {
            self.wake_by(refreshed, now);
            return;
        }
        self.refresh = false;
        debug!(pod = %self.name, ?actions, "sync");
        let (tools, pod, hooked) = (self.tools.clone(), pod.clone(), self.hooked.clone());
        self.start_job(async move {
            let outcome = apply::apply(&tools, &pod, &observed, actions, &hooked).await;
            let garbage = garbage(&observed);
            remove(&tools, &garbage.containers, &garbage.sandboxes).await;
            JobDone::Synced(outcome)
        });
    }

    /// The work of a pod that ends. True when the state has changed.
    fn advance(&mut self, pod: &Arc<Pod>, observed: &PodObservation) -> bool {
        let before = self.state.clone();
        if matches!(self.state, PodState::Terminating(_)) && self.job.is_none() && !observed.has_life() {
            self.turn(Event::NothingAlive);
        }
        if self.job.is_none() && self.retry_at.is_none() {
            match self.state.clone() {
                PodState::Syncing => {}
                PodState::Terminating(ending) => {
                    let grace = Duration::from_secs(u64::try_from(ending.grace_seconds).unwrap_or(0));
                    self.end(pod, observed.clone(), grace);
                }
                PodState::Terminated(_) => {
                    let (tools, uid) = (self.tools.clone(), self.uid.clone());
                    self.start_job(async move { JobDone::TornDown(tear_down(&tools, &uid).await) });
                }
                PodState::Finished(ending)
                    if !matches!(ending.why, Why::Completed | Why::Shutdown) && !self.cleaned =>
                {
                    let (tools, name, uid) = (self.tools.clone(), self.name.clone(), self.uid.clone());
                    let observed = observed.clone();
                    self.start_job(
                        async move { JobDone::Cleaned(clean(&tools, &observed, &name, &uid).await) },
                    );
                }
                PodState::Finished(_) => {}
            }
        }
        before != self.state
    }

    fn end(&mut self, pod: &Arc<Pod>, observed: PodObservation, grace: Duration) {
        info!(pod = %self.name, uid = %self.uid, grace_s = grace.as_secs(), "ending pod");
        let (tools, pod, hooked) = (self.tools.clone(), pod.clone(), self.hooked.clone());
        self.start_job(async move {
            let killed = kill::kill_all(&tools, &pod, &observed, grace, &hooked).await;
            // Also after a failed kill: to stop a sandbox is to end by force what is in it.
            let stopped = apply::stop_sandboxes(&tools, &observed).await;
            if let Err(error) = killed.and(stopped) {
                warn!(pod = %PodName::of(&pod), error = &error as &dyn std::error::Error, "cannot end the pod");
                return JobDone::Ended(false);
            }
            JobDone::Ended(true)
        });
    }

    fn start_job(&mut self, work: impl Future<Output = JobDone> + Send + 'static) {
        let cancel = self.scope.token().child_token();
        let token = cancel.clone();
        let result = self.scope.spawn_guarded("pod job", async move {
            tokio::select! {
                biased;
                () = token.cancelled() => None,
                done = work => Some(done),
            }
        });
        self.job = Some(Job { cancel, result });
        let lost = Instant::now() + LOST_WAKE;
        self.wake_at = Some(self.wake_at.map_or(lost, |other| other.min(lost)));
    }
}

/// Before the next try, after `failures` in a row before this one.
fn delay(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(8)).min(RETRY_LONGEST)
}

fn signed(duration: Duration) -> jiff::SignedDuration {
    jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX)
}

async fn tear_down<R: Runtime, P: PodResources>(tools: &Tools<R, P>, uid: &PodUid) -> bool {
    match tools.resources.teardown(uid).await {
        Ok(()) => true,
        Err(error) => {
            warn!(%uid, error = &error as &dyn std::error::Error, "cannot tear down the pod");
            false
        }
    }
}

/// Nobody will ask for its logs or states any more.
async fn clean<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    observed: &PodObservation,
    name: &PodName,
    uid: &PodUid,
) -> bool {
    let containers: Vec<_> = observed.containers.iter().map(|container| container.id.clone()).collect();
    let sandboxes: Vec<_> = observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    let removed = remove(tools, &containers, &sandboxes).await;
    let logs = tools.config.pod_log_dir(name, uid);
    match tokio::fs::remove_dir_all(&logs).await {
        Ok(()) => removed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => removed,
        Err(error) => {
            warn!(path = %logs.display(), error = &error as &dyn std::error::Error, "cannot remove logs");
            removed
        }
    }
}

async fn remove<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    containers: &[crate::runtime::ContainerId],
    sandboxes: &[crate::runtime::SandboxId],
) -> bool {
    let mut all = true;
    for id in containers {
        if let Err(error) = tools.runtime.remove_container(id).await {
            warn!(container = %id, error = &error as &dyn std::error::Error, "cannot remove a container");
            all = false;
        }
    }
    for id in sandboxes {
        if let Err(error) = tools.runtime.remove_sandbox(id).await {
            warn!(sandbox = %id, error = &error as &dyn std::error::Error, "cannot remove a sandbox");
            all = false;
        }
    }
    all
}
