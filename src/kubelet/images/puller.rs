//! Answers "may this container be created from its image?", and pulls.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, Pod};
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tracing::warn;

use super::name;
use crate::{
    clock::Clock,
    events::{self, EventSink, EventType},
    pods::PodUid,
    runtime::{Image, RegistryAuth, Runtime, RuntimeError},
    status::Waiting,
    worker::{backoff::Backoff, ports::Waker},
};

/// How soon a failed pull is looked at again, to show that it is backing off.
const SHOW_BACK_OFF: Duration = Duration::from_secs(5);

/// `imagePullSecrets` and whatever else has credentials, best first.
pub trait Credentials: Send + Sync + 'static {
    fn for_image<'a>(&'a self, pod: &'a Pod, image: &'a str) -> BoxFuture<'a, Vec<RegistryAuth>>;
}

#[derive(Debug)]
pub struct NoCredentials;

impl Credentials for NoCredentials {
    fn for_image<'a>(&'a self, _: &'a Pod, _: &'a str) -> BoxFuture<'a, Vec<RegistryAuth>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ensured {
    Present(Image),
    /// The pod is woken when it is done.
    Pulling,
    /// Not now: what to show, and when to ask again.
    Refused {
        why: Waiting,
        retry: Duration,
    },
}

pub struct Images<R> {
    runtime: Arc<R>,
    credentials: Arc<dyn Credentials>,
    events: Arc<dyn EventSink>,
    clock: Clock,
    waker: Waker,
    scope: Scope,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

impl<R> std::fmt::Debug for Images<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

#[derive(Default)]
struct State {
    /// Who waits for each pull that is under way.
    flights: HashMap<Flight, Vec<Asker>>,
    /// What came out, until the container that asked is looked at again.
    landed: HashMap<Asker, Result<(), Failure>>,
    backoff: HashMap<PodUid, Backoff>,
    /// Why the last pull failed, to be told while it backs off.
    errors: HashMap<(PodUid, String), String>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Flight {
    image: String,
    auths: Vec<(String, String, String)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Asker {
    uid: PodUid,
    container: String,
}

#[derive(Clone)]
struct Failure {
    reason: &'static str,
    message: String,
}

/// What `Images` is made from.
pub struct Parts<R> {
    pub runtime: Arc<R>,
    pub credentials: Arc<dyn Credentials>,
    pub events: Arc<dyn EventSink>,
    pub clock: Clock,
    pub waker: Waker,
    pub parallel: usize,
}

impl<R> std::fmt::Debug for Parts<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("parallel", &self.parallel).finish_non_exhaustive()
    }
}

impl<R: Runtime> Images<R> {
    pub fn new(parts: Parts<R>, scope: &Scope) -> Arc<Images<R>> {
        Arc::new(Images {
            runtime: parts.runtime,
            credentials: parts.credentials,
            events: parts.events,
            clock: parts.clock,
            waker: parts.waker,
            scope: scope.child("images"),
            permits: Arc::new(Semaphore::new(parts.parallel.max(1))),
            state: Mutex::default(),
        })
    }

