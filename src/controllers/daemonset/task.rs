//! The loop over DaemonSets.

use std::{sync::Arc, time::Duration};

use api::{
    references::{controller_reference, object_reference},
    selector::Selector,
};
use client::{Cache, EventType, ObjectKey, Recorder, Store, WorkQueue};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet},
        core::v1::{Node, ObjectReference, Pod},
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use lifecycle::Scope;
use tokio::time::Instant;

use super::{
    apply::Hands,
    failures::Failures,
    history::{self, Review},
    nodes::Seen,
    placement::Placement,
    plan::{Observed, Plan, plan},
    rolling::Patience,
    status,
    survey::{Claims, survey},
};
use crate::{
    ClientFor,
    error::{During, PassError},
    ledger::Ledger,
    names,
    owned::{Owned, Pods},
    owners,
    ownership::{self, Claim},
    pod_hands::PodHands,
    work::{self, Next, Reconciler},
};

const WORKERS: usize = 2;
/// When our own writes are not in the cache yet and no event of theirs wakes us.
const UNSETTLED: Duration = Duration::from_secs(2);
/// What events name; upstream's service account is called otherwise.
const COMPONENT: &str = "daemonset-controller";
const NOUN: &str = "daemon set";

struct DaemonSets {
    hands: Hands,
    sets: Store<DaemonSet>,
    revisions: Owned<ControllerRevision>,
    pods: Pods,
    nodes: Store<Node>,
}

pub(crate) fn start(clients: &dyn ClientFor, cache: &Cache, pods: &Pods, scope: &Scope) {
    let client = clients.client(names::DAEMON_SET);
    let recorder = Recorder::new(client.clone(), COMPONENT, None, scope);
    let (sets, nodes) = (cache.store::<DaemonSet>(), cache.store::<Node>());
    let revisions = Owned::<ControllerRevision>::new(cache);
    let queue = WorkQueue::default();

    owners::feed(scope, &queue, &sets, &pods.all);
    owners::feed_dependents(scope, &queue, &sets, &revisions.all);
    let (all_sets, all_nodes, mut seen) = (sets.clone(), nodes.clone(), Seen::default());
    work::feed(scope, &queue, nodes.changes(), move |node| {
        seen.concerned(&node, all_nodes.get(&node), || all_sets.list())
    });

    let pod_hands = PodHands { client, recorder: recorder.clone(), ledger: Ledger::default() };
    let hands = Hands { pods: pod_hands, failures: Failures::default() };
    let reconciler = Arc::new(DaemonSets { hands, sets, revisions, pods: pods.clone(), nodes });
    work::start(scope, &reconciler, &queue, WORKERS, &recorder);
}

impl Reconciler for DaemonSets {
    type Key = ObjectKey;
    const NAME: &'static str = names::DAEMON_SET;

    async fn ready(&self) {
        self.sets.wait_synced().await;
        self.revisions.all.wait_synced().await;
        self.pods.all.wait_synced().await;
        self.nodes.wait_synced().await;
    }

    fn about(&self, key: &ObjectKey) -> Option<ObjectReference> {
        self.sets.get(key).map(|set| object_reference::<DaemonSet>(&set.metadata))
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, PassError> {
        let Some(set) = self.sets.get(key) else {
            self.hands.failures.forget(key);
            return Ok(Next::OnChange);
        };
        // Pods and revisions of one that goes are the garbage collector's, in whatever order: there is nothing to count.
        let Some(spec) = set.spec.as_ref().filter(|_| set.metadata.deletion_timestamp.is_none()) else {
            return Ok(Next::OnChange);
        };
        if spec.selector == LabelSelector::default() {
            let about = object_reference::<DaemonSet>(&set.metadata);
            let note = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.hands.pods.recorder.event(&about, EventType::Warning, "SelectingAll", "", note);
            return Ok(Next::OnChange);
        }
        let selector = Selector::of_object(Some(&spec.selector))
            .map_err(|source| PassError::Selector { what: format!("{NOUN} {key}"), source })?;
        let Some(revisions) = self.claim_revisions(key, &set, &selector).await? else {
            // The cache shows the adoptions soon, and we look again.
            return Ok(Next::OnChange);
        };
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let own = self.pods.by(uid);
        let settled = self.is_settled(key, &own);
        let all = own.into_iter().chain(self.pods.orphans(key.namespace())).collect();
        let claims = Claims::of(&set.metadata, &selector, all);
        self.hands.pods.claim::<DaemonSet>(&set.metadata, NOUN, &claims.adopt, &claims.release).await?;
        match history::review(&set, revisions, &claims.ours) {
            Review::Untidy(untidy) => {
                self.hands.tidy(key, &untidy).await?;
                Ok(Next::OnChange)
            }
            Review::Tidy { current, old } => {
                let hash = self.hands.settle(key, &set, current).await?;
                let next = self.run(key, &set, &hash, &claims.ours, settled).await?;
                if settled {
                    for revision in history::excess(&set, old, &claims.ours) {
                        self.hands.remove(key, &revision).await?;
                    }
                }
                Ok(next)
            }
        }
    }
}

impl DaemonSets {
    /// Pods to their nodes, and the status.
    async fn run(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        ours: &[Arc<Pod>],
        settled: bool,
    ) -> Result<Next, PassError> {
        let min_ready_seconds = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
        let patience = Patience { min_ready_seconds, now: Timestamp::now() };
        let survey = survey(&Placement::of(set), &self.nodes.list(), ours);
        let status = status::status(set, &survey, hash, patience, settled);
        let availability = status::next_availability(&survey, patience);
        let waits = self.hands.failures.waits(key, set, Instant::now());
        let plan = if settled {
            plan(Observed { set, hash, survey, waits: &waits, patience })
        } else {
            Plan { again_after: Some(UNSETTLED), ..Plan::default() }
        };
        let managed = self.hands.manage(key, set, hash, &plan).await;
        self.hands.publish(key, set, status).await?;
        managed.during("manage pods of", format!("{NOUN} {key}"))?;
        let next = availability.into_iter().chain(plan.again_after).min();
        Ok(next.map_or(Next::OnChange, Next::After))
    }

    fn is_settled(&self, key: &ObjectKey, own: &[Arc<Pod>]) -> bool {
        self.hands.pods.ledger.settled(key, &self.pods.all, |uid| {
            own.iter().any(|pod| {
                pod.metadata.uid.as_deref() == Some(uid) && pod.metadata.deletion_timestamp.is_none()
            })
        })
    }

    /// The revisions that are ours. None when some had to be adopted or released first.
    async fn claim_revisions(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        selector: &Selector,
    ) -> Result<Option<Vec<Arc<ControllerRevision>>>, PassError> {
        let meta = &set.metadata;
        let (api, owner) = (self.hands.revisions(key.namespace()), controller_reference::<DaemonSet>(meta));
        let (mut ours, mut changed) = (Vec::new(), false);
        let own = self.revisions.by(&owner.uid);
        for revision in own.into_iter().chain(self.revisions.orphans(key.namespace())) {
            match ownership::claim(meta, selector, &revision.metadata) {
                Claim::Ours => ours.push(revision),
                Claim::Ignore => {}
                Claim::Adopt => {
                    ownership::check_alive(&self.hands.sets(key.namespace()), meta, NOUN).await?;
                    ownership::adopt(&api, &revision.metadata, &owner).await?;
                    changed = true;
                }
                Claim::Release => {
                    ownership::release(&api, &revision.metadata, &owner.uid).await?;
                    changed = true;
                }
            }
        }
        Ok((!changed).then_some(ours))
    }
}
