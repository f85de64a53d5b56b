//! Each node that matters to a DaemonSet: what it means, and the pods there.
#![deny(clippy::disallowed_methods)]

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use api::{
    constants::label::CONTROLLER_REVISION_HASH,
    pods::{is_bound, is_terminal, is_terminating},
    selector::Selector,
};
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::placement::{Placement, Verdict, target};
use crate::ownership::{Claim, claim};

/// The pods that a DaemonSet takes, has and lets go.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) adopt: Vec<Arc<Pod>>,
    pub(super) release: Vec<Arc<Pod>>,
    /// With those that are adopted.
    pub(super) ours: Vec<Arc<Pod>>,
}

impl Claims {
    pub(super) fn of(owner: &ObjectMeta, selector: &Selector, pods: Vec<Arc<Pod>>) -> Self {
        let mut claims = Self::default();
        for pod in pods {
            match claim(owner, selector, &pod.metadata) {
                Claim::Ours => claims.ours.push(pod),
                Claim::Adopt => {
                    claims.adopt.push(Arc::clone(&pod));
                    claims.ours.push(pod);
                }
                Claim::Release => claims.release.push(pod),
                Claim::Ignore => {}
            }
        }
        claims
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Place {
    /// None: there is no such node.
    pub(super) verdict: Option<Verdict>,
    /// The first is the one that counts: bound before unbound, then the oldest. None that ended and is going: its node
    /// or the collector of garbage sees to it, and its place is free.
    pub(super) pods: Vec<Arc<Pod>>,
    /// Of these, in the same order, those that nobody has asked to go.
    pub(super) alive: Vec<Arc<Pod>>,
}

impl Place {
    fn new(verdict: Option<Verdict>) -> Self {
        Self { verdict, pods: Vec::new(), alive: Vec::new() }
    }
}

pub(super) type Survey = BTreeMap<String, Place>;

/// All nodes there are, and those that pods are on or made for besides.
pub(super) fn survey(placement: &Placement, nodes: &[Arc<Node>], ours: &[Arc<Pod>]) -> Survey {
    let mut survey: Survey = nodes
        .iter()
        .map(|node| {
            let name = node.metadata.name.clone().unwrap_or_default();
            (name, Place::new(Some(placement.verdict(node))))
        })
        .collect();
    for pod in ours.iter().filter(|pod| !(is_terminal(pod) && is_terminating(pod))) {
        let Some(node) = target(pod) else { continue };
        survey.entry(node.to_string()).or_insert_with(|| Place::new(None)).pods.push(Arc::clone(pod));
    }
    for place in survey.values_mut() {
        place.pods.sort_by_cached_key(|pod| {
            let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            (Reverse(is_bound(pod)), created, pod.metadata.name.clone())
        });
        place.alive = place.pods.iter().filter(|pod| !is_terminating(pod)).cloned().collect();
    }
    survey
}

/// Whether a pod is of the revision of this hash.
pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    hash_of(pod) == Some(hash)
}

pub(super) fn hash_of(pod: &Pod) -> Option<&str> {
    pod.metadata.labels.as_ref()?.get(CONTROLLER_REVISION_HASH).map(String::as_str)
}
