//! The loops over ReplicaSets and ReplicationControllers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    pods,
    references::{controller_of, object_reference},
};
use client::{Cache, Index, ObjectKey, Recorder, Store, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ReplicaSet, ReplicaSetStatus},
    core::v1::{ObjectReference, Pod, ReplicationController},
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;

use super::{
    apply::manage,
    plan::{Observed, plan},
    replicated::Replicated,
    status,
};
use crate::{
    ClientFor,
    error::{During, PassError, message},
    ledger::Ledger,
    owned::Pods,
    owners,
    pod_hands::PodHands,
    work::{self, Next, Reconciler},
};

const WORKERS: usize = 5;
/// When our own writes are not in the cache yet and no event of theirs wakes us.
const UNSETTLED: Duration = Duration::from_secs(2);

/// The controller of one kind.
struct Replicas<R> {
    hands: PodHands,
    sets: Store<R>,
    pods: Pods,
    sets_of: Index<String, R>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, pods: &Pods, scope: &Scope) {
    start_one::<ReplicaSet>(clients, cache, pods.clone(), scope);
    start_one::<ReplicationController>(clients, cache, pods.clone(), scope);
}

fn start_one<R: Replicated>(clients: &dyn ClientFor, cache: &Cache, pods: Pods, scope: &Scope) {
    let client = clients.client(R::CONTROLLER);
    let recorder = Recorder::new(client.clone(), R::CONTROLLER, None, scope);
    let sets = cache.store::<R>();
    let queue = WorkQueue::default();

    owners::feed(scope, &queue, &sets, &pods.all);

    let reconciler = Arc::new(Replicas {
        hands: PodHands { client, recorder: recorder.clone(), ledger: Ledger::default() },
        sets_of: sets.index(|_, set: &R| {
            controller_of(set.metadata()).map(|owner| owner.uid.clone()).into_iter().collect()
        }),
        sets,
        pods,
    });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl<R: Replicated> Reconciler for Replicas<R> {
    type Key = ObjectKey;
    const NAME: &'static str = R::CONTROLLER;

    async fn ready(&self) {
        self.sets.wait_synced().await;
        self.pods.all.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.sets.get(key).map(|set| object_reference::<R>(set.metadata()))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(object) = self.sets.get(key) else { return Ok(Next::OnChange) };
        let what = || format!("{} {key}", R::NOUN);
        let selector = object.selector().map_err(|source| PassError::Selector { what: what(), source })?;
        let set = object.as_set();
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods.by(&uid);
        let settled = self.hands.ledger.settled(key, &self.pods.all, |uid| {
            pods.iter().any(|pod| {
                pod.metadata.uid.as_deref() == Some(uid) && pod.metadata.deletion_timestamp.is_none()
            })
        });
        pods.extend(self.pods.orphans(key.namespace()));
        let related = self.related(&set, &pods);
        let now = Timestamp::now();
        let plan = plan(
            &Observed { replica_set: &set, selector: &selector, pods: &pods, related: &related, settled },
            now,
        );
        self.hands.claim::<R>(&set.metadata, R::NOUN, &plan.adopt, &plan.release).await?;
        let managed = manage::<R>(&self.hands, key, &set, &plan).await;
        let status = status::status(&set, &plan, managed.as_ref().err().map(message).as_deref(), now);
        self.publish(key, &object, set.status.as_ref(), R::shown(status)).await?;
        managed.during("manage pods of", what())?;
        if !settled {
            return Ok(Next::After(UNSETTLED));
        }
        Ok(status::next_availability(&set, &plan, now).map_or(Next::OnChange, Next::After))
    }
}

impl<R: Replicated> Replicas<R> {
    /// The pods of all objects of this kind that have the same owner.
    fn related(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(&set.metadata) else { return own.to_vec() };
        let mut related: HashMap<String, Arc<Pod>> = HashMap::new();
        for sibling in self.sets_of.get(owner.uid.as_str()) {
            let uid = sibling.metadata().uid.clone().unwrap_or_default();
            for pod in self.pods.by(&uid) {
                if pods::is_active(&pod) {
                    related.insert(pod.metadata.uid.clone().unwrap_or_default(), pod);
                }
            }
        }
        related.into_values().collect()
    }

    /// Writes the status, unless `shown` says the same already.
    async fn publish(
        &self,
        key: &ObjectKey,
        object: &R,
        shown: Option<&ReplicaSetStatus>,
        status: ReplicaSetStatus,
    ) -> Result<(), PassError> {
        if shown.is_some_and(|shown| status::same(shown, &status)) {
            return Ok(());
        }
        let api: Api<R> = Api::namespaced(self.hands.client.clone(), key.namespace());
        let next = object.with_status(status);
        match api.replace_status(&key.name, &PostParams::default(), &next).await {
            Ok(_) => Ok(()),
            Err(error) if client::kind_of(&error) == client::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).during("write status of", format!("{} {key}", R::NOUN)),
        }
    }
}
