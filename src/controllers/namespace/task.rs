//! The loop over namespaces that are going.

use std::sync::Arc;

use api::{constants::finalizer, references::object_reference};
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Store, WorkQueue, kind_of};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ObjectReference};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use tracing::info;

use super::{apply::sweep, status};
use crate::{
    ClientFor,
    error::{During, PassError},
    names,
    resources::discover,
    work::{self, Next, Reconciler, itself},
};

const WORKERS: usize = 5;

struct Namespaces {
    client: Client,
    namespaces: Store<Namespace>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::NAMESPACE);
    let recorder = Recorder::new(client.clone(), names::NAMESPACE, None, scope);
    let namespaces = cache.store::<Namespace>();
    let queue = WorkQueue::default();
    work::feed(scope, &queue, namespaces.changes(), itself);
    let reconciler = Arc::new(Namespaces { client, namespaces });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl Reconciler for Namespaces {
    type Key = ObjectKey;
    const NAME: &'static str = names::NAMESPACE;

    async fn ready(&self) {
        self.namespaces.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.namespaces.get(key).map(|found| object_reference::<Namespace>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let going = |namespace: &Namespace| namespace.metadata.deletion_timestamp.is_some();
        if !self.namespaces.get(key).is_some_and(|namespace| going(&namespace)) {
            return Ok(Next::OnChange);
        }
        // The cache only says where to look: what is irreversible is decided on the object itself.
        let api: Api<Namespace> = Api::all(self.client.clone());
        let Some(namespace) = api.get_opt(&key.name).await.during("read namespace", key)? else {
            return Ok(Next::OnChange);
        };
        let held = namespace
            .spec
            .as_ref()
            .is_some_and(|spec| spec.finalizers.iter().flatten().any(|name| name == finalizer::KUBERNETES));
        if !going(&namespace) || !held {
            return Ok(Next::OnChange);
        }
        let discovered = discover(&self.client).await.during("discover resources for", key)?;
        let left = sweep(&self.client, &key.name, &discovered).await;
        let written = self.publish(&api, namespace, &left).await?;
        if left.is_empty() {
            self.finalize(written).await?;
            info!(namespace = %key, "namespace is empty and let go");
            return Ok(Next::OnChange);
        }
        if left.failures.is_empty() && left.undiscovered.is_empty() {
            return Ok(Next::After(left.wait()));
        }
        let count = left.failures.len() + left.undiscovered.len();
        Err(PassError::Incomplete { what: format!("namespace {key}"), count })
    }
}

impl Namespaces {
    async fn publish(
        &self,
        api: &Api<Namespace>,
        mut namespace: Namespace,
        left: &status::Remaining,
    ) -> Result<Namespace, PassError> {
        let (next, changed) = status::status(namespace.status.as_ref(), left, Timestamp::now());
        if !changed {
            return Ok(namespace);
        }
        namespace.status = Some(next);
        let name = namespace.metadata.name.clone().unwrap_or_default();
        match api.replace_status(&name, &PostParams::default(), &namespace).await {
            // Others add their own finalizers: conditions can wait for the next round.
            Err(error) if kind_of(&error) == ErrorKind::Conflict => {
                api.get(&name).await.during("read namespace", name)
            }
            written => written.during("write status of namespace", name),
        }
    }

    /// Takes our finalizer off; the API server removes the namespace when none is left.
    async fn finalize(&self, mut namespace: Namespace) -> Result<(), PassError> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|name| name != finalizer::KUBERNETES);
        }
        let body = serde_json::to_vec(&namespace).map_err(kube::Error::SerdeError);
        let request = body.and_then(|body| {
            Request::put(format!("/api/v1/namespaces/{name}/finalize"))
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(body)
                .map_err(kube::Error::HttpError)
        });
        let finalized = match request {
            Ok(request) => self.client.request::<Namespace>(request).await.map(drop),
            Err(error) => Err(error),
        };
        match finalized {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            finalized => finalized.during("finalize namespace", name),
        }
    }
}
