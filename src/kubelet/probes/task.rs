//! Runs the probes of all pods: one task for each probe of a running instance.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    check::{Checker, Checks, Target, Verdict},
    spec::{self, Spec},
    state::{Effect, Gauge, Kind},
};
use crate::{
    agent::Seeds,
    clock::Clock,
    events::{self, EventSink, EventType},
    pods::{self, PodUid},
    runtime::{ContainerId, CriRuntime},
    worker::ports::{FailedProbe, ProbeFailure, Probed, Probes, Reading, Waker},
};

/// A check that could not be carried out is tried again at once, so often.
const TRIES: u32 = 3;
const PROBE_WARNING: &str = "ProbeWarning";

/// Probes containers. Clones of its `Arc` share the results.
pub struct Prober<C> {
    shared: Arc<Shared<C>>,
    scope: Scope,
    began: Timestamp,
    pods: Mutex<HashMap<PodUid, HashMap<ContainerId, Instance>>>,
}

impl<C> std::fmt::Debug for Prober<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("pods", &self.pods.lock().len()).finish_non_exhaustive()
    }
}

/// What every probe needs.
struct Shared<C> {
    checker: C,
    events: Arc<dyn EventSink>,
    waker: Waker,
    clock: Clock,
}

/// One container instance. Dropping it ends its probes.
struct Instance {
    known: Arc<Known>,
    specs: Vec<Spec>,
    /// Of liveness and startup: a pod that ends is not killed for them.
    killers: CancellationToken,
    all: CancellationToken,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.all.cancel();
    }
}

/// What is known of one instance, shared with its probes.
struct Known {
    pod: Arc<Pod>,
    uid: PodUid,
    container: Container,
    id: ContainerId,
    started_at: Timestamp,
    pod_ip: Mutex<Option<IpAddr>>,
    gauges: Mutex<HashMap<Kind, Gauge>>,
    /// The startup probe has passed, or there is none.
    started: watch::Sender<bool>,
}

impl Prober<Checks<CriRuntime>> {
    /// Of an agent.
    pub fn of(seeds: &Seeds) -> Arc<Prober<Checks<CriRuntime>>> {
        let checker = Checks::new(seeds.runtime.clone());
        let (events, waker) = (seeds.events.clone(), seeds.waker.clone());
        Prober::new(checker, events, waker, Clock::system(), &seeds.scope)
    }
}

impl<C: Checker> Prober<C> {
    pub fn new(
        checker: C,
        events: Arc<dyn EventSink>,
        waker: Waker,
        clock: Clock,
        scope: &Scope,
    ) -> Arc<Prober<C>> {
        Arc::new(Prober {
            began: clock.now(),
            shared: Arc::new(Shared { checker, events, waker, clock }),
            scope: scope.child("probes"),
            pods: Mutex::default(),
        })
    }

    fn start(&self, pod: &Arc<Pod>, probed: &Probed, terminating: bool) -> Option<Instance> {
        let container = pods::all_containers(pod).find(|it| it.name == probed.name)?;
        let specs = spec::of(container);
        if specs.is_empty() {
            return None;
        }
        let was = |kind| match kind {
            Kind::Startup => probed.was_started,
            Kind::Readiness => probed.was_ready,
            Kind::Liveness => true,
        };
        let gauges: HashMap<Kind, Gauge> =
            specs.iter().map(|it| (it.kind, Gauge::new(it.kind, was(it.kind)))).collect();
        let started = gauges.get(&Kind::Startup).is_none_or(|gauge| gauge.decided() == Some(true));
        let known = Arc::new(Known {
            pod: pod.clone(),
            uid: PodUid::of(pod),
            container: container.clone(),
            id: probed.id.clone(),
            started_at: probed.started_at,
            pod_ip: Mutex::new(probed.pod_ip),
            gauges: Mutex::new(gauges),
            started: watch::Sender::new(started),
        });
        let all = self.scope.token().child_token();
        let killers = all.child_token();
        for spec in &specs {
            let is_killer = spec.kind != Kind::Readiness;
            if (is_killer && terminating) || (spec.kind == Kind::Startup && started) {
                continue;
            }
            let end = if is_killer { killers.clone() } else { all.clone() };
            let probe = Probe {
                shared: self.shared.clone(),
                known: known.clone(),
                spec: spec.clone(),
                spread: self.spread(&known, spec),
            };
            self.scope.spawn("probe", async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = probe.run() => {}
                }
            });
        }
        Some(Instance { known, specs, killers, all })
    }

    /// After a start of the agent, the containers that it finds are not all asked at once.
    fn spread(&self, known: &Known, spec: &Spec) -> Duration {
        if known.started_at >= self.began {
            return Duration::ZERO;
        }
        let mut hasher = DefaultHasher::new();
        (&known.id, spec.kind).hash(&mut hasher);
        spec.period.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
    }
}

