//! Two loops over namespaces, each under its own identity.

use std::sync::Arc;

use api::references::object_reference;
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Selector, Store, WorkQueue, kind_of};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, ServiceAccount};
use kube::{Api, api::PostParams};
use lifecycle::Scope;

use super::plan::{ACCOUNT, ROOT_CA, Write, account, root_ca, takes_objects};
use crate::{
    ClientFor, Config,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

struct Accounts {
    client: Client,
    namespaces: Store<Namespace>,
    accounts: Store<ServiceAccount>,
}

struct RootCa {
    client: Client,
    pem: String,
    namespaces: Store<Namespace>,
    maps: Store<ConfigMap>,
}

pub(crate) fn start(config: &Config, clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let namespaces = cache.store::<Namespace>();
    let accounts = cache.store::<ServiceAccount>();
    let client = clients.client(names::SERVICE_ACCOUNT);
    let recorder = Recorder::new(client.clone(), names::SERVICE_ACCOUNT, None, scope);
    let queue = WorkQueue::default();
    work::feed(scope, &queue, namespaces.changes(), itself);
    work::feed(scope, &queue, accounts.changes(), |key| home(&key, ACCOUNT));
    let reconciler = Arc::new(Accounts { client, namespaces: namespaces.clone(), accounts });
    work::start(scope, &reconciler, &queue, 1, &recorder);

    let Some(pem) = config.root_ca_pem.clone() else { return };
    // Only this one ConfigMap of each namespace: the others may be many and large.
    let maps = cache.store_with::<ConfigMap>(Selector::fields(format!("metadata.name={ROOT_CA}")));
    let client = clients.client(names::ROOT_CA);
    let recorder = Recorder::new(client.clone(), names::ROOT_CA, None, scope);
    let queue = WorkQueue::default();
    work::feed(scope, &queue, namespaces.changes(), itself);
    work::feed(scope, &queue, maps.changes(), |key| home(&key, ROOT_CA));
    let reconciler = Arc::new(RootCa { client, pem, namespaces, maps });
    work::start(scope, &reconciler, &queue, 1, &recorder);
}

/// The namespace of `key`, if it is the object of this name.
fn home(key: &ObjectKey, name: &str) -> Vec<ObjectKey> {
    if &*key.name == name { vec![ObjectKey::cluster(key.namespace())] } else { Vec::new() }
}

impl Reconciler for Accounts {
    type Key = ObjectKey;
    const NAME: &'static str = names::SERVICE_ACCOUNT;

    async fn ready(&self) {
        self.namespaces.wait_synced().await;
        self.accounts.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.namespaces.get(key).map(|found| object_reference::<Namespace>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let open = self.namespaces.get(key).is_some_and(|namespace| takes_objects(&namespace));
        if !open || self.accounts.get(&ObjectKey::namespaced(&key.name, ACCOUNT)).is_some() {
            return Ok(Next::OnChange);
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.name);
        let created = api.create(&PostParams::default(), &account(&key.name)).await;
        settle(created.map(drop), "create service account in", key)
    }
}

impl Reconciler for RootCa {
    type Key = ObjectKey;
    const NAME: &'static str = names::ROOT_CA;

    async fn ready(&self) {
        self.namespaces.wait_synced().await;
        self.maps.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.namespaces.get(key).map(|found| object_reference::<Namespace>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        if !self.namespaces.get(key).is_some_and(|namespace| takes_objects(&namespace)) {
            return Ok(Next::OnChange);
        }
        let current = self.maps.get(&ObjectKey::namespaced(&key.name, ROOT_CA));
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.name);
        let params = PostParams::default();
        let written = match root_ca(&key.name, &self.pem, current.as_deref()) {
            None => return Ok(Next::OnChange),
            Some(Write::Create(map)) => api.create(&params, &map).await,
            Some(Write::Update(map)) => api.replace(ROOT_CA, &params, &map).await,
        };
        settle(written.map(drop), "write root CA in", key)
    }
}

/// Somebody made it first, or the namespace is going after all: both are fine.
fn settle(written: Result<(), kube::Error>, verb: &'static str, key: &ObjectKey) -> Result<Next, PassError> {
    match written {
        Err(error)
            if matches!(
                kind_of(&error),
                ErrorKind::AlreadyExists | ErrorKind::NamespaceTerminating | ErrorKind::NotFound
            ) =>
        {
            Ok(Next::OnChange)
        }
        written => written.during(verb, key).map(|()| Next::OnChange),
    }
}
