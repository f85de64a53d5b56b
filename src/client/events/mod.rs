//! Tells people what happens to their objects, as core/v1 Events: `kubectl describe` and `kubectl get events`
//! show them as upstream's.
//!
//! ```text
//!   caller ──try_send──▶ bounded queue ──▶ Correlator (pure) ──▶ create, or patch of a repeat
//!             full: dropped and counted
//! ```

mod correlate;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use lifecycle::{Backoff, Scope};
use tokio::sync::mpsc;
use tracing::debug;

use crate::{Client, ErrorKind, kind_of};
use correlate::{Correlator, Occurrence, Verdict};

/// More than a busy node makes in a minute. Beyond it the newest are dropped.
const QUEUE: usize = 1000;
const RETRIES: u32 = 5;
const BACKOFF: Backoff =
    Backoff::doubling(std::time::Duration::from_millis(500), std::time::Duration::from_secs(10));

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

impl EventType {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes Events in the background. Never blocks its caller. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<(Occurrence, Timestamp)>,
    dropped: Arc<AtomicU64>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// `component` is the reporting component (`kubelet`, `deployment-controller`), `host` its node.
    #[must_use]
    pub fn new(client: Client, component: &str, host: Option<&str>, scope: &Scope) -> Self {
        let (queue, received) = mpsc::channel(QUEUE);
        let writer = Writer {
            client,
            component: component.to_string(),
            host: host.unwrap_or_default().to_string(),
            correlator: Correlator::default(),
        };
        let token = scope.token();
        scope.spawn("events", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = writer.run(received) => {}
            }
        });
        Self { queue, dropped: Arc::default() }
    }

    /// `reason` is one CamelCase word for machines, `note` a sentence for people, `action` what was
    /// being done (may be empty).
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        action: &str,
        note: impl Into<String>,
    ) {
        let occurrence = Occurrence {
            about: about.clone(),
            kind,
            reason: reason.to_string(),
            action: action.to_string(),
            note: note.into(),
        };
        if self.queue.try_send((occurrence, Timestamp::now())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events lost because the API was slower than we are talkative.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

struct Writer {
    client: Client,
    component: String,
    host: String,
    correlator: Correlator,
}

impl Writer {
    async fn run(mut self, mut received: mpsc::Receiver<(Occurrence, Timestamp)>) {
        while let Some((occurrence, now)) = received.recv().await {
            match self.correlator.on(occurrence, now) {
                Verdict::Drop => {}
                Verdict::Create { occurrence, name } => self.create(&occurrence, &name, now).await,
                Verdict::Repeat { occurrence, name, first, count } => {
                    self.repeat(&occurrence, &name, (first, now), count).await;
                }
            }
        }
    }

    async fn create(&self, occurrence: &Occurrence, name: &str, now: Timestamp) {
        self.write(self.event(occurrence, name, (now, now), 1)).await;
    }

    async fn repeat(
        &self,
        occurrence: &Occurrence,
        name: &str,
        (first, now): (Timestamp, Timestamp),
        count: i32,
    ) {
        let patch = serde_json::json!({
            "count": count,
            "lastTimestamp": Time(now),
            "message": occurrence.note,
        });
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace(&occurrence.about));
        match api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {}
            // It has expired: upstream writes it again with its count.
            Err(error) if kind_of(&error) == ErrorKind::NotFound => {
                self.write(self.event(occurrence, name, (first, now), count)).await;
            }
            Err(error) => {
                debug!(event = name, error = &error as &dyn std::error::Error, "event not updated");
            }
        }
    }

    async fn write(&self, event: Event) {
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        for failures in 1..=RETRIES {
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => return,
                Err(error) if kind_of(&error) == ErrorKind::Unavailable && failures < RETRIES => {
                    tokio::time::sleep(BACKOFF.delay(failures)).await;
                }
                Err(error) => {
                    debug!(event = ?event.metadata.name, error = &error as &dyn std::error::Error, "event not written");
                    return;
                }
            }
        }
    }

    fn event(
        &self,
        occurrence: &Occurrence,
        name: &str,
        (first, last): (Timestamp, Timestamp),
        count: i32,
    ) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_string()),
                namespace: Some(namespace(&occurrence.about).to_string()),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.about.clone(),
            type_: Some(occurrence.kind.as_str().to_string()),
            reason: Some(occurrence.reason.clone()),
            action: Some(occurrence.action.clone()).filter(|action| !action.is_empty()),
            message: Some(occurrence.note.clone()),
            count: Some(count),
            first_timestamp: Some(Time(first)),
            last_timestamp: Some(Time(last)),
            source: Some(EventSource {
                component: Some(self.component.clone()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            reporting_component: Some(self.component.clone()),
            reporting_instance: Some(self.host.clone()),
            ..Event::default()
        }
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace(about: &ObjectReference) -> &str {
    about.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}
