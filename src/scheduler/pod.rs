//! A pod as the scheduler sees it: what it asks of a node, read once from its spec.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use api::{
    constants::resource::{CPU, MEMORY},
    node_affinity,
    pods::{self, HostPort, Resources},
    quantity::{Format, Quantity},
    selector::{Operator, Requirement, Selector, SelectorObjectError},
};
use client::ObjectKey;
use k8s_openapi::{
    api::core::v1::{Affinity, Pod, PodAffinityTerm, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};

use crate::amounts::Amounts;

pub(crate) type LabelMap = BTreeMap<String, String>;

/// For scores: a container that asks for nothing is taken to use this much (upstream's numbers).
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// One pod, waiting or placed. Cheap to share: it holds the cache's own object.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: ObjectKey,
    pub uid: String,
    pub priority: i32,
    /// Holds its resources still, but counts for no spread.
    pub terminating: bool,
    pub requests: Amounts,
    /// Processors in thousandths and memory in bytes, with a default where a container asks for nothing.
    pub scored: (i64, i64),
    pub host_ports: Vec<HostPort>,
    pub affinity: Vec<AffinityTerm>,
    pub anti_affinity: Vec<AffinityTerm>,
    pub spread: Vec<SpreadConstraint>,
    /// The only nodes that it can be on, where its affinity names nodes.
    pub pinned: Option<BTreeSet<String>>,
    /// What it asks for that this scheduler does not know: it must wait rather than be placed wrongly.
    pub refused: Option<String>,
    pub pod: Arc<Pod>,
}

/// A required term of (anti-)affinity to other pods.
#[derive(Clone, Debug)]
pub struct AffinityTerm {
    pub namespaces: BTreeSet<String>,
    pub namespace_selector: Selector,
    pub selector: Selector,
    pub topology_key: String,
}

impl AffinityTerm {
    /// Whether the term is about this pod. `namespace` are the labels of the pod's namespace.
    pub fn matches(&self, pod: &PodInfo, namespace: Option<&LabelMap>) -> bool {
        let here = self.namespaces.contains(pod.key.namespace())
            || self.namespace_selector.matches(&namespace.unwrap_or(&LabelMap::new()));
        here && self.selector.matches(&pod.pod.metadata.labels)
    }
}

/// A `DoNotSchedule` constraint of spread.
#[derive(Clone, Debug)]
pub struct SpreadConstraint {
    pub max_skew: i64,
    pub min_domains: usize,
    pub topology_key: String,
    pub selector: Selector,
    pub honors_affinity: bool,
    pub honors_taints: bool,
}

impl PodInfo {
    pub fn of(pod: &Arc<Pod>) -> PodInfo {
        let spec = pod.spec.as_ref();
        let affinity = spec.and_then(|spec| spec.affinity.as_ref());
        let mut refused = unknown_demand(pod);
        let mut read = |result: Result<_, SelectorObjectError>| match result {
            Ok(terms) => terms,
            Err(error) => {
                refused.get_or_insert(format!("the pod's affinity cannot be read: {error}"));
                Vec::new()
            }
        };
        let (near, far) = required_terms(affinity);
        let (near, far) = (read(affinity_terms(pod, near)), read(affinity_terms(pod, far)));
        let spread = spread_constraints(pod).unwrap_or_else(|error| {
            refused.get_or_insert(format!("the pod's topology spread constraints cannot be read: {error}"));
            Vec::new()
        });
        PodInfo {
            key: ObjectKey::of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.and_then(|spec| spec.priority).unwrap_or_default(),
            terminating: pods::is_terminating(pod),
            requests: Amounts::of(&pods::requests_with_status(pod)),
            scored: scored_requests(pod),
            host_ports: pods::host_ports(pod),
            affinity: near,
            anti_affinity: far,
            spread,
            pinned: pinned(affinity),
            refused,
            pod: Arc::clone(pod),
        }
    }

    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty())
    }

    /// Names of the gates that hold it back.
    pub fn gates(&self) -> impl Iterator<Item = &str> {
        let gates = self.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref());
        gates.unwrap_or_default().iter().map(|gate| gate.name.as_str())
    }

    /// Whether it may matter to this pod, beyond their node's resources, that the other comes, goes or changes.
    pub fn is_concerned_by(&self, other: &PodInfo) -> bool {
        let labels = &other.pod.metadata.labels;
        !other.anti_affinity.is_empty()
            || self.affinity.iter().chain(&self.anti_affinity).any(|term| term.selector.matches(labels))
            || self.spread.iter().any(|constraint| constraint.selector.matches(labels))
    }

    pub fn preempts(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) != Some("Never")
    }
}

