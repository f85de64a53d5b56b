//! Revision bookkeeping: numbers and annotations on ReplicaSets, as `kubectl rollout` reads them.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use api::constants::annotation::{
    DEPLOYMENT_DESIRED_REPLICAS, DEPLOYMENT_MAX_REPLICAS, DEPLOYMENT_REVISION, DEPLOYMENT_REVISION_HISTORY,
    LAST_APPLIED,
};
use k8s_openapi::{api::apps::v1::ReplicaSet, apimachinery::pkg::apis::meta::v1::ObjectMeta};

/// A ReplicaSet remembers the revisions that it was, up to this many characters.
const HISTORY_CHARACTERS: usize = 2000;

type Annotations = BTreeMap<String, String>;

/// Annotations of a Deployment that are not copied to its ReplicaSets.
const NOT_COPIED: &[&str] = &[
    LAST_APPLIED,
    DEPLOYMENT_REVISION,
    DEPLOYMENT_REVISION_HISTORY,
    DEPLOYMENT_DESIRED_REPLICAS,
    DEPLOYMENT_MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The revision that `meta` carries; 0 for none or nonsense.
pub(super) fn revision(meta: &ObjectMeta) -> i64 {
    number(meta, DEPLOYMENT_REVISION).unwrap_or(0)
}

/// The number that follows all of `old`.
pub(super) fn next<'a>(old: impl Iterator<Item = &'a ReplicaSet>) -> i64 {
    old.map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1
}

/// Makes `set` the newest revision: copies the Deployment's annotations, and when its number is behind,
/// gives it `next` and remembers the old one.
pub(super) fn promote(deployment: &ObjectMeta, set: &mut ReplicaSet, next: i64) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in deployment.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let old = annotations.get(DEPLOYMENT_REVISION).cloned();
    let number = match old.as_deref() {
        None | Some("") => 0,
        Some(text) => match text.parse::<i64>() {
            Ok(number) => number,
            // Somebody wrote something else there: hands off, as upstream.
            Err(_) => return,
        },
    };
    if number >= next {
        return;
    }
    annotations.insert(DEPLOYMENT_REVISION.into(), next.to_string());
    if let Some(old) = old {
        remember(annotations, &old);
    }
}

/// Appends `revision` to the history, dropping the oldest while it is too long.
fn remember(annotations: &mut Annotations, revision: &str) {
    let history = annotations.get(DEPLOYMENT_REVISION_HISTORY).cloned().unwrap_or_default();
    let mut revisions: Vec<&str> = history.split(',').filter(|known| !known.is_empty()).collect();
    revisions.push(revision);
    let mut length = revisions.iter().map(|known| known.len() + 1).sum::<usize>() - 1;
    let mut first = 0;
    while length > HISTORY_CHARACTERS && first + 1 < revisions.len() {
        length -= revisions[first].len() + 1;
        first += 1;
    }
    annotations.insert(DEPLOYMENT_REVISION_HISTORY.into(), revisions[first..].join(","));
}

/// Notes for which size of the Deployment `set` was scaled. That is how a change of `replicas` is told
/// from a rollout.
pub(super) fn note_size(set: &mut ReplicaSet, desired: i32, most: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DEPLOYMENT_DESIRED_REPLICAS.into(), desired.to_string());
    annotations.insert(DEPLOYMENT_MAX_REPLICAS.into(), most.to_string());
}

pub(super) fn noted_desired(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, DEPLOYMENT_DESIRED_REPLICAS).filter(|number: &i32| *number >= 0)
}

pub(super) fn noted_most(set: &ReplicaSet) -> Option<i32> {
    number(&set.metadata, DEPLOYMENT_MAX_REPLICAS).filter(|number: &i32| *number >= 0)
}

fn number<N: std::str::FromStr>(meta: &ObjectMeta, key: &str) -> Option<N> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations = annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        ObjectMeta { annotations: Some(annotations), ..ObjectMeta::default() }
    }

    fn promoted(set: &[(&str, &str)], next: i64) -> Annotations {
        let mut set = ReplicaSet { metadata: meta(set), ..ReplicaSet::default() };
        promote(&meta(&[("kubernetes.io/change-cause", "why"), (LAST_APPLIED, "{}")]), &mut set, next);
        set.metadata.annotations.unwrap()
    }

    #[test]
    fn a_new_set_gets_the_number_and_no_history() {
        let annotations = promoted(&[], 3);
        assert_eq!(annotations[DEPLOYMENT_REVISION], "3");
        assert_eq!(annotations["kubernetes.io/change-cause"], "why");
        assert!(!annotations.contains_key(LAST_APPLIED));
        assert!(!annotations.contains_key(DEPLOYMENT_REVISION_HISTORY));
    }

    #[test]
    fn a_set_that_is_rolled_back_to_moves_to_the_front_and_remembers() {
        let annotations = promoted(&[(DEPLOYMENT_REVISION, "2"), (DEPLOYMENT_REVISION_HISTORY, "1")], 5);
        assert_eq!(annotations[DEPLOYMENT_REVISION], "5");
        assert_eq!(annotations[DEPLOYMENT_REVISION_HISTORY], "1,2");
    }

    #[test]
    fn the_newest_set_stays_as_it_is() {
        let annotations = promoted(&[(DEPLOYMENT_REVISION, "5")], 5);
        assert_eq!(annotations[DEPLOYMENT_REVISION], "5");
        assert!(!annotations.contains_key(DEPLOYMENT_REVISION_HISTORY));
    }

    #[test]
    fn the_history_forgets_its_oldest() {
        let long: Vec<String> = (1000..1500).map(|n| n.to_string()).collect();
        let annotations =
            promoted(&[(DEPLOYMENT_REVISION, "1500"), (DEPLOYMENT_REVISION_HISTORY, &long.join(","))], 1501);
        let history = &annotations[DEPLOYMENT_REVISION_HISTORY];
        assert!(history.len() <= HISTORY_CHARACTERS && history.ends_with(",1500"), "{}", history.len());
    }
}
