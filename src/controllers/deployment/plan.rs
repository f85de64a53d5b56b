//! Decides the next step of a rollout.
//!
//! Like upstream, one step a pass: the new ReplicaSet grows, or old ones shrink, and the statuses that
//! follow lead to the next step.
#![deny(clippy::disallowed_methods)]

use std::{cmp::Ordering, collections::HashSet, sync::Arc, time::Duration};

use api::{constants::label::POD_TEMPLATE_HASH, references::controller_reference};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    revisions,
    scale::{self, Bounds, Old, available, replicas},
    status::{self, PROGRESSING, Sets},
};
use crate::template;

pub(super) struct Observed<'a> {
    pub(super) deployment: &'a Deployment,
    /// Those that it controls.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// UIDs of ReplicaSets that have pods which still run.
    pub(super) running: &'a HashSet<String>,
}

#[derive(Debug)]
pub(super) enum Step {
    Create { set: Box<ReplicaSet>, event: Option<String> },
    Write { set: Box<ReplicaSet>, event: Option<String> },
    Delete { name: String, uid: String },
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The revision annotation of the Deployment; none: leave it.
    pub(super) revision: Option<String>,
    pub(super) status: DeploymentStatus,
    pub(super) again_after: Option<Duration>,
}

/// A ReplicaSet in the course of planning. Index 0 is the oldest.
struct Draft {
    set: ReplicaSet,
    before: Option<Arc<ReplicaSet>>,
    delete: bool,
}

struct Rollout<'a> {
    deployment: &'a Deployment,
    bounds: Bounds,
    known: DeploymentStatus,
    drafts: Vec<Draft>,
    new: Option<usize>,
    now: Timestamp,
}

pub(super) fn plan(observed: &Observed<'_>, now: Timestamp) -> Plan {
    let mut rollout = Rollout::of(observed, now);
    let deployment = observed.deployment;
    if deployment.metadata.deletion_timestamp.is_some() {
        return rollout.finish(false);
    }
    status::mark_pause(deployment, &mut rollout.known, now);
    let paused = deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false);
    rollout.promote_new();
    if paused || rollout.is_resized() {
        rollout.resize();
        if paused {
            rollout.clean_up();
        }
        return rollout.finish(false);
    }
    if rollout.bounds.recreate {
        rollout.recreate(observed.running)
    } else {
        rollout.roll()
    }
    rollout.finish(true)
}

