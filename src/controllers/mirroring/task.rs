//! The loop over Endpoints that are made by hand.

use std::{sync::Arc, time::Duration};

use api::references::object_reference;
use client::{Cache, Client, Index, ObjectKey, Recorder, Store, WorkQueue};
use k8s_openapi::api::{
    core::v1::{Endpoints, ObjectReference, Service},
    discovery::v1::EndpointSlice,
};
use lifecycle::Scope;

use super::convert::{MANAGED_BY, frame, groups, is_mirrored};
use crate::{
    ClientFor,
    endpointslice::{
        apply::apply,
        selection::service_of,
        slicing::{Plan, plan},
    },
    error::PassError,
    ledger::Ledger,
    names,
    work::{self, Next, Reconciler, itself},
};

const WORKERS: usize = 2;
const UNSETTLED: Duration = Duration::from_secs(2);

struct Mirrors {
    client: Client,
    ledger: Ledger<ObjectKey>,
    services: Store<Service>,
    endpoints: Store<Endpoints>,
    slices: Store<EndpointSlice>,
    slices_of: Index<ObjectKey, EndpointSlice>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::MIRRORING);
    let recorder = Recorder::new(client.clone(), names::MIRRORING, None, scope);
    let services = cache.store::<Service>();
    let endpoints = cache.store::<Endpoints>();
    let slices = cache.store::<EndpointSlice>();
    let queue = WorkQueue::default();
    let mine = |_: &ObjectKey, slice: &EndpointSlice| service_of(slice, MANAGED_BY).into_iter().collect();
    work::feed(scope, &queue, services.changes(), itself);
    work::feed(scope, &queue, endpoints.changes(), itself);
    work::feed(scope, &queue, slices.changes_by(mine), itself);
    let reconciler = Arc::new(Mirrors {
        client,
        ledger: Ledger::default(),
        slices_of: slices.index(mine),
        services,
        endpoints,
        slices,
    });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl Reconciler for Mirrors {
    type Key = ObjectKey;
    const NAME: &'static str = names::MIRRORING;

    async fn ready(&self) {
        self.services.wait_synced().await;
        self.endpoints.wait_synced().await;
        self.slices.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.endpoints.get(key).map(|endpoints| object_reference::<Endpoints>(&endpoints.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let existing = self.slices_of.get(key);
        let alive = |slice: &Arc<EndpointSlice>| slice.metadata.deletion_timestamp.is_none();
        let there = |uid: &str| {
            existing.iter().any(|slice| slice.metadata.uid.as_deref() == Some(uid) && alive(slice))
        };
        if !self.ledger.settled(key, &self.slices, there) {
            return Ok(Next::After(UNSETTLED));
        }
        let existing: Vec<_> = existing.into_iter().filter(alive).collect();
        let service = self.services.get(key);
        let endpoints = self.endpoints.get(key).filter(|found| is_mirrored(found, service.as_deref()));
        let plan = match endpoints {
            Some(found) => plan(&frame(&found), &existing, groups(&found), &[]),
            None => Plan { delete: existing, ..Plan::default() },
        };
        if !plan.is_empty() {
            apply(&self.client, key, plan, &self.ledger).await?;
        }
        Ok(Next::OnChange)
    }
}
