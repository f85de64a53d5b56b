//! Keeps a store in step with the API: list, watch from there, list again when the watch cannot go on.
//!
//! ```text
//!   ┌─▶ list ──ok──▶ replace ──▶ watch from the list's version ──▶ apply / remove / bookmark
//!   │    │                        ▲   │ ended, cut, 5xx: again from the last version seen
//!   │    └─ failed: back off ─┐   └───┘
//!   └─────────────────────────┴── refused (410 and other 4xx), error event: list again, store untouched
//! ```

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use http::{HeaderValue, header::ACCEPT};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::{
    api::{ListParams, WatchParams},
    core::Request,
};
use lifecycle::Backoff;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::{
    Kept, MetaObject, Selector,
    events::{Event, Events, WatchError},
    store::{Arrived, Store, Version},
};
use crate::{Client, ObjectKey};

/// An API server that is starting answers soon; one that is gone is asked every half minute.
const BACKOFF: Backoff =
    Backoff { base: Duration::from_millis(200), max: Duration::from_secs(30), factor: 2.0, jitter: 0.5 };
const PAGE: u32 = 500;
/// A watch that ends sooner than this without an event counts as a failure.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// How much longer than asked a silent watch is waited for: then the server has lost it.
const WATCH_MARGIN: Duration = Duration::from_secs(30);

const METADATA_LIST: HeaderValue = HeaderValue::from_static(
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
);
const METADATA: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");

/// What to reflect.
pub(super) struct Target {
    /// The collection's URL path.
    pub(super) path: String,
    /// The plural name, for the log.
    pub(super) resource: String,
    pub(super) metadata_only: bool,
    pub(super) selector: Selector,
}

/// What comes over the wire.
pub(super) trait Wire: DeserializeOwned + Clone + Send + 'static {
    fn metadata(&mut self) -> &mut ObjectMeta;
}