impl<'a> Rollout<'a> {
    fn of(observed: &Observed<'a>, now: Timestamp) -> Self {
        let deployment = observed.deployment;
        let mut sets: Vec<&Arc<ReplicaSet>> = observed.sets.iter().collect();
        sets.sort_by(|a, b| age(a, b));
        let wanted = template_of(deployment);
        let new = sets.iter().position(|set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| template::same(template, &wanted))
        });
        let draft = |set: &&Arc<ReplicaSet>| Draft {
            set: ReplicaSet::clone(set),
            before: Some(Arc::clone(set)),
            delete: false,
        };
        Self {
            deployment,
            bounds: Bounds::of(deployment),
            known: deployment.status.clone().unwrap_or_default(),
            drafts: sets.iter().map(draft).collect(),
            new,
            now,
        }
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.drafts.len()).filter(move |index| Some(*index) != new)
    }

    fn size(&self, index: usize) -> i32 {
        replicas(&self.drafts[index].set)
    }

    fn resize_to(&mut self, index: usize, size: i32, always_note: bool) -> bool {
        let changes = self.size(index) != size;
        if changes || always_note {
            let set = &mut self.drafts[index].set;
            set.spec.get_or_insert_default().replicas = Some(size);
            revisions::note_size(set, self.bounds.desired, self.bounds.most());
        }
        changes
    }

    fn next_revision(&self) -> i64 {
        revisions::next(self.old().map(|index| &self.drafts[index].set))
    }

    /// Brings the bookkeeping of an existing new ReplicaSet up to date.
    fn promote_new(&mut self) {
        let Some(new) = self.new else { return };
        let next = self.next_revision();
        let min_ready = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let set = &mut self.drafts[new].set;
        revisions::promote(&self.deployment.metadata, set, next);
        let spec = set.spec.get_or_insert_default();
        if spec.min_ready_seconds.unwrap_or(0) != min_ready.unwrap_or(0) {
            spec.min_ready_seconds = min_ready;
        }
        if status::deadline(self.deployment).is_some() && status::get(&self.known, PROGRESSING).is_none() {
            let message = format!("Found new replica set {:?}", name(set));
            let found = status::condition(PROGRESSING, "True", "FoundNewReplicaSet", message, self.now);
            status::set(&mut self.known, found);
        }
    }

    fn create_new(&mut self) {
        let wanted = template_of(self.deployment);
        let hash = template::hash(&wanted, self.known.collision_count);
        let mut set = new_set(self.deployment, wanted, &hash);
        let total = (0..self.drafts.len()).map(|index| self.size(index)).sum();
        let size = scale::grow_new(&self.bounds, 0, total);
        set.spec.get_or_insert_default().replicas = Some(size);
        revisions::promote(&self.deployment.metadata, &mut set, self.next_revision());
        revisions::note_size(&mut set, self.bounds.desired, self.bounds.most());
        if status::deadline(self.deployment).is_some() {
            let message = format!("Created new replica set {:?}", name(&set));
            let created = status::condition(PROGRESSING, "True", "NewReplicaSetCreated", message, self.now);
            status::set(&mut self.known, created);
        }
        self.drafts.push(Draft { set, before: None, delete: false });
        self.new = Some(self.drafts.len() - 1);
    }

    /// Whether `replicas` changed since the active ReplicaSets were sized.
    fn is_resized(&self) -> bool {
        let active = self.drafts.iter().filter(|draft| replicas(&draft.set) > 0);
        let noted = active.filter_map(|draft| revisions::noted_desired(&draft.set));
        noted.into_iter().any(|noted| noted != self.bounds.desired)
    }

    /// Follows a change of `replicas` without moving the rollout on.
    fn resize(&mut self) {
        let active: Vec<usize> = (0..self.drafts.len()).filter(|index| self.size(*index) > 0).collect();
        if let Some(only) = match active.as_slice() {
            [] => self.new.or_else(|| self.old().last()),
            [only] => Some(*only),
            _ => None,
        } {
            self.resize_to(only, self.bounds.desired, false);
            return;
        }
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for index in self.old() {
                self.resize_to(index, 0, false);
            }
        } else if !self.bounds.recreate {
            let mut order = active;
            let total: i32 = order.iter().map(|index| self.size(*index)).sum();
            let growing = self.bounds.most() > total && self.bounds.desired > 0;
            // Equal sizes: what grows grows newest first, what shrinks shrinks oldest first.
            order.sort_by(|a, b| {
                let by_size = self.size(*b).cmp(&self.size(*a));
                by_size.then(if growing { b.cmp(a) } else { a.cmp(b) })
            });
            let sets: Vec<&ReplicaSet> = order.iter().map(|index| &self.drafts[*index].set).collect();
            let sizes = scale::proportional(&self.bounds, &sets, self.known.replicas.unwrap_or(0));
            for (index, size) in order.into_iter().zip(sizes) {
                self.resize_to(index, size, true);
            }
        }
    }

    fn is_saturated(&self, index: usize) -> bool {
        let set = &self.drafts[index].set;
        let desired = self.bounds.desired;
        replicas(set) == desired
            && revisions::noted_desired(set) == Some(desired)
            && available(set) == desired
    }

    fn roll(&mut self) {
        if self.new.is_none() {
            self.create_new();
        }
        let Some(new) = self.new else { return };
        if self.drafts[new].before.is_some() {
            let total = (0..self.drafts.len()).map(|index| self.size(index)).sum();
            let size = scale::grow_new(&self.bounds, self.size(new), total);
            if self.resize_to(new, size, false) {
                return;
            }
        }
        let old: Vec<usize> = self.old().filter(|index| self.size(*index) > 0).collect();
        let sizes: Vec<Old> = old
            .iter()
            .map(|index| Old { replicas: self.size(*index), available: available(&self.drafts[*index].set) })
            .collect();
        let new_available = available(&self.drafts[new].set);
        let sizes = scale::shrink_old(&self.bounds, &sizes, self.size(new), new_available);
        let mut shrunk = false;
        for (index, size) in old.into_iter().zip(sizes) {
            shrunk |= self.resize_to(index, size, false);
        }
        if !shrunk {
            self.clean_up_when_complete();
        }
    }

    fn recreate(&mut self, running: &HashSet<String>) {
        let mut shrunk = false;
        for index in self.old() {
            shrunk |= self.resize_to(index, 0, false);
        }
        let old_runs = self.old().any(|index| {
            let set = &self.drafts[index].set;
            set.status.as_ref().is_some_and(|status| status.replicas > 0)
                || set.metadata.uid.as_ref().is_some_and(|uid| running.contains(uid))
        });
        if shrunk || old_runs {
            return;
        }
        match self.new {
            None => self.create_new(),
            Some(new) => drop(self.resize_to(new, self.bounds.desired, false)),
        }
        self.clean_up_when_complete();
    }

    fn clean_up_when_complete(&mut self) {
        let known = self.deployment.status.clone().unwrap_or_default();
        if status::complete(self.deployment, &known, &self.bounds) {
            self.clean_up();
        }
    }

    /// Old ReplicaSets beyond `revisionHistoryLimit`, lowest revision first, if they are empty.
    fn clean_up(&mut self) {
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let Ok(limit) = usize::try_from(limit) else { return };
        let mut old: Vec<usize> = self
            .old()
            .filter(|index| self.drafts[*index].set.metadata.deletion_timestamp.is_none())
            .collect();
        // The index breaks ties: it is the order of creation.
        old.sort_by_key(|index| (revisions::revision(&self.drafts[*index].set.metadata), *index));
        for index in old.iter().take(old.len().saturating_sub(limit)) {
            let draft = &mut self.drafts[*index];
            let status = draft.set.status.clone().unwrap_or_default();
            let seen = status.observed_generation >= draft.set.metadata.generation;
            draft.delete = status.replicas == 0 && replicas(&draft.set) == 0 && seen;
        }
    }

    fn finish(self, rolling: bool) -> Plan {
        let new = self.new.map(|index| &self.drafts[index].set);
        let sets = Sets { all: self.drafts.iter().map(|draft| &draft.set).collect(), new };
        let mut next = status::counts(self.deployment, &self.known, &sets, &self.bounds, self.now);
        if rolling {
            status::progress(self.deployment, &self.known, &mut next, &sets, &self.bounds, self.now);
        }
        let revision = new
            .map(|set| revisions::revision(&set.metadata))
            .filter(|revision| *revision > 0 && *revision != revisions::revision(&self.deployment.metadata));
        Plan {
            steps: self.drafts.iter().filter_map(Draft::step).collect(),
            revision: revision.map(|revision| revision.to_string()),
            again_after: status::next_check(self.deployment, &next, &self.bounds, self.now)
                .filter(|_| rolling),
            status: next,
        }
    }
}

