//! The loop over ReplicaSets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use api::{
    pods,
    references::{controller_of, object_reference},
    selector::Selector,
};
use client::{Cache, Index, ObjectKey, Recorder, Store, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::ReplicaSet,
    core::v1::{ObjectReference, Pod},
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;

use super::{
    apply::{Hands, namespace},
    plan::{Observed, Plan, plan},
    status,
};
use crate::{
    ClientFor,
    error::{During, PassError, message},
    ledger::Ledger,
    names, owners,
    work::{self, Next, Reconciler},
};

const WORKERS: usize = 5;
/// When our own writes are not in the cache yet and no event of theirs wakes us.
const UNSETTLED: Duration = Duration::from_secs(2);

/// Who a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Belongs {
    /// To the controller of this UID.
    To(String),
    /// To nobody, in this namespace.
    Nobody(String),
}

struct ReplicaSets {
    hands: Hands,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    pods_of: Index<Belongs, Pod>,
    sets_of: Index<String, ReplicaSet>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::REPLICA_SET);
    let recorder = Recorder::new(client.clone(), names::REPLICA_SET, None, scope);
    let sets = cache.store::<ReplicaSet>();
    let pods = cache.store::<Pod>();
    let queue = WorkQueue::default();

    owners::feed(scope, &queue, &sets, &pods);

    let reconciler = Arc::new(ReplicaSets {
        hands: Hands { client, recorder: recorder.clone(), ledger: Ledger::default() },
        pods_of: pods.index(|_, pod| vec![belongs(pod)]),
        sets_of: sets.index(|_, set| {
            controller_of(&set.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
        }),
        sets,
        pods,
    });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

fn belongs(pod: &Pod) -> Belongs {
    match controller_of(&pod.metadata) {
        Some(owner) => Belongs::To(owner.uid.clone()),
        None => Belongs::Nobody(pod.metadata.namespace.clone().unwrap_or_default()),
    }
}

impl Reconciler for ReplicaSets {
    type Key = ObjectKey;
    const NAME: &'static str = names::REPLICA_SET;

    async fn ready(&self) {
        self.sets.wait_synced().await;
        self.pods.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.sets.get(key).map(|set| object_reference::<ReplicaSet>(&set.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(set) = self.sets.get(key) else { return Ok(Next::OnChange) };
        let selector = set.spec.as_ref().map(|spec| &spec.selector);
        let selector = Selector::of_object(selector)
            .map_err(|source| PassError::Selector { what: format!("replica set {key}"), source })?;
        let uid = set.metadata.uid.clone().unwrap_or_default();
        let mut pods = self.pods_of.get(&Belongs::To(uid));
        let settled = self.hands.ledger.settled(key, &self.pods, |uid| {
            pods.iter().any(|pod| {
                pod.metadata.uid.as_deref() == Some(uid) && pod.metadata.deletion_timestamp.is_none()
            })
        });
        pods.extend(self.pods_of.get(&Belongs::Nobody(namespace(&set.metadata).to_string())));
        let related = self.related(&set, &pods);
        let now = Timestamp::now();
        let plan = plan(
            &Observed { replica_set: &set, selector: &selector, pods: &pods, related: &related, settled },
            now,
        );
        self.hands.claim(&set, &plan).await?;
        let managed = self.hands.manage(key, &set, &plan).await;
        self.publish(&set, &plan, managed.as_ref().err(), now).await?;
        managed.during("manage pods of", format!("replica set {key}"))?;
        if !settled {
            return Ok(Next::After(UNSETTLED));
        }
        Ok(status::next_availability(&set, &plan, now).map_or(Next::OnChange, Next::After))
    }
}

impl ReplicaSets {
    /// The pods of all ReplicaSets of the same owner.
    fn related(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(&set.metadata) else { return own.to_vec() };
        let mut related: HashMap<String, Arc<Pod>> = HashMap::new();
        for sibling in self.sets_of.get(owner.uid.as_str()) {
            let uid = sibling.metadata.uid.clone().unwrap_or_default();
            for pod in self.pods_of.get(&Belongs::To(uid)) {
                if pods::is_active(&pod) {
                    related.insert(pod.metadata.uid.clone().unwrap_or_default(), pod);
                }
            }
        }
        related.into_values().collect()
    }

    async fn publish(
        &self,
        set: &ReplicaSet,
        plan: &Plan,
        failure: Option<&kube::Error>,
        now: Timestamp,
    ) -> Result<(), PassError> {
        let failure = failure.map(message);
        let status = status::status(set, plan, failure.as_deref(), now);
        if set.status.as_ref().is_some_and(|old| status::same(old, &status)) {
            return Ok(());
        }
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let api: Api<ReplicaSet> = Api::namespaced(self.hands.client.clone(), namespace(&set.metadata));
        let next = ReplicaSet { status: Some(status), ..set.clone() };
        match api.replace_status(name, &PostParams::default(), &next).await {
            Ok(_) => Ok(()),
            Err(error) if client::kind_of(&error) == client::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).during("write status of", format!("replica set {name}")),
        }
    }
}
