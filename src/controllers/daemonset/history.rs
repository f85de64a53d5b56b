//! The revisions of a DaemonSet: which one its template is, and what is to be put right about the others.
//!
//! A revision holds the template as a patch that puts it back. It is found by what it says, not by its bytes, so that
//! those which upstream's controllers wrote are known again.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use api::{constants::label::CONTROLLER_REVISION_HASH, references::controller_reference};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet},
        core::v1::Pod,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, runtime::RawExtension},
};
use serde_json::{Value, json};

use super::survey::hash_of;
use crate::template;

/// What upstream defaults `revisionHistoryLimit` to.
const KEPT: i32 = 10;

#[derive(Debug)]
pub(super) enum Review {
    /// Revisions say too little or the same twice. Once that is written, and the cache shows it, we look again.
    Untidy(Untidy),
    Tidy {
        current: Current,
        old: Vec<Arc<ControllerRevision>>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Untidy {
    /// As they are to be written.
    pub(super) revisions: Vec<ControllerRevision>,
    /// Pods of a duplicate, and the hash of the revision that stays.
    pub(super) pods: Vec<(Arc<Pod>, String)>,
    pub(super) duplicates: Vec<Arc<ControllerRevision>>,
}

/// The revision that the template is.
#[derive(Debug)]
pub(super) enum Current {
    Known(String),
    /// There, but not the newest: its DaemonSet was rolled back. As it is to be written.
    Promoted(Box<ControllerRevision>),
    Missing(Box<ControllerRevision>),
}

pub(super) fn review(set: &DaemonSet, revisions: Vec<Arc<ControllerRevision>>, pods: &[Arc<Pod>]) -> Review {
    let nameless: Vec<ControllerRevision> = revisions
        .iter()
        .filter(|revision| hash(revision).is_none())
        .map(|revision| {
            let mut named = ControllerRevision::clone(revision);
            let name = named.metadata.name.clone().unwrap_or_default();
            named.metadata.labels.get_or_insert_default().insert(CONTROLLER_REVISION_HASH.into(), name);
            named
        })
        .collect();
    if !nameless.is_empty() {
        return Review::Untidy(Untidy { revisions: nameless, ..Untidy::default() });
    }
    let wanted = content(set);
    let (mut same, old): (Vec<_>, Vec<_>) =
        revisions.into_iter().partition(|revision| is_of(revision, &wanted));
    let next = old.iter().map(|revision| revision.revision).max().unwrap_or(0) + 1;
    same.sort_by_key(|revision| revision.revision);
    let Some(current) = same.pop() else {
        return Review::Tidy { current: Current::Missing(Box::new(new_revision(set, next))), old };
    };
    let kept = hash(&current).unwrap_or_default().to_string();
    if !same.is_empty() {
        return Review::Untidy(deduplicate(same, pods, &kept));
    }
    if current.revision >= next {
        return Review::Tidy { current: Current::Known(kept), old };
    }
    let promoted = ControllerRevision { revision: next, ..ControllerRevision::clone(&current) };
    Review::Tidy { current: Current::Promoted(Box::new(promoted)), old }
}

/// Pods of a duplicate are as good as those of the revision that stays, and are not to be replaced for its name.
fn deduplicate(duplicates: Vec<Arc<ControllerRevision>>, pods: &[Arc<Pod>], kept: &str) -> Untidy {
    let gone: HashSet<&str> = duplicates.iter().filter_map(|revision| hash(revision)).collect();
    let theirs =
        pods.iter().filter(|pod| hash_of(pod).is_some_and(|hash| hash != kept && gone.contains(hash)));
    let pods = theirs.map(|pod| (Arc::clone(pod), kept.to_string())).collect();
    Untidy { revisions: Vec::new(), pods, duplicates }
}

/// The oldest revisions beyond `revisionHistoryLimit`. One that a pod is still of is kept, whatever its age.
pub(super) fn excess(
    set: &DaemonSet,
    mut old: Vec<Arc<ControllerRevision>>,
    pods: &[Arc<Pod>],
) -> Vec<Arc<ControllerRevision>> {
    let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(KEPT);
    let excess = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let alive: HashSet<&str> = pods.iter().filter_map(|pod| hash_of(pod)).collect();
    old.sort_by_key(|revision| revision.revision);
    old.retain(|revision| hash(revision).is_none_or(|hash| !alive.contains(hash)));
    old.truncate(excess);
    old
}

/// The hash by which pods name a revision.
pub(super) fn hash(revision: &ControllerRevision) -> Option<&str> {
    revision.metadata.labels.as_ref()?.get(CONTROLLER_REVISION_HASH).map(String::as_str)
}

/// Whether a revision is of the set's template.
pub(super) fn is_same(set: &DaemonSet, revision: &ControllerRevision) -> bool {
    is_of(revision, &content(set))
}

fn is_of(revision: &ControllerRevision, content: &Value) -> bool {
    let data = revision.data.as_ref().and_then(|data| data.0.pointer("/spec/template"));
    let Some(mut template) = data.cloned() else { return false };
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    template::plain(template) == *content
}

fn content(set: &DaemonSet) -> Value {
    template::plain(written(set))
}

fn written(set: &DaemonSet) -> Value {
    let template = set.spec.as_ref().map(|spec| &spec.template);
    template.and_then(|template| serde_json::to_value(template).ok()).unwrap_or_default()
}

fn new_revision(set: &DaemonSet, number: i64) -> ControllerRevision {
    let spec = set.spec.clone().unwrap_or_default();
    let collisions = set.status.as_ref().and_then(|status| status.collision_count);
    let hash = template::hash(&spec.template, collisions);
    let mut template = written(set);
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".into(), "replace".into());
    }
    let mut labels: BTreeMap<String, String> =
        spec.template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
    labels.insert(CONTROLLER_REVISION_HASH.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            // Among them why this revision came, which `kubectl rollout history` shows.
            annotations: set.metadata.annotations.clone(),
            owner_references: Some(vec![controller_reference::<DaemonSet>(&set.metadata)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(json!({"spec": {"template": template}}))),
        revision: number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(image: &str) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "agent", "namespace": "ns", "uid": "u", "annotations": {"kubernetes.io/change-cause": "why"}},
            "spec": {"revisionHistoryLimit": 1, "selector": {"matchLabels": {"app": "a"}},
                "template": {"metadata": {"labels": {"app": "a"}},
                    "spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
        .unwrap()
    }

    fn missing(review: Review) -> ControllerRevision {
        match review {
            Review::Tidy { current: Current::Missing(revision), .. } => *revision,
            other => panic!("{other:?}"),
        }
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let revision = missing(review(&set(image), Vec::new(), &[]));
        Arc::new(ControllerRevision { revision: number, ..revision })
    }

    fn pod(name: &str, of: &ControllerRevision) -> Arc<Pod> {
        let labels = BTreeMap::from([(CONTROLLER_REVISION_HASH.into(), hash(of).unwrap().to_string())]);
        let metadata = ObjectMeta { name: Some(name.into()), labels: Some(labels), ..ObjectMeta::default() };
        Arc::new(Pod { metadata, ..Pod::default() })
    }

    #[test]
    fn a_new_template_gets_the_next_number_and_a_patch_that_puts_it_back() {
        let made = missing(review(&set("v2"), vec![revision("v1", 4)], &[]));
        let hash = hash(&made).unwrap();
        assert_eq!((made.revision, made.metadata.name.as_deref()), (5, Some(&*format!("agent-{hash}"))));
        let data = made.data.clone().unwrap().0;
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_eq!(data["spec"]["template"]["spec"]["containers"][0]["image"], "v2");
        assert_eq!(made.metadata.annotations, set("v2").metadata.annotations);
        assert_eq!(made.metadata.labels.as_ref().unwrap()["app"], "a");
    }

    #[test]
    fn what_is_rolled_back_to_moves_to_the_front_and_the_newest_stays() {
        let review = |image: &str| review(&set(image), vec![revision("v1", 1), revision("v2", 2)], &[]);
        let Review::Tidy { current: Current::Promoted(promoted), old } = review("v1") else { panic!() };
        assert_eq!((promoted.revision, old.len()), (3, 1));
        assert_eq!(hash(&promoted), hash(&revision("v1", 1)));
        let Review::Tidy { current: Current::Known(known), .. } = review("v2") else { panic!() };
        assert_eq!(Some(&*known), hash(&revision("v2", 2)));
    }

    #[test]
    fn a_revision_in_upstreams_words_is_known_again() {
        let mut theirs = ControllerRevision::clone(&revision("v1", 1));
        let template = theirs.data.as_mut().unwrap().0.pointer_mut("/spec/template").unwrap();
        template["metadata"]["creationTimestamp"] = Value::Null;
        template["spec"]["nodeSelector"] = json!({});
        assert!(is_same(&set("v1"), &theirs) && !is_same(&set("v2"), &theirs));
        assert!(!is_same(&set("v1"), &ControllerRevision::default()));
    }

    #[test]
    fn of_two_revisions_that_say_the_same_the_newer_stays_and_takes_the_others_pods() {
        let mut twin = ControllerRevision::clone(&revision("v1", 3));
        twin.metadata.name = Some("agent-twin".into());
        twin.metadata.labels.as_mut().unwrap().insert(CONTROLLER_REVISION_HASH.into(), "twin".into());
        let (older, other) = (revision("v1", 1), revision("v0", 2));
        let pods = [pod("a", &older), pod("b", &twin), pod("c", &other)];
        let all = vec![Arc::clone(&older), Arc::new(twin), other];
        let Review::Untidy(untidy) = review(&set("v1"), all, &pods) else { panic!() };
        assert_eq!(untidy.duplicates, [older]);
        assert_eq!(untidy.pods, [(Arc::clone(&pods[0]), "twin".to_string())]);
    }

    #[test]
    fn a_revision_without_a_hash_is_named_by_its_name() {
        let mut bare = ControllerRevision::clone(&revision("v1", 1));
        bare.metadata.labels = None;
        let Review::Untidy(untidy) = review(&set("v1"), vec![Arc::new(bare)], &[]) else { panic!() };
        assert_eq!(hash(&untidy.revisions[0]), untidy.revisions[0].metadata.name.as_deref());
    }

    #[test]
    fn history_is_kept_to_its_limit_but_for_what_runs() {
        let old = || vec![revision("v3", 3), revision("v1", 1), revision("v2", 2)];
        let numbers = |pods: &[Arc<Pod>]| -> Vec<i64> {
            excess(&set("v4"), old(), pods).iter().map(|revision| revision.revision).collect()
        };
        assert_eq!(numbers(&[]), [1, 2]);
        assert_eq!(numbers(&[pod("a", &revision("v1", 1))]), [2, 3]);
        let forgetful = |limit: Option<i32>| {
            let mut set = set("v4");
            set.spec.as_mut().unwrap().revision_history_limit = limit;
            excess(&set, old(), &[]).len()
        };
        assert_eq!((forgetful(Some(0)), forgetful(None)), (3, 0));
    }
}
