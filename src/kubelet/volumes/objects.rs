//! The ConfigMaps and Secrets that pods here refer to, each watched on its own for as long as a pod wants it.
//!
//! Single objects, since a node may read no others: the API server's node authorizer knows which pods refer to what.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use client::{Object, ObjectKey, Selector, Store};
use k8s_openapi::{
    ByteString, NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::Api;
use lifecycle::Scope;
use parking_lot::Mutex;

use crate::{
    env::{ObjectKind, Objects, Reference},
    pods::PodUid,
    worker::ports::Waker,
};

/// A watch that does not begin sooner is asked for its reason.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why an object could not be looked up. That it is not there is no error.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error("couldn't get {kind} {namespace}/{name}, no kubeClient defined")]
    Standalone { kind: &'static str, namespace: String, name: String },
    /// The API's own words.
    #[error("{0}")]
    Refused(String),
    #[error("failed to sync {0} cache: timed out waiting for the condition")]
    TimedOut(&'static str),
}

type Key = (ObjectKind, String, String);

/// What is watched, and for whom. Clones share it.
#[derive(Clone)]
pub(super) struct Watched {
    client: Option<kube::Client>,
    scope: Scope,
    waker: Waker,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("objects", &self.entries.lock().len()).finish_non_exhaustive()
    }
}

struct Entry {
    pods: HashMap<PodUid, Given>,
    store: AnyStore,
    /// Ends the watch.
    scope: Scope,
}

/// What a pod was told of an object last: of that, it is not told again.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Given {
    /// It has not asked, or waits for its first answer.
    Nothing,
    /// This version, or that there is none.
    Version(Option<String>),
    /// That nobody knows.
    Failure,
}

#[derive(Clone)]
enum AnyStore {
    ConfigMap(Store<ConfigMap>),
    Secret(Store<Secret>),
}

/// An object as its readers want it.
#[derive(Default)]
struct Content {
    data: BTreeMap<String, Vec<u8>>,
    version: Option<String>,
}

impl Watched {
    pub(super) fn new(client: Option<kube::Client>, waker: Waker, scope: &Scope) -> Watched {
        Watched { client, waker, scope: scope.child("watched objects"), entries: Arc::default() }
    }

    /// The pod wants exactly these. What nobody wants any more is watched no more.
    pub(super) fn hold(&self, uid: &PodUid, namespace: &str, wanted: &BTreeSet<Reference>) {
        let mut entries = self.entries.lock();
        let key = |it: &Reference| (it.kind, namespace.to_string(), it.name.clone());
        let wanted: HashSet<Key> = wanted.iter().map(key).collect();
        entries.retain(|key, entry| {
            if !wanted.contains(key) {
                entry.pods.remove(uid);
            }
            if entry.pods.is_empty() {
                entry.scope.cancel();
            }
            !entry.pods.is_empty()
        });
        let Some(client) = &self.client else { return };
        for key in wanted {
            let entry = entries.entry(key.clone()).or_insert_with(|| self.start(client, &key));
            entry.pods.entry(uid.clone()).or_insert(Given::Nothing);
        }
    }

    fn note(&self, uid: &PodUid, key: &Key, given: Given) {
        if let Some(of_pod) = self.entries.lock().get_mut(key).and_then(|entry| entry.pods.get_mut(uid)) {
            *of_pod = given;
        }
    }

    pub(super) fn release(&self, uid: &PodUid) {
        self.hold(uid, "", &BTreeSet::new());
    }

    /// The objects as they are now; those that are not there are left out. Call [`Watched::hold`] before.
    pub(super) async fn look_up(
        &self,
        uid: &PodUid,
        namespace: &str,
        references: &BTreeSet<Reference>,
    ) -> Result<Objects, LookupError> {
        let mut found = Objects::new();
        for reference in references {
            if let Some(data) = self.one(uid, namespace, reference).await? {
                found.insert(reference.clone(), data);
            }
        }
        Ok(found)
    }

    async fn one(
        &self,
        uid: &PodUid,
        namespace: &str,
        reference: &Reference,
    ) -> Result<Option<BTreeMap<String, Vec<u8>>>, LookupError> {
        let Some(client) = &self.client else {
            return Err(LookupError::Standalone {
                kind: reference.kind.singular(),
                namespace: namespace.into(),
                name: reference.name.clone(),
            });
        };
        let key = (reference.kind, namespace.to_string(), reference.name.clone());
        let watched = self.entries.lock().get(&key).map(|entry| entry.store.clone());
        let content = match watched {
            Some(store) if tokio::time::timeout(PATIENCE, store.wait_synced()).await.is_ok() => {
                let content = store.content(namespace, &reference.name);
                let version = content.as_ref().and_then(|content| content.version.clone());
                self.note(uid, &key, Given::Version(version));
                content
            }
            _ => {
                self.note(uid, &key, Given::Failure);
                fetch(client, namespace, reference).await?
            }
        };
        Ok(content.map(|content| content.data))
    }