impl Draft {
    fn step(&self) -> Option<Step> {
        let size = replicas(&self.set);
        match &self.before {
            None => {
                let event = (size > 0).then(|| scaled(&self.set, 0, size));
                Some(Step::Create { set: Box::new(self.set.clone()), event })
            }
            Some(_) if self.delete => Some(Step::Delete {
                name: name(&self.set).to_string(),
                uid: self.set.metadata.uid.clone().unwrap_or_default(),
            }),
            Some(before) if **before == self.set => None,
            Some(before) => {
                let old = replicas(before);
                let event = (size != old).then(|| scaled(&self.set, old, size));
                Some(Step::Write { set: Box::new(self.set.clone()), event })
            }
        }
    }
}

fn scaled(set: &ReplicaSet, from: i32, to: i32) -> String {
    let direction = if from < to { "up" } else { "down" };
    format!("Scaled {direction} replica set {} from {from} to {to}", name(set))
}

fn new_set(deployment: &Deployment, mut template: PodTemplateSpec, hash: &str) -> ReplicaSet {
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(POD_TEMPLATE_HASH.into(), hash.into());
    let labels = labels.clone();
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(POD_TEMPLATE_HASH.into(), hash.into());
    let base = name_of(&deployment.metadata);
    let room = 253 - 1 - hash.len();
    let base = base.get(..room).unwrap_or(base);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{base}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference::<Deployment>(&deployment.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    }
}

fn template_of(deployment: &Deployment) -> PodTemplateSpec {
    deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
}

fn name(set: &ReplicaSet) -> &str {
    name_of(&set.metadata)
}

fn name_of(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

/// Oldest first; names break ties.
fn age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|time| time.0);
    created(a).cmp(&created(b)).then_with(|| a.metadata.name.cmp(&b.metadata.name))
}
