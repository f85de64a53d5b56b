//! The loop over Deployments.

use std::{collections::HashSet, sync::Arc};

use api::{
    pods,
    references::{controller_of, object_reference},
    selector::Selector,
};
use client::{Cache, EventType, Index, ObjectKey, Recorder, Store, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use lifecycle::Scope;

use super::{
    apply::Hands,
    plan::{Observed, plan},
};
use crate::{
    ClientFor,
    error::PassError,
    names, owners,
    ownership::{self, Claim},
    work::{self, Next, Reconciler},
};

const WORKERS: usize = 5;

struct Deployments {
    hands: Hands,
    deployments: Store<Deployment>,
    sets: Store<ReplicaSet>,
    pods: Store<Pod>,
    pods_of: Index<String, Pod>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, scope: &Scope) {
    let client = clients.client(names::DEPLOYMENT);
    let recorder = Recorder::new(client.clone(), names::DEPLOYMENT, None, scope);
    let deployments = cache.store::<Deployment>();
    let sets = cache.store::<ReplicaSet>();
    let pods = cache.store::<Pod>();
    let queue = WorkQueue::default();

    owners::feed(scope, &queue, &deployments, &sets);
    // A Recreate rollout waits for the last old pod to end.
    let (all_sets, all_deployments) = (sets.clone(), deployments.clone());
    let changed_pods = pods.changes_by(|_, pod: &Pod| match controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => {
            vec![ObjectKey::namespaced(pod.metadata.namespace.as_deref().unwrap_or_default(), &owner.name)]
        }
        _ => Vec::new(),
    });
    work::feed(scope, &queue, changed_pods, move |set| waiting_for(&all_sets, &all_deployments, &set));

    let reconciler = Arc::new(Deployments {
        hands: Hands { client, recorder: recorder.clone() },
        pods_of: pods.index(|_, pod: &Pod| {
            controller_of(&pod.metadata).map(|owner| owner.uid.clone()).into_iter().collect()
        }),
        deployments,
        sets,
        pods,
    });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

/// The Recreate Deployment that `set` belongs to: pods matter to no other.
fn waiting_for(sets: &Store<ReplicaSet>, deployments: &Store<Deployment>, set: &ObjectKey) -> Vec<ObjectKey> {
    let Some(set) = sets.get(set) else { return Vec::new() };
    let Some(owner) = controller_of(&set.metadata) else { return Vec::new() };
    let key = ObjectKey::namespaced(set.metadata.namespace.as_deref().unwrap_or_default(), &owner.name);
    let recreates = deployments.get(&key).is_some_and(|deployment| is_recreate(&deployment));
    if recreates { vec![key] } else { Vec::new() }
}

fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

impl Reconciler for Deployments {
    type Key = ObjectKey;
    const NAME: &'static str = names::DEPLOYMENT;

    async fn ready(&self) {
        self.deployments.wait_synced().await;
        self.sets.wait_synced().await;
        self.pods.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.deployments.get(key).map(|found| object_reference::<Deployment>(&found.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Next::OnChange) };
        let Some(spec) = &deployment.spec else { return Ok(Next::OnChange) };
        if spec.selector == LabelSelector::default() {
            return self.refuse_everything(&deployment).await;
        }
        let selector = Selector::of_object(Some(&spec.selector))
            .map_err(|source| PassError::Selector { what: format!("deployment {key}"), source })?;
        let Some(sets) = self.claim(&deployment, &selector).await? else {
            // The cache shows the adoptions soon, and we look again.
            return Ok(Next::OnChange);
        };
        let running = if is_recreate(&deployment) { self.running(&sets) } else { HashSet::new() };
        let plan =
            plan(&Observed { deployment: &deployment, sets: &sets, running: &running }, Timestamp::now());
        let next = plan.again_after.map_or(Next::OnChange, Next::After);
        self.hands.apply(&deployment, plan).await?;
        Ok(next)
    }
}

impl Deployments {
    /// The ReplicaSets that are ours. None when some had to be adopted or released first.
    async fn claim(
        &self,
        deployment: &Deployment,
        selector: &Selector,
    ) -> Result<Option<Vec<Arc<ReplicaSet>>>, PassError> {
        let meta = &deployment.metadata;
        let api = self.hands.sets(meta);
        let owner = api::references::controller_reference::<Deployment>(meta);
        let (mut ours, mut changed) = (Vec::new(), false);
        for set in self.sets.list_in(meta.namespace.as_deref().unwrap_or_default()) {
            match ownership::claim(meta, selector, &set.metadata) {
                Claim::Ours => ours.push(set),
                Claim::Ignore => {}
                Claim::Adopt => {
                    ownership::check_alive(&self.hands.deployments(meta), meta, "deployment").await?;
                    ownership::adopt(&api, &set.metadata, &owner).await?;
                    changed = true;
                }
                Claim::Release => {
                    ownership::release(&api, &set.metadata, &owner.uid).await?;
                    changed = true;
                }
            }
        }
        Ok((!changed).then_some(ours))
    }

    /// UIDs of those sets that have pods which are not finished.
    fn running(&self, sets: &[Arc<ReplicaSet>]) -> HashSet<String> {
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        uids.filter(|uid| self.pods_of.get(uid.as_str()).iter().any(|pod| !pods::is_terminal(pod))).collect()
    }

    async fn refuse_everything(&self, deployment: &Deployment) -> Result<Next, PassError> {
        let about = object_reference::<Deployment>(&deployment.metadata);
        let note = "This deployment is selecting all pods. A non-empty selector is required.";
        self.hands.recorder.event(&about, EventType::Warning, "SelectingAll", "", note);
        let mut status = deployment.status.clone().unwrap_or_default();
        status.observed_generation = deployment.metadata.generation;
        self.hands.publish(deployment, status, None).await?;
        Ok(Next::OnChange)
    }
}