impl<C: Checker> Probes for Prober<C> {
    fn update(&self, pod: &Arc<Pod>, running: &[Probed], terminating: bool) {
        let mut pods = self.pods.lock();
        let instances = pods.entry(PodUid::of(pod)).or_default();
        let now: HashSet<&ContainerId> = running.iter().map(|it| &it.id).collect();
        instances.retain(|id, _| now.contains(id));
        for probed in running {
            match instances.get(&probed.id) {
                Some(instance) => {
                    *instance.known.pod_ip.lock() = probed.pod_ip;
                    if terminating {
                        instance.killers.cancel();
                    }
                }
                None => {
                    if let Some(instance) = self.start(pod, probed, terminating) {
                        instances.insert(probed.id.clone(), instance);
                    }
                }
            }
        }
        if instances.is_empty() {
            pods.remove(&PodUid::of(pod));
        }
    }

    fn readings(&self, uid: &PodUid) -> Vec<Reading> {
        let pods = self.pods.lock();
        pods.get(uid).into_iter().flat_map(HashMap::values).map(Instance::reading).collect()
    }

    fn forget(&self, uid: &PodUid) {
        self.pods.lock().remove(uid);
    }
}

impl Instance {
    fn reading(&self) -> Reading {
        let gauges = self.known.gauges.lock();
        let decided = |kind| gauges.get(&kind).map_or(Some(true), |gauge| gauge.decided());
        let failed = |kind, failed| {
            if self.killers.is_cancelled() || decided(kind) != Some(false) {
                return None;
            }
            let spec = self.specs.iter().find(|it| it.kind == kind)?;
            Some(ProbeFailure { kind: failed, grace_seconds: spec.grace_seconds })
        };
        Reading {
            id: self.known.id.clone(),
            started: decided(Kind::Startup),
            ready: decided(Kind::Readiness),
            failed: failed(Kind::Startup, FailedProbe::Startup)
                .or_else(|| failed(Kind::Liveness, FailedProbe::Liveness)),
        }
    }
}

/// One probe of one instance.
struct Probe<C> {
    shared: Arc<Shared<C>>,
    known: Arc<Known>,
    spec: Spec,
    spread: Duration,
}

impl<C: Checker> Probe<C> {
    /// Until there is nothing more to find out.
    async fn run(self) {
        if self.spec.kind != Kind::Startup {
            let mut started = self.known.started.subscribe();
            if started.wait_for(|started| *started).await.is_err() {
                return;
            }
        }
        let age = self.shared.clock.now().duration_since(self.known.started_at);
        let age = Duration::try_from(age).unwrap_or(Duration::ZERO);
        let delay = self.spec.initial_delay.saturating_sub(age);
        tokio::time::sleep(delay.max(self.spread)).await;
        loop {
            let next = Instant::now() + self.spec.period;
            if let Some(success) = self.measure().await
                && self.record(success)
            {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Returns whether it was the last one.
    fn record(&self, success: bool) -> bool {
        let kind = self.spec.kind;
        let effects = {
            let mut gauges = self.known.gauges.lock();
            let Some(gauge) = gauges.get_mut(&kind) else { return true };
            let (next, effects) = gauge.on(kind, success, self.spec.thresholds);
            *gauge = next;
            effects
        };
        if kind == Kind::Startup && success && effects.contains(&Effect::Changed) {
            self.known.started.send_replace(true);
        }
        if effects.contains(&Effect::Changed) {
            debug!(uid = %self.known.uid, container = self.known.container.name, kind = kind.as_str(), success, "probe decided");
            self.shared.waker.wake(&self.known.uid);
        }
        effects.contains(&Effect::Stop)
    }

    /// `None`: nothing was found out.
    async fn measure(&self) -> Option<bool> {
        let kind = self.spec.kind.as_str();
        match self.check().await {
            Verdict::Success => Some(true),
            Verdict::Warning(words) => {
                self.tell(PROBE_WARNING, format!("{kind} probe warning: {words}"));
                Some(true)
            }
            Verdict::Failure(words) => {
                self.tell(events::UNHEALTHY, format!("{kind} probe failed: {words}"));
                Some(false)
            }
            Verdict::Unknown(words) => {
                let message = format!("{kind} probe errored and resulted in unknown state: {words}");
                self.tell(events::UNHEALTHY, message);
                None
            }
        }
    }

    async fn check(&self) -> Verdict {
        let check = match &self.spec.check {
            Ok(check) => check,
            Err(words) => return Verdict::Unknown(words.clone()),
        };
        let mut tries = 1;
        loop {
            let target = Target { id: self.known.id.clone(), pod_ip: *self.known.pod_ip.lock() };
            let checked = self.shared.checker.check(&target, check, self.spec.timeout);
            // A panic is the fault of this one check.
            let verdict = match lifecycle::catch_panic(checked).await {
                Ok(verdict) => verdict,
                Err(panicked) => Verdict::Unknown(panicked.to_string()),
            };
            if tries == TRIES || !matches!(verdict, Verdict::Unknown(_)) {
                return verdict;
            }
            tries += 1;
        }
    }

    fn tell(&self, reason: &'static str, message: String) {
        let about = events::of_container(&self.known.pod, &self.known.container);
        self.shared.events.event(&about, EventType::Warning, reason, message);
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
