//! The loop over objects that changed and their kin.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use client::{Client, EventType, Recorder, WorkQueue};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use lifecycle::Scope;
use tokio::time::Instant;

use super::{
    apply::Hands,
    graph::{Graph, Place, Vertex},
    monitor::Monitors,
    plan::{Observed, Owner, Step, plan},
};
use crate::{
    ClientFor,
    error::{During, PassError},
    names,
    resources::{ResourceType, discover},
    work::{self, Next, Reconciler},
};

const WORKERS: usize = 8;
const UNSYNCED: Duration = Duration::from_secs(1);
/// How long a look at discovery is good for when an owner's kind is not monitored.
const DISCOVERY_AGE: Duration = Duration::from_secs(10);

struct Garbage {
    client: Client,
    graph: Graph,
    hands: Hands,
    queue: WorkQueue<Place>,
    recorder: Recorder,
    kinds: Mutex<Option<(Instant, Arc<Kinds>)>>,
}

/// Resources by group and kind: an owner may be named by a version that is not the preferred one.
type Kinds = HashMap<(String, String), ResourceType>;

pub(crate) fn start(clients: &dyn ClientFor, scope: &Scope) {
    let client = clients.client(names::GARBAGE);
    let recorder = Recorder::new(client.clone(), names::GARBAGE, None, scope);
    let (graph, queue) = (Graph::default(), WorkQueue::default());
    let monitors = Monitors::new(client.clone(), graph.clone(), queue.clone(), scope.child("monitors"));
    let token = scope.token();
    scope.spawn("monitors", async move {
        tokio::select! {
            () = token.cancelled() => {}
            () = monitors.run() => {}
        }
    });
    let garbage = Garbage {
        hands: Hands { client: client.clone(), graph: graph.clone() },
        client,
        graph,
        queue: queue.clone(),
        recorder: recorder.clone(),
        kinds: Mutex::default(),
    };
    work::start(scope, &Arc::new(garbage), &queue, WORKERS, &recorder);
}

impl Reconciler for Garbage {
    type Key = Place;
    const NAME: &'static str = names::GARBAGE;

    /// Nothing to wait for: absence is asked of the API, and the plan waits for a whole graph where it
    /// needs one.
    async fn ready(&self) {}

    async fn reconcile(&self, place: &Place) -> Result<Next, PassError> {
        let Some(vertex) = self.graph.get(place) else { return Ok(Next::OnChange) };
        if vertex.owners.is_empty() && !vertex.deleting {
            return Ok(Next::OnChange);
        }
        let dependents = self.graph.dependents(&vertex.uid);
        let mut owners = Vec::new();
        if !vertex.deleting {
            for owner in &vertex.owners {
                owners.push((owner.uid.clone(), self.owner(place, owner).await?));
            }
        }
        let observed = Observed {
            deleting: vertex.deleting,
            foreground: vertex.foreground,
            orphan: vertex.orphan,
            owners,
            dependents: dependents.len(),
            blocking: dependents.iter().filter(|(_, dependent)| self.blocks(dependent, &vertex)).count(),
            graph_is_whole: self.graph.synced(),
        };
        self.carry_out(place, &vertex, plan(&observed), dependents).await
    }
}

impl Garbage {
    /// Whether a dependent holds up the end of its owner. One that waits for this owner in its turn does not: in a
    /// circle nobody would ever be first.
    fn blocks(&self, dependent: &Arc<Vertex>, owner: &Vertex) -> bool {
        dependent.blocks(&owner.uid) && !(owner.waits() && self.graph.waits_for(dependent, &owner.uid))
    }

    async fn carry_out(
        &self,
        place: &Place,
        vertex: &Vertex,
        step: Step,
        dependents: Vec<(Place, Arc<Vertex>)>,
    ) -> Result<Next, PassError> {
        match step {
            Step::Nothing => {}
            Step::Later => return Ok(Next::After(UNSYNCED)),
            Step::Delete(policy) => self.hands.delete(place, vertex, policy).await?,
            Step::DropReferences(uids) => self.hands.drop_references(place, &vertex.uid, &uids).await?,
            Step::OrphanDependents => self.hands.orphan_dependents(place, vertex).await?,
            Step::FinishForeground => self.hands.finish_foreground(place, vertex).await?,
            Step::ChaseDependents => {
                for (dependent, _) in dependents.into_iter().filter(|(_, known)| !known.deleting) {
                    self.queue.add(dependent);
                }
            }
        }
        Ok(Next::OnChange)
    }

    async fn owner(&self, place: &Place, owner: &OwnerReference) -> Result<Owner, PassError> {
        if let Some((found, vertex)) = self.graph.by_uid(&owner.uid) {
            // An owner in another namespace is none: references do not cross.
            if found.key.namespace.is_none() || found.key.namespace == place.key.namespace {
                return Ok(if vertex.waits() { Owner::Waiting } else { Owner::Solid });
            }
        }
        let Some(kind) = self.kind(owner).await? else {
            // Nobody serves its kind now; the owner may well be there when somebody does.
            return Ok(Owner::Solid);
        };
        if kind.namespaced && place.key.namespace.is_none() {
            self.complain(place, owner);
            return Ok(Owner::Solid);
        }
        let absent = self.hands.is_absent(owner, &kind, &place.key).await?;
        Ok(if absent { Owner::Absent } else { Owner::Solid })
    }

    /// The resource of an owner's kind.
    async fn kind(&self, owner: &OwnerReference) -> Result<Option<ResourceType>, PassError> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let key = (group.to_string(), owner.kind.clone());
        let known = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((read_at, kinds)) = known
            && (kinds.contains_key(&key) || read_at.elapsed() < DISCOVERY_AGE)
        {
            return Ok(kinds.get(&key).cloned());
        }
        let discovered = discover(&self.client).await.during("discover", &owner.kind)?;
        let kinds: Kinds = discovered
            .types
            .into_iter()
            .map(|found| ((found.resource.group.clone(), found.resource.kind.clone()), found))
            .collect();
        let kinds = Arc::new(kinds);
        *self.kinds.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), Arc::clone(&kinds)));
        Ok(kinds.get(&key).cloned())
    }

    fn complain(&self, place: &Place, owner: &OwnerReference) {
        let Some(part) = self.graph.part(&place.resource) else { return };
        let about = ObjectReference {
            api_version: Some(part.resource.resource.api_version.clone()),
            kind: Some(part.resource.resource.kind.clone()),
            name: Some(place.key.name.to_string()),
            uid: self.graph.get(place).map(|vertex| vertex.uid.clone()),
            ..ObjectReference::default()
        };
        let note = format!(
            "ownerRef [{}/{}, name: {}, uid: {}] is namespaced, the object is cluster-scoped",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", "", note);
    }
}