impl Wire for MetaObject {
    fn metadata(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<K> Wire for K
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned + Clone + Send + 'static,
{
    fn metadata(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

/// Runs for ever; the caller drops it to stop.
pub(super) async fn run<W: Wire, T: Kept>(
    client: &Client,
    target: &Target,
    keep: &(impl Fn(W) -> T + Send + Sync),
    store: &Store<T>,
) {
    let mut failures = 0;
    loop {
        match list(client, target, keep).await {
            Ok(listed) => {
                store.replace(listed.objects, &listed.unreadable);
                store.saw(&listed.resource_version);
                let progressed = watch(client, target, keep, store, listed.resource_version).await;
                // A server that lists but never watches must not be hammered either.
                failures = if progressed { 0 } else { failures + 1 };
            }
            Err(error) => {
                failures += 1;
                warn!(resource = %target.resource, failures, error = &error as &dyn std::error::Error, "list failed");
            }
        }
        sleep(BACKOFF.jittered(failures.max(1), seed())).await;
    }
}

struct Listed<T> {
    objects: Vec<Arrived<T>>,
    unreadable: Vec<ObjectKey>,
    resource_version: String,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

async fn list<W: Wire, T>(
    client: &Client,
    target: &Target,
    keep: &(impl Fn(W) -> T + Sync),
) -> Result<Listed<T>, kube::Error> {
    let mut listed = Listed { objects: Vec::new(), unreadable: Vec::new(), resource_version: String::new() };
    let mut params = ListParams {
        label_selector: target.selector.labels.clone(),
        field_selector: target.selector.fields.clone(),
        limit: Some(PAGE),
        ..ListParams::default()
    };
    loop {
        let mut request =
            Request::new(target.path.as_str()).list(&params).map_err(kube::Error::BuildRequest)?;
        if target.metadata_only {
            request.headers_mut().insert(ACCEPT, METADATA_LIST);
        }
        let text = client.request_text(request).await?;
        let page: Page<'_> = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
        for item in page.items.unwrap_or_default() {
            match serde_json::from_str::<W>(item.get()) {
                Ok(object) => listed.objects.push(arrived(object, keep)),
                // One unreadable object must not hide the others, nor look deleted itself.
                Err(error) => {
                    let key = serde_json::from_str::<MetaObject>(item.get())
                        .map(|object| ObjectKey::of(&object.metadata));
                    warn!(resource = %target.resource, object = ?key.as_ref().ok(), error = &error as &dyn std::error::Error, "object cannot be read");
                    listed.unreadable.extend(key);
                }
            }
        }
        listed.resource_version = page.metadata.resource_version.unwrap_or_default();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(listed),
        }
    }
}

/// Follows changes from `version` until the server will not go on from there. True if it went on at all.
async fn watch<W: Wire, T: Kept>(
    client: &Client,
    target: &Target,
    keep: &(impl Fn(W) -> T + Sync),
    store: &Store<T>,
    mut version: String,
) -> bool {
    let mut failures = 0_u32;
    let mut progressed = false;
    loop {
        if failures > 0 {
            sleep(BACKOFF.jittered(failures, seed())).await;
        }
        let started = Instant::now();
        let before = version.clone();
        match watch_once(client, target, keep, store, &mut version).await {
            Ended::Relist => return progressed || version != before || started.elapsed() >= SHORT_WATCH,
            Ended::Resume if version != before || started.elapsed() >= SHORT_WATCH => {
                failures = 0;
                progressed = true;
            }
            Ended::Resume => failures += 1,
        }
    }
}

enum Ended {
    Resume,
    Relist,
}

async fn watch_once<W: Wire, T: Kept>(
    client: &Client,
    target: &Target,
    keep: &(impl Fn(W) -> T + Sync),
    store: &Store<T>,
    version: &mut String,
) -> Ended {
    // Spread, so that the watches of many clients do not end together.
    let asked = 300 + u32::try_from(seed() % 300).unwrap_or(0);
    let mut events = match open(client, target, version, asked).await {
        Ok(events) => events,
        Err(error) => return after(target, &error),
    };
    let patience = Duration::from_secs(u64::from(asked)) + WATCH_MARGIN;
    loop {
        let event = match timeout(patience, events.next::<W>()).await {
            Ok(Ok(Some(event))) => event,
            Ok(Ok(None)) | Err(_) => return Ended::Resume,
            Ok(Err(error)) => return after(target, &error),
        };
        let seen = match event {
            Event::Applied(object) => {
                let arrived = arrived(object, keep);
                let seen = arrived.version.resource_version.clone();
                store.apply(arrived);
                seen
            }
            Event::Deleted(mut object) => {
                let meta = object.metadata();
                store.remove(&ObjectKey::of(meta));
                meta.resource_version.take()
            }
            Event::Bookmark(seen) => Some(seen),
            Event::Unreadable { version, error } => {
                warn!(resource = %target.resource, error = &error as &dyn std::error::Error, "watch event cannot be read");
                version
            }
            Event::Failed(status) => {
                debug!(resource = %target.resource, code = status.code, message = %status.message, "watch ended by the server");
                return Ended::Relist;
            }
        };
        if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
            store.saw(&seen);
            *version = seen;
        }
    }
}

async fn open(client: &Client, target: &Target, version: &str, seconds: u32) -> Result<Events, WatchError> {
    let params = WatchParams {
        label_selector: target.selector.labels.clone(),
        field_selector: target.selector.fields.clone(),
        bookmarks: true,
        timeout: Some(seconds),
        send_initial_events: false,
    };
    let mut request = Request::new(target.path.as_str())
        .watch(&params, version)
        .map_err(|error| WatchError::Start(kube::Error::BuildRequest(error)))?;
    if target.metadata_only {
        request.headers_mut().insert(ACCEPT, METADATA);
    }
    Events::open(client, request).await
}

/// What to do after a watch failed. What the server answered decides; silence says nothing about the version.
fn after(target: &Target, error: &WatchError) -> Ended {
    debug!(resource = %target.resource, error = error as &dyn std::error::Error, "watch failed");
    match error {
        // 504 is how a server says that it does not know so new a version.
        WatchError::Refused(status) if status.code == 429 || (status.code >= 500 && status.code != 504) => {
            Ended::Resume
        }
        WatchError::Refused(_) => Ended::Relist,
        WatchError::Start(_) | WatchError::Cut(_) => Ended::Resume,
    }
}

fn arrived<W: Wire, T>(mut object: W, keep: &impl Fn(W) -> T) -> Arrived<T> {
    let meta = object.metadata();
    // A third of an object's memory, and nobody reads it here.
    meta.managed_fields = None;
    let key = ObjectKey::of(meta);
    let version = Version { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
    Arrived { key, version, object: keep(object) }
}

/// A different number each time; for spreading, not for secrets.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
