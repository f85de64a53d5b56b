//! Two loops over the tokens, each under its own identity.

use std::sync::Arc;

use api::references::object_reference;
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Selector, Store, WorkQueue, kind_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use lifecycle::Scope;
use tracing::info;

use super::plan::{sign, time_left};
use crate::{
    ClientFor,
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

const TOKENS_NAMESPACE: &str = "kube-system";
const INFO_NAMESPACE: &str = "kube-public";
const INFO: &str = "cluster-info";

struct Signer {
    client: Client,
    info: Store<ConfigMap>,
    tokens: Store<Secret>,
}

struct Cleaner {
    client: Client,
    tokens: Store<Secret>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let of_type = Selector::fields("type=bootstrap.kubernetes.io/token").in_namespace(TOKENS_NAMESPACE);
    let tokens = cache.store_with::<Secret>(of_type);
    let client = clients.client(names::TOKEN_CLEANER);
    let recorder = Recorder::new(client.clone(), names::TOKEN_CLEANER, None, scope);
    let queue = WorkQueue::default();
    work::feed(scope, &queue, tokens.changes(), itself);
    let reconciler = Arc::new(Cleaner { client, tokens: tokens.clone() });
    work::start(scope, &reconciler, &queue, 1, &recorder);

    let of_name = Selector::fields(format!("metadata.name={INFO}")).in_namespace(INFO_NAMESPACE);
    let info = cache.store_with::<ConfigMap>(of_name);
    let client = clients.client(names::BOOTSTRAP_SIGNER);
    let recorder = Recorder::new(client.clone(), names::BOOTSTRAP_SIGNER, None, scope);
    let queue = WorkQueue::default();
    work::feed(scope, &queue, info.changes(), itself);
    work::feed(scope, &queue, tokens.changes(), |_| vec![ObjectKey::namespaced(INFO_NAMESPACE, INFO)]);
    work::start(scope, &Arc::new(Signer { client, info, tokens }), &queue, 1, &recorder);
}

impl Reconciler for Signer {
    type Key = ObjectKey;
    const NAME: &'static str = names::BOOTSTRAP_SIGNER;

    async fn ready(&self) {
        self.info.wait_synced().await;
        self.tokens.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.info.get(key).map(|found| object_reference::<ConfigMap>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(info) = self.info.get(key) else { return Ok(Next::OnChange) };
        let (tokens, now) = (self.tokens.list(), Timestamp::now());
        if let Some(signed) = sign(&info, tokens.iter().map(AsRef::as_ref), now) {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), INFO_NAMESPACE);
            api.replace(INFO, &PostParams::default(), &signed).await.during("sign", key)?;
        }
        // A signature goes with its token's time, also where nobody removes the token.
        let soonest =
            tokens.iter().filter_map(|token| time_left(token, now)).filter(|left| !left.is_zero()).min();
        Ok(soonest.map_or(Next::OnChange, Next::After))
    }
}

impl Reconciler for Cleaner {
    type Key = ObjectKey;
    const NAME: &'static str = names::TOKEN_CLEANER;

    async fn ready(&self) {
        self.tokens.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.tokens.get(key).map(|found| object_reference::<Secret>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(token) = self.tokens.get(key) else { return Ok(Next::OnChange) };
        match time_left(&token, Timestamp::now()) {
            None => return Ok(Next::OnChange),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), TOKENS_NAMESPACE);
        // Only this one: a token of the same name that was made since has a time of its own.
        let preconditions = Preconditions { uid: token.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&key.name, &params).await {
            Ok(_) => info!(secret = %key, "bootstrap token removed: its time is over"),
            Err(error) if matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Conflict) => {}
            Err(error) => return Err(error).during("delete", key),
        }
        Ok(Next::OnChange)
    }
}
