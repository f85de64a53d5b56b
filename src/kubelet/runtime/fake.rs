//! A runtime that keeps state, for simulations: it takes its time, fails now and then (before or after it did what was
//! asked), loses calls that nobody waits for, forgets dead containers, and counts what must never happen.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use jiff::Timestamp;
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::{model::*, port::*};
use crate::{
    clock::Clock,
    pods::{PodName, PodUid},
};

/// How the world behaves, from a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    pub(crate) seed: u64,
    pub(crate) longest_delay_ms: u64,
    pub(crate) fail_percent: u64,
    /// Dead containers that vanish with each list.
    pub(crate) forget_percent: u64,
    /// Containers end by themselves after up to this long; 0: never.
    pub(crate) longest_life_ms: u64,
}

#[derive(Clone)]
pub(crate) struct FakeRuntime {
    state: Arc<Mutex<State>>,
    clock: Clock,
    events: broadcast::Sender<RuntimeEvent>,
    /// Containers live on when the agent ends.
    scope: Scope,
}

struct State {
    temper: Temper,
    random: u64,
    calm: bool,
    /// Subscriptions are not answered: nothing happens that could be told.
    silent: bool,
    next_id: u64,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, Image>,
    broken: Vec<String>,
    /// Started instances by pod and name.
    started: BTreeMap<(PodUid, String), u32>,
}

struct FakeSandbox {
    uid: PodUid,
    name: PodName,
    handler: String,
    sandbox: Sandbox,
}

struct FakeContainer {
    uid: PodUid,
    ignores_term: bool,
    container: ObservedContainer,
}

impl State {
    /// splitmix64
    fn roll(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }

    fn fails(&mut self) -> bool {
        !self.calm && self.roll(100) < self.temper.fail_percent
    }

    fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{}", self.next_id)
    }
}

impl FakeRuntime {
    pub(crate) fn new(temper: Temper, clock: Clock) -> FakeRuntime {
        let image = Image { id: "sha256:image".into(), ..Image::default() };
        let state = State {
            random: temper.seed,
            temper,
            calm: false,
            silent: false,
            next_id: 0,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::from([("busybox:1".to_string(), image)]),
            broken: Vec::new(),
            started: BTreeMap::new(),
        };
        FakeRuntime {
            state: Arc::new(Mutex::new(state)),
            clock,
            events: broadcast::Sender::new(1024),
            scope: Scope::root("runtime"),
        }
    }

    /// From now on nothing fails and no container ends by itself: what should happen, happens.
    pub(crate) fn calm_down(&self) {
        self.state.lock().calm = true;
    }

    pub(crate) fn be_silent(&self) {
        self.state.lock().silent = true;
    }

    /// The container of this name ends by itself.
    pub(crate) fn crash(&self, uid: &PodUid, name: &str) {
        let id = {
            let state = self.state.lock();
            let mut all = state.containers.iter();
            let found =
                all.find(|(_, it)| it.uid == *uid && it.container.name == name && it.container.is_running());
            found.map(|(id, _)| id.clone())
        };
        if let Some(id) = id {
            self.end(&id, 1, "Error");
        }
    }

    /// The handlers of the sandboxes of a pod.
    pub(crate) fn handlers(&self, uid: &PodUid) -> Vec<String> {
        let state = self.state.lock();
        state.sandboxes.values().filter(|it| it.uid == *uid).map(|it| it.handler.clone()).collect()
    }

    /// Something of the pod of this name runs.
    pub(crate) fn started(&self, name: &str) -> bool {
        let state = self.state.lock();
        let of = |uid: &PodUid| state.sandboxes.values().any(|it| it.uid == *uid && it.name.name == name);
        state.containers.values().any(|it| it.container.is_running() && of(&it.uid))
    }