    /// May `container` be created now? Never waits for a pull.
    pub async fn ensure(self: &Arc<Self>, pod: &Arc<Pod>, container: &Container) -> Ensured {
        let asked = container.image.as_deref().unwrap_or_default();
        let about = events::of_container(pod, container);
        let Some(image) = name::with_tag(asked) else {
            let message = format!(
                "Failed to apply default image tag \"{asked}\": couldn't parse image name \"{asked}\": invalid reference format"
            );
            self.events.event(&about, EventType::Warning, events::INSPECT_FAILED, message.clone());
            return refused("InvalidImageName", message, Duration::from_secs(60));
        };
        let asker = Asker { uid: PodUid::of(pod), container: container.name.clone() };
        let landed = self.state.lock().landed.remove(&asker);
        if let Some(Err(failure)) = landed {
            return refused(failure.reason, failure.message, SHOW_BACK_OFF);
        }
        let present = match self.runtime.image(&image).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image \"{image}\": {}", error.shown());
                self.events.event(&about, EventType::Warning, events::INSPECT_FAILED, message.clone());
                return refused("ImageInspectError", message, SHOW_BACK_OFF);
            }
        };
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| name::default_policy(asked));
        match (policy, present, landed) {
            (_, Some(present), Some(Ok(()))) => Ensured::Present(present),
            ("Never" | "IfNotPresent", Some(present), _) => {
                let message = format!(
                    "Container image \"{asked}\" already present on machine and can be accessed by the pod"
                );
                self.events.event(&about, EventType::Normal, events::PULLED, message);
                Ensured::Present(present)
            }
            ("Never", None, _) => {
                let message = format!("Container image \"{asked}\" is not present with pull policy of Never");
                self.events.event(&about, EventType::Warning, events::ERR_IMAGE_NEVER_PULL, message.clone());
                refused("ErrImageNeverPull", message, Duration::from_secs(10))
            }
            _ => self.pull(pod, container, asker, image).await,
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &PodUid) {
        let mut state = self.state.lock();
        state.backoff.remove(uid);
        state.errors.retain(|(of, _), _| of != uid);
        state.landed.retain(|asker, _| asker.uid != *uid);
        // The pull goes on: others may wait for it, or ask for the image soon.
        for askers in state.flights.values_mut() {
            askers.retain(|asker| asker.uid != *uid);
        }
    }

    async fn pull(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        container: &Container,
        asker: Asker,
        image: String,
    ) -> Ensured {
        let about = events::of_container(pod, container);
        let asked = container.image.clone().unwrap_or_default();
        if let Some(refused) = self.backing_off(&asker.uid, &asked) {
            self.events.event(
                &about,
                EventType::Normal,
                events::BACK_OFF,
                format!("Back-off pulling image \"{asked}\""),
            );
            return refused;
        }
        let auths = self.credentials.for_image(pod, &image).await;
        let flight = Flight {
            image,
            auths: auths
                .iter()
                .map(|it| (it.server.clone(), it.username.clone(), it.password.clone()))
                .collect(),
        };
        let first = {
            let mut state = self.state.lock();
            let first = !state.flights.contains_key(&flight);
            let askers = state.flights.entry(flight.clone()).or_default();
            if !askers.contains(&asker) {
                askers.push(asker);
            }
            first
        };
        if first {
            let landing = Landing { images: self.clone(), flight: Some(flight), asked };
            let (pod, container) = (pod.clone(), container.clone());
            let fly = async move { landing.fly(auths, &pod, &container).await };
            // Nobody waits for the result: whoever asked is woken.
            drop(self.scope.spawn_guarded("pull", fly));
        }
        Ensured::Pulling
    }

    /// `None` when the agent ends first.
    async fn fly(
        &self,
        flight: &Flight,
        auths: Vec<RegistryAuth>,
        pod: &Pod,
        container: &Container,
    ) -> Option<Result<(), Failure>> {
        let about = events::of_container(pod, container);
        let asked = container.image.as_deref().unwrap_or_default();
        let began = tokio::time::Instant::now();
        let permit = self.permits.acquire().await;
        self.events.event(&about, EventType::Normal, events::PULLING, format!("Pulling image \"{asked}\""));
        let pulling = tokio::time::Instant::now();
        let result = tokio::select! {
            result = self.try_each(&flight.image, auths) => result,
            () = self.scope.cancelled() => return None,
        };
        drop(permit);
        Some(match result {
            Ok(reference) => {
                let size =
                    self.runtime.image(&reference).await.ok().flatten().map_or(0, |image| image.size_bytes);
                let message = format!(
                    "Successfully pulled image \"{asked}\" in {} ({} including waiting). Image size: {size} bytes.",
                    api::duration::format(round_ms(pulling.elapsed())),
                    api::duration::format(round_ms(began.elapsed())),
                );
                self.events.event(&about, EventType::Normal, events::PULLED, message);
                Ok(())
            }
            Err(error) => {
                warn!(image = asked, error = &error as &dyn std::error::Error, "image pull failed");
                let message = format!("Failed to pull image \"{asked}\": {}", error.shown());
                self.events.event(&about, EventType::Warning, events::FAILED, message);
                self.events.event(&about, EventType::Warning, events::FAILED, "Error: ErrImagePull".into());
                Err(Failure { reason: "ErrImagePull", message: error.shown() })
            }
        })
    }

    /// With each credential in turn; without any if there is none.
    async fn try_each(&self, image: &str, auths: Vec<RegistryAuth>) -> Result<String, RuntimeError> {
        let mut auths = auths.into_iter();
        let mut result = self.runtime.pull_image(image, auths.next()).await;
        for auth in auths {
            if result.is_ok() {
                break;
            }
            result = self.runtime.pull_image(image, Some(auth)).await;
        }
        result
    }

    fn land(&self, flight: &Flight, asked: &str, result: &Result<(), Failure>) {
        let now = self.clock.now();
        let askers = {
            let mut state = self.state.lock();
            let askers = state.flights.remove(flight).unwrap_or_default();
            for asker in &askers {
                state.landed.insert(asker.clone(), result.clone());
                let key = (asker.uid.clone(), asked.to_string());
                match result {
                    Ok(()) => {
                        state.errors.remove(&key);
                    }
                    Err(failure) => {
                        state.errors.insert(key, format!("{}: {}", failure.reason, failure.message));
                        state.backoff.entry(asker.uid.clone()).or_default().started(asked, now, now);
                    }
                }
            }
            askers
        };
        for asker in askers {
            self.waker.wake(&asker.uid);
        }
    }

    fn backing_off(&self, uid: &PodUid, asked: &str) -> Option<Ensured> {
        let state = self.state.lock();
        let now = self.clock.now();
        let backoff = state.backoff.get(uid)?;
        let wait = backoff.check_since_start(asked, now)?;
        let error = state.errors.get(&(uid.clone(), asked.to_string()));
        let message = match error {
            Some(error) => format!("Back-off pulling image \"{asked}\": {error}"),
            None => format!("Back-off pulling image \"{asked}\""),
        };
        let retry = Duration::try_from(wait.until.duration_since(now)).unwrap_or(SHOW_BACK_OFF);
        Some(refused("ImagePullBackOff", message, retry))
    }
}

/// A pull that lands, however it ends: nobody waits for ever for one that panicked.
struct Landing<R: Runtime> {
    images: Arc<Images<R>>,
    flight: Option<Flight>,
    asked: String,
}

impl<R: Runtime> Landing<R> {
    async fn fly(mut self, auths: Vec<RegistryAuth>, pod: &Pod, container: &Container) {
        let Some(flight) = self.flight.as_ref() else { return };
        let result = self.images.fly(flight, auths, pod, container).await;
        if let (Some(result), Some(flight)) = (result, self.flight.take()) {
            self.images.land(&flight, &self.asked, &result);
        }
    }
}

impl<R: Runtime> Drop for Landing<R> {
    fn drop(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        let message = "the pull was broken off".to_string();
        self.images.land(&flight, &self.asked, &Err(Failure { reason: "ErrImagePull", message }));
    }
}

fn refused(reason: &str, message: String, retry: Duration) -> Ensured {
    Ensured::Refused { why: Waiting { reason: reason.into(), message }, retry }
}

fn round_ms(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "puller_tests.rs"]
mod tests;