fn scored_requests(pod: &Pod) -> (i64, i64) {
    let default = Resources::from([
        (CPU.to_string(), Quantity::from_milli(DEFAULT_MILLI_CPU, Format::DecimalSi)),
        (MEMORY.to_string(), Quantity::new(DEFAULT_MEMORY_BYTES, Format::BinarySi)),
    ]);
    let amounts = Amounts::of(&pods::requests_or(pod, &default));
    (amounts.milli_cpu, amounts.memory_bytes)
}

fn unknown_demand(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let claims = spec.volumes.iter().flatten();
    let claims = claims.filter(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()).count();
    if claims > 0 {
        return Some("this scheduler does not place pods with PersistentVolumeClaims yet".into());
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("this scheduler does not place pods with ResourceClaims yet".into());
    }
    if spec.scheduling_group.is_some() {
        return Some("this scheduler does not place groups of pods yet".into());
    }
    None
}

type Terms<'a> = &'a [PodAffinityTerm];

fn required_terms(affinity: Option<&Affinity>) -> (Terms<'_>, Terms<'_>) {
    let near = affinity.and_then(|a| a.pod_affinity.as_ref());
    let far = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
    (
        near.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default(),
        far.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default(),
    )
}

fn affinity_terms(pod: &Pod, terms: Terms<'_>) -> Result<Vec<AffinityTerm>, SelectorObjectError> {
    let own = pod.metadata.namespace.clone().unwrap_or_default();
    let read = |term: &PodAffinityTerm| {
        let named: BTreeSet<String> = term.namespaces.iter().flatten().cloned().collect();
        let only_own = named.is_empty() && term.namespace_selector.is_none();
        let keys = term.match_label_keys.iter().flatten().map(|key| (key, Operator::In));
        let not_keys = term.mismatch_label_keys.iter().flatten().map(|key| (key, Operator::NotIn));
        Ok(AffinityTerm {
            namespaces: if only_own { BTreeSet::from([own.clone()]) } else { named },
            namespace_selector: Selector::of_object(term.namespace_selector.as_ref())?,
            selector: selector_with_keys(pod, term.label_selector.as_ref(), keys.chain(not_keys))?,
            topology_key: term.topology_key.clone(),
        })
    };
    terms.iter().map(read).collect()
}

/// A selector that also asks for (or against) the values that the pod itself has under these keys.
fn selector_with_keys<'a>(
    pod: &Pod,
    object: Option<&LabelSelector>,
    keys: impl Iterator<Item = (&'a String, Operator)>,
) -> Result<Selector, SelectorObjectError> {
    let selector = Selector::of_object(object)?;
    if selector.is_nothing() {
        return Ok(selector);
    }
    let mut requirements = selector.requirements().to_vec();
    for (key, operator) in keys {
        let value = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if let Some(value) = value {
            let requirement = Requirement::new(key, operator, vec![value.clone()]);
            requirements.push(requirement.map_err(SelectorObjectError::Requirement)?);
        }
    }
    Ok(Selector::of(requirements))
}

fn spread_constraints(pod: &Pod) -> Result<Vec<SpreadConstraint>, SelectorObjectError> {
    let constraints = pod.spec.iter().flat_map(|spec| spec.topology_spread_constraints.iter().flatten());
    let read = |constraint: &TopologySpreadConstraint| {
        let keys = constraint.match_label_keys.iter().flatten().map(|key| (key, Operator::In));
        let honors = |policy: &Option<String>, default: bool| {
            policy.as_deref().map_or(default, |policy| policy == "Honor")
        };
        Ok(SpreadConstraint {
            max_skew: i64::from(constraint.max_skew),
            min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
            topology_key: constraint.topology_key.clone(),
            selector: selector_with_keys(pod, constraint.label_selector.as_ref(), keys)?,
            honors_affinity: honors(&constraint.node_affinity_policy, true),
            honors_taints: honors(&constraint.node_taints_policy, false),
        })
    };
    constraints.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule").map(read).collect()
}

fn pinned(affinity: Option<&Affinity>) -> Option<BTreeSet<String>> {
    let affinity = affinity?.node_affinity.as_ref()?;
    let selector = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let names = node_affinity::pinned_names(selector)?;
    Some(names.into_iter().map(String::from).collect())
}