    fn start(&self, client: &kube::Client, key: &Key) -> Entry {
        let (kind, namespace, name) = key.clone();
        let scope = self.scope.child("watched object");
        let selector = Selector::fields(format!("metadata.name={name}")).in_namespace(namespace.as_str());
        let store = match kind {
            ObjectKind::ConfigMap => AnyStore::ConfigMap(client::reflect(client, selector, &scope)),
            ObjectKind::Secret => AnyStore::Secret(client::reflect(client, selector, &scope)),
        };
        let follow = Follow { key: key.clone(), entries: self.entries.clone(), waker: self.waker.clone() };
        let (watched, token) = (store.clone(), scope.token());
        scope.spawn("watched object", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = async {
                    match watched {
                        AnyStore::ConfigMap(store) => follow.run(&store).await,
                        AnyStore::Secret(store) => follow.run(&store).await,
                    }
                } => {}
            }
        });
        Entry { pods: HashMap::new(), store, scope }
    }
}

/// Tells pods of changes of one object.
struct Follow {
    key: Key,
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
    waker: Waker,
}

impl Follow {
    async fn run<K: Read>(&self, store: &Store<K>) {
        let mut changes = store.changes();
        store.wait_synced().await;
        let (_, namespace, name) = &self.key;
        loop {
            let object = store.get(&ObjectKey::namespaced(namespace, name));
            let version = object.as_ref().and_then(|it| it.meta().resource_version.clone());
            let known = [Given::Nothing, Given::Version(version)];
            let pods: Vec<PodUid> = match self.entries.lock().get(&self.key) {
                Some(entry) => {
                    entry.pods.iter().filter(|it| !known.contains(it.1)).map(|it| it.0.clone()).collect()
                }
                None => return,
            };
            pods.iter().for_each(|uid| self.waker.wake(uid));
            changes.next().await;
        }
    }
}

impl AnyStore {
    async fn wait_synced(&self) {
        match self {
            AnyStore::ConfigMap(store) => store.wait_synced().await,
            AnyStore::Secret(store) => store.wait_synced().await,
        }
    }

    fn content(&self, namespace: &str, name: &str) -> Option<Content> {
        let key = ObjectKey::namespaced(namespace, name);
        match self {
            AnyStore::ConfigMap(store) => store.get(&key).map(|it| it.content()),
            AnyStore::Secret(store) => store.get(&key).map(|it| it.content()),
        }
    }
}

/// Asks for the object itself: for the reason that the watch cannot tell.
async fn fetch(
    client: &kube::Client,
    namespace: &str,
    reference: &Reference,
) -> Result<Option<Content>, LookupError> {
    let get = async {
        match reference.kind {
            ObjectKind::ConfigMap => get::<ConfigMap>(client, namespace, &reference.name).await,
            ObjectKind::Secret => get::<Secret>(client, namespace, &reference.name).await,
        }
    };
    match tokio::time::timeout(PATIENCE, get).await {
        Ok(Ok(content)) => Ok(content),
        Ok(Err(kube::Error::Api(status))) => Err(LookupError::Refused(status.message.clone())),
        Ok(Err(_)) | Err(_) => Err(LookupError::TimedOut(reference.kind.singular())),
    }
}

async fn get<K: Read>(
    client: &kube::Client,
    namespace: &str,
    name: &str,
) -> Result<Option<Content>, kube::Error> {
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    Ok(api.get_opt(name).await?.map(|object| object.content()))
}

/// What both kinds have in common.
trait Read: Object + kube::Resource<Scope = NamespaceResourceScope> {
    fn content(&self) -> Content;
}

impl Read for ConfigMap {
    fn content(&self) -> Content {
        let text = self.data.iter().flatten().map(|(key, text)| (key.clone(), text.clone().into_bytes()));
        let binary =
            self.binary_data.iter().flatten().map(|(key, ByteString(data))| (key.clone(), data.clone()));
        Content { data: text.chain(binary).collect(), version: self.metadata.resource_version.clone() }
    }
}

impl Read for Secret {
    fn content(&self) -> Content {
        let data = self.data.iter().flatten().map(|(key, ByteString(data))| (key.clone(), data.clone()));
        Content { data: data.collect(), version: self.metadata.resource_version.clone() }
    }
}
