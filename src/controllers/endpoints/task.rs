//! The loop over Services, for their Endpoints.

use std::sync::Arc;

use api::references::object_reference;
use client::{Cache, Client, ErrorKind, ObjectKey, Recorder, Store, WorkQueue, kind_of};
use k8s_openapi::api::core::v1::{Endpoints, ObjectReference, Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use lifecycle::Scope;

use super::plan::{MANAGED_BY, MANAGER, plan};
use crate::{
    ClientFor,
    endpointslice::selection::{Labelled, selector},
    error::{During, PassError},
    names,
    work::{self, Next, Reconciler, itself},
};

const WORKERS: usize = 5;

struct Legacy {
    client: Client,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::ENDPOINTS);
    let recorder = Recorder::new(client.clone(), names::ENDPOINTS, None, scope);
    let services = cache.store::<Service>();
    let pods = cache.store::<Pod>();
    let endpoints = cache.store::<Endpoints>();
    let queue = WorkQueue::default();

    work::feed(scope, &queue, services.changes(), itself);
    work::feed(scope, &queue, endpoints.changes(), itself);
    let all = services.clone();
    work::feed(scope, &queue, pods.changes_by(|_, pod| vec![Labelled::of(pod)]), move |pod| {
        pod.services(&all)
    });

    let reconciler = Arc::new(Legacy { client, services, pods, endpoints });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl Reconciler for Legacy {
    type Key = ObjectKey;
    const NAME: &'static str = names::ENDPOINTS;

    async fn ready(&self) {
        self.services.wait_synced().await;
        self.pods.wait_synced().await;
        self.endpoints.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.services.get(key).map(|service| object_reference::<Service>(&service.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.remove(key, current.as_deref()).await?;
            return Ok(Next::OnChange);
        };
        let Some(selector) = selector(&service) else { return Ok(Next::OnChange) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::OnChange);
        }
        let pods = self.pods.list_in(key.namespace());
        let selected: Vec<&Arc<Pod>> =
            pods.iter().filter(|pod| selector.matches(&pod.metadata.labels)).collect();
        if let Some(wanted) = plan(&service, &selected, current.as_deref()) {
            self.write(key, &wanted, current.is_some()).await?;
        }
        Ok(Next::OnChange)
    }
}

impl Legacy {
    fn api(&self, key: &ObjectKey) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    async fn write(&self, key: &ObjectKey, wanted: &Endpoints, exists: bool) -> Result<(), PassError> {
        let params = PostParams::default();
        let written = if exists {
            self.api(key).replace(&key.name, &params, wanted).await
        } else {
            self.api(key).create(&params, wanted).await
        };
        match written {
            Err(error) if kind_of(&error) == ErrorKind::NamespaceTerminating => Ok(()),
            written => written.map(drop).during("write endpoints", key),
        }
    }

    /// Endpoints whose Service is gone, if a Service's: hand-made ones carry no label of ours.
    async fn remove(&self, key: &ObjectKey, current: Option<&Endpoints>) -> Result<(), PassError> {
        let labels = current.and_then(|endpoints| endpoints.metadata.labels.as_ref());
        let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|name| name == MANAGER);
        if !ours {
            return Ok(());
        }
        match self.api(key).delete(&key.name, &DeleteParams::default()).await {
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(()),
            deleted => deleted.map(drop).during("delete endpoints", key),
        }
    }
}