    /// What must never have happened.
    pub(crate) fn broken(&self) -> Vec<String> {
        self.state.lock().broken.clone()
    }

    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.sandboxes.is_empty() && state.containers.is_empty()
    }

    pub(crate) fn starts(&self, uid: &PodUid, name: &str) -> u32 {
        self.state.lock().started.get(&(uid.clone(), name.to_string())).copied().unwrap_or(0)
    }

    /// Takes a while, then does `work`, perhaps failing before or after it. Work that nobody waits for any more is
    /// sometimes done all the same, a little later: as containerd does.
    async fn act<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl FnOnce(&mut State, Timestamp) -> Result<T, RuntimeError> + Send + 'static,
    ) -> Result<T, RuntimeError> {
        let (delay, before, after) = {
            let mut state = self.state.lock();
            let longest = state.temper.longest_delay_ms;
            (state.roll(longest + 1), state.fails(), state.fails())
        };
        let abandoned = Abandoned { runtime: self.clone(), work: Some(work) };
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let mut abandoned = abandoned;
        let work = abandoned.work.take();
        let failed = RuntimeError::Call { operation, code: tonic::Code::Unknown, words: "simulated".into() };
        if before {
            return Err(failed);
        }
        let Some(work) = work else { return Err(failed) };
        let done = work(&mut self.state.lock(), self.clock.now());
        if after { Err(failed) } else { done }
    }

    fn tell(&self, uid: &PodUid, id: &str, exited: bool) {
        let event = RuntimeEvent { pod: Some(uid.clone()), container: id.to_string(), exited };
        drop(self.events.send(event));
    }

    /// As containerd does: the end is told first, and noted a while later.
    fn end(&self, id: &str, code: i32, reason: &'static str) {
        let (delay, uid) = {
            let mut state = self.state.lock();
            let longest = state.temper.longest_delay_ms.saturating_mul(10);
            let delay = Duration::from_millis(state.roll(longest + 1));
            let Some(container) = state.containers.get(id) else { return };
            (delay, container.uid.clone())
        };
        self.tell(&uid, id, true);
        let (runtime, id) = (self.clone(), id.to_string());
        let noted = async move {
            tokio::time::sleep(delay).await;
            runtime.note_end(&id, code, reason);
        };
        drop(self.scope.spawn_guarded("end of a container", noted));
    }

    /// Whoever stops a container waits until its end is noted.
    fn stopped(&self, id: &str, code: i32) {
        self.note_end(id, code, "Error");
        let uid = self.state.lock().containers.get(id).map(|it| it.uid.clone());
        if let Some(uid) = uid {
            self.tell(&uid, id, true);
        }
    }

    fn note_end(&self, id: &str, code: i32, reason: &str) {
        let mut state = self.state.lock();
        let now = self.clock.now();
        let Some(container) = state.containers.get_mut(id) else { return };
        let ContainerState::Running { started_at } = container.container.state else { return };
        container.container.state = ContainerState::Exited(Exit {
            code,
            reason: reason.into(),
            message: String::new(),
            started_at: Some(started_at),
            finished_at: now,
        });
    }
}

/// Dropped with its work undone when the caller went away.
struct Abandoned<T, W: FnOnce(&mut State, Timestamp) -> Result<T, RuntimeError>> {
    runtime: FakeRuntime,
    work: Option<W>,
}

impl<T, W: FnOnce(&mut State, Timestamp) -> Result<T, RuntimeError>> Drop for Abandoned<T, W> {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        let mut state = self.runtime.state.lock();
        if state.roll(2) == 0 {
            let now = self.runtime.clock.now();
            drop(work(&mut state, now));
        }
    }
}

fn refused(operation: Operation, words: &str) -> RuntimeError {
    RuntimeError::Call { operation, code: tonic::Code::FailedPrecondition, words: words.into() }
}

impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<RuntimeVersion, RuntimeError> {
        Ok(RuntimeVersion { name: "fake".into(), version: "1".into() })
    }

    async fn health(&self) -> Result<RuntimeHealth, RuntimeError> {
        let ok = Condition { ok: true, ..Condition::default() };
        Ok(RuntimeHealth { runtime: ok.clone(), network: ok })
    }

    async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, RuntimeError> {
        let id = id.as_str().to_string();
        self.act(Operation::PodSandboxStatus, move |state, _| {
            Ok(state.sandboxes.get(&id).map(|it| it.sandbox.clone()))
        })
        .await
    }

    async fn observe(&self, uid: &PodUid) -> Result<PodObservation, RuntimeError> {
        let uid = uid.clone();
        self.act(Operation::ListContainers, move |state, _| {
            let dead: Vec<String> = state
                .containers
                .iter()
                .filter(|(_, it)| it.uid == uid && matches!(it.container.state, ContainerState::Exited(_)))
                .map(|(id, _)| id.clone())
                .collect();
            for id in dead {
                // The newest dead one is never lost: upstream loses count too when that happens.
                let newest = {
                    let it = &state.containers[&id].container;
                    let same = |other: &&FakeContainer| other.uid == uid && other.container.name == it.name;
                    state.containers.values().filter(same).all(|other| other.container.attempt <= it.attempt)
                };
                if !newest && !state.calm && state.roll(100) < state.temper.forget_percent {
                    state.containers.remove(&id);
                }
            }
            let mut observation = PodObservation {
                sandboxes: state
                    .sandboxes
                    .values()
                    .filter(|it| it.uid == uid)
                    .map(|it| it.sandbox.clone())
                    .collect(),
                containers: state
                    .containers
                    .values()
                    .filter(|it| it.uid == uid)
                    .map(|it| it.container.clone())
                    .collect(),
            };
            observation.sort();
            Ok(observation)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<PodSummary>, RuntimeError> {
        self.act(Operation::ListPodSandbox, |state, _| {
            let mut pods: BTreeMap<PodUid, PodSummary> = BTreeMap::new();
            for it in state.sandboxes.values() {
                let empty = PodSummary {
                    uid: it.uid.clone(),
                    name: it.name.clone(),
                    sandboxes: Vec::new(),
                    containers: Vec::new(),
                };
                let pod = pods.entry(it.uid.clone()).or_insert(empty);
                pod.sandboxes.push((it.sandbox.id.clone(), it.sandbox.ready));
            }
            Ok(pods.into_values().collect())
        })
        .await
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        if self.state.lock().silent {
            return std::future::pending().await;
        }
        let stream = BroadcastStream::new(self.events.subscribe());
        Ok(stream.filter_map(async |event| event.ok()).boxed())
    }

    async fn run_sandbox(&self, request: &SandboxRequest) -> Result<SandboxId, RuntimeError> {
        let request = request.clone();
        self.act(Operation::RunPodSandbox, move |state, now| {
            let uid = PodUid::of(&request.pod);
            let taken =
                state.sandboxes.values().find(|it| it.uid == uid && it.sandbox.attempt == request.attempt);
            if let Some(taken) = taken {
                let words = format!("name \"x\" is reserved for \"{}\"", taken.sandbox.id);
                return Err(refused(Operation::RunPodSandbox, &words));
            }
            if state.sandboxes.values().any(|it| it.uid == uid && it.sandbox.ready) {
                state.broken.push(format!("{uid}: two sandboxes at once"));
            }
            let id = state.id("sandbox");
            let ip: IpAddr = [10, 0, 0, 1].into();
            let sandbox = Sandbox {
                id: id.as_str().into(),
                attempt: request.attempt,
                ready: true,
                created_at: now,
                ips: vec![ip],
                host_network: crate::pods::is_host_network(&request.pod),
            };
            let name = PodName::of(&request.pod);
            let handler = request.runtime_handler.clone();
            state.sandboxes.insert(id.clone(), FakeSandbox { uid, name, handler, sandbox });
            Ok(id.as_str().into())
        })
        .await
    }

    async fn stop_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let id = id.to_string();
        let sandbox = id.clone();
        let ended = self
            .act(Operation::StopPodSandbox, move |state, _| {
                if let Some(it) = state.sandboxes.get_mut(&id) {
                    it.sandbox.ready = false;
                }
                let of =
                    |it: &&FakeContainer| it.container.sandbox.as_str() == id && it.container.is_running();
                Ok(state
                    .containers
                    .values()
                    .filter(of)
                    .map(|it| it.container.id.to_string())
                    .collect::<Vec<_>>())
            })
            .await?;
        for id in ended {
            self.stopped(&id, 137);
        }
        drop(sandbox);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<(), RuntimeError> {
        let id = id.to_string();
        self.act(Operation::RemovePodSandbox, move |state, _| {
            if state.sandboxes.get(&id).is_some_and(|it| it.sandbox.ready) {
                return Err(refused(Operation::RemovePodSandbox, "sandbox is not stopped"));
            }
            state.containers.retain(|_, it| it.container.sandbox.as_str() != id);
            state.sandboxes.remove(&id);
            Ok(())
        })
        .await
    }

    async fn create_container(
        &self,
        sandbox: &SandboxId,
        sandbox_request: &SandboxRequest,
        request: &ContainerRequest,
    ) -> Result<ContainerId, RuntimeError> {
        let (sandbox, uid, request) = (sandbox.clone(), PodUid::of(&sandbox_request.pod), request.clone());
        self.act(Operation::CreateContainer, move |state, now| {
            let name = &request.container.name;
            let same = |it: &&FakeContainer| it.uid == uid && it.container.name == *name;
            if let Some(taken) =
                state.containers.values().filter(same).find(|it| it.container.attempt == request.attempt)
            {
                let words = format!("name \"x\" is reserved for \"{}\"", taken.container.id);
                return Err(refused(Operation::CreateContainer, &words));
            }
            if !state.sandboxes.get(sandbox.as_str()).is_some_and(|it| it.sandbox.ready) {
                return Err(refused(Operation::CreateContainer, "sandbox is not ready"));
            }
            let id = state.id("container");
            let container = ObservedContainer {
                id: id.as_str().into(),
                sandbox,
                name: name.clone(),
                attempt: request.attempt,
                hash: Some(request.hash),
                created_at: now,
                state: ContainerState::Created,
                image: request.image_ref.clone(),
                image_id: request.image_ref.clone(),
                log_path: Default::default(),
            };
            let ignores_term = state.roll(4) == 0;
            state.containers.insert(id.clone(), FakeContainer { uid, ignores_term, container });
            Ok(id.as_str().into())
        })
        .await
    }

    async fn start_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let id = id.to_string();
        let started = id.clone();
        let life = self
            .act(Operation::StartContainer, move |state, now| {
                let Some(it) = state.containers.get(&id) else {
                    return Err(refused(Operation::StartContainer, "no such container"));
                };
                let (uid, name) = (it.uid.clone(), it.container.name.clone());
                if it.container.state != ContainerState::Created {
                    state.broken.push(format!("{uid}/{name}: {id} started twice"));
                    return Err(refused(Operation::StartContainer, "not in state created"));
                }
                let sandbox = it.container.sandbox.to_string();
                if !state.sandboxes.get(&sandbox).is_some_and(|it| it.sandbox.ready) {
                    return Err(refused(Operation::StartContainer, "sandbox is not ready"));
                }
                let twin = |it: &FakeContainer| {
                    it.uid == uid && it.container.name == name && it.container.is_running()
                };
                if state.containers.values().any(twin) {
                    state.broken.push(format!("{uid}/{name}: two instances run at once"));
                }
                let of_pod = |it: &FakeContainer| it.uid == uid && it.container.name == name;
                let done = |it: &FakeContainer| {
                    of_pod(it)
                        && name.starts_with("once")
                        && matches!(it.container.state, ContainerState::Exited(_))
                };
                if state.containers.values().any(done) {
                    state.broken.push(format!("{uid}/{name}: runs again though it may run only once"));
                }
                *state.started.entry((uid, name)).or_default() += 1;
                let longest = state.temper.longest_life_ms;
                let life = (longest > 0 && !state.calm).then(|| (state.roll(longest), state.roll(2)));
                if let Some(it) = state.containers.get_mut(&id) {
                    it.container.state = ContainerState::Running { started_at: now };
                }
                Ok(life)
            })
            .await;
        let uid = self.state.lock().containers.get(&started).map(|it| it.uid.clone());
        if let Some(uid) = uid {
            self.tell(&uid, &started, false);
        }
        if let Some((after, code)) = life? {
            let runtime = self.clone();
            let life = async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                let reason = if code == 0 { "Completed" } else { "Error" };
                runtime.end(&started, i32::try_from(code).unwrap_or(0), reason);
            };
            drop(self.scope.spawn_guarded("life", life));
        }
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<(), RuntimeError> {
        let id = id.to_string();
        let stopped = id.clone();
        let ignores = self
            .act(Operation::StopContainer, move |state, _| {
                Ok(state.containers.get(&id).map(|it| (it.ignores_term, it.container.is_running())))
            })
            .await?;
        match ignores {
            Some((true, true)) => tokio::time::sleep(grace).await,
            Some((false, true)) => tokio::time::sleep(grace.min(Duration::from_millis(300))).await,
            _ => {}
        }
        self.stopped(&stopped, 143);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let id = id.to_string();
        self.act(Operation::RemoveContainer, move |state, _| {
            if state.containers.get(&id).is_some_and(|it| it.container.is_running()) {
                state.broken.push(format!("{id}: removed while it ran"));
            }
            state.containers.remove(&id);
            Ok(())
        })
        .await
    }

    async fn exec(&self, _: &ContainerId, _: &[String], _: Duration) -> Result<ExecOutput, RuntimeError> {
        self.act(Operation::ExecSync, |_, _| Ok(ExecOutput::default())).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        let name = name.to_string();
        self.act(Operation::ImageStatus, move |state, _| {
            Ok(state.images.get(&name).or_else(|| state.images.values().find(|it| it.id == name)).cloned())
        })
        .await
    }

    async fn pull_image(&self, name: &str, _: Option<RegistryAuth>) -> Result<String, RuntimeError> {
        let name = name.to_string();
        self.act(Operation::PullImage, move |state, _| {
            let id = format!("sha256:{name}");
            state.images.insert(name, Image { id: id.clone(), ..Image::default() });
            Ok(id)
        })
        .await
    }

    async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.state.lock().images.values().cloned().collect())
    }

    async fn remove_image(&self, id: &str) -> Result<(), RuntimeError> {
        self.state.lock().images.retain(|_, it| it.id != id);
        Ok(())
    }
}
