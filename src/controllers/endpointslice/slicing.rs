//! The smallest change of slices that holds what is wanted.
//!
//! Every write is sent to every node, so few slices are written: what is there stays where it is, what is
//! new goes first into slices that are written anyway, then into the fullest that has room, and only then
//! into a new one. A slice that is not needed becomes one that is, rather than one delete and one create.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::convert::Family;

/// A slice holds at most this many endpoints (`--max-endpoints-per-slice`).
pub(crate) const MOST: usize = 100;

/// What every slice of one owner looks like.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) namespace: String,
    /// The prefix of generated names.
    pub(crate) name: String,
    pub(crate) owner: OwnerReference,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// Endpoints that share their ports, of one family.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) family: Family,
    pub(crate) ports: Vec<EndpointPort>,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) create: Vec<EndpointSlice>,
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

type GroupKey = (&'static str, Vec<PortKey>);
type PortKey = (Option<String>, Option<i32>, Option<String>, Option<String>);

/// One existing slice on its way to what it should be.
struct Draft<'a> {
    before: &'a Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

/// `placeholders`: families that get an empty slice when they have none, so that "no endpoints" is told
/// from "not looked at yet".
pub(crate) fn plan(
    frame: &Frame,
    existing: &[Arc<EndpointSlice>],
    groups: Vec<Group>,
    placeholders: &[Family],
) -> Plan {
    let mut plan = Plan::default();
    let mut by_group: HashMap<GroupKey, Vec<&Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        match family_of(slice).filter(|_| is_owned(frame, slice)) {
            Some(family) => by_group.entry(key(family, ports(slice))).or_default().push(slice),
            // Of a former Service of this name, or of a kind that nobody wants.
            None => plan.delete.push(Arc::clone(slice)),
        }
    }
    let mut kept: HashMap<Family, usize> = HashMap::new();
    for group in groups.into_iter().filter(|group| !group.endpoints.is_empty()) {
        let slices = by_group.remove(&key(group.family, &group.ports)).unwrap_or_default();
        let family = group.family;
        *kept.entry(family).or_default() += fill(frame, group, slices, &mut plan);
    }
    let mut unused: Vec<&Arc<EndpointSlice>> = by_group.into_values().flatten().collect();
    unused.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    for family in placeholders {
        if kept.get(family).copied().unwrap_or(0) == 0 {
            keep_placeholder(frame, *family, &mut unused, &mut plan);
        }
    }
    reuse(frame, unused, &mut plan);
    plan
}

/// Distributes one group. The number of slices that hold it.
fn fill(frame: &Frame, group: Group, slices: Vec<&Arc<EndpointSlice>>, plan: &mut Plan) -> usize {
    let mut wanted: HashMap<EndpointKey, Endpoint> =
        group.endpoints.into_iter().map(|endpoint| (endpoint_key(&endpoint), endpoint)).collect();
    let mut drafts: Vec<Draft<'_>> =
        slices.into_iter().map(|slice| keep(frame, slice, &mut wanted)).collect();
    let mut new: Vec<Endpoint> = wanted.into_values().collect();
    new.sort_by(|a, b| a.addresses.cmp(&b.addresses));

    for draft in drafts.iter_mut().filter(|draft| draft.changed) {
        let room = MOST.saturating_sub(draft.endpoints.len()).min(new.len());
        draft.endpoints.extend(new.drain(new.len() - room..));
    }
    let mut created = Vec::new();
    while new.len() >= MOST {
        created.push(new.split_off(new.len() - MOST));
    }
    if !new.is_empty() {
        let fits = |draft: &&mut Draft<'_>| draft.endpoints.len() + new.len() <= MOST;
        match drafts.iter_mut().filter(fits).max_by_key(|draft| draft.endpoints.len()) {
            Some(draft) => {
                draft.endpoints.append(&mut new);
                draft.changed = true;
            }
            None => created.push(new),
        }
    }
    let mut holding = created.len();
    for draft in drafts {
        if draft.endpoints.is_empty() {
            plan.delete.push(Arc::clone(draft.before));
        } else {
            holding += 1;
            if draft.changed {
                plan.update.push(dress(frame, EndpointSlice::clone(draft.before), draft.endpoints));
            }
        }
    }
    for endpoints in created {
        let mut slice = fresh(frame, group.family);
        slice.ports = Some(group.ports.clone());
        plan.create.push(dress(frame, slice, endpoints));
    }
    holding
}

/// Keeps what is still wanted of a slice, as it is wanted now.
fn keep<'a>(
    frame: &Frame,
    slice: &'a Arc<EndpointSlice>,
    wanted: &mut HashMap<EndpointKey, Endpoint>,
) -> Draft<'a> {
    let old = slice.endpoints.as_deref().unwrap_or_default();
    let endpoints: Vec<Endpoint> = old.iter().filter_map(|old| wanted.remove(&endpoint_key(old))).collect();
    let changed = endpoints != old || !is_dressed(frame, slice);
    Draft { before: slice, endpoints, changed }
}

fn keep_placeholder(frame: &Frame, family: Family, unused: &mut Vec<&Arc<EndpointSlice>>, plan: &mut Plan) {
    let is_placeholder = |slice: &Arc<EndpointSlice>| {
        family_of(slice) == Some(family)
            && slice.endpoints.as_ref().is_none_or(Vec::is_empty)
            && ports(slice).is_empty()
            && is_dressed(frame, slice)
    };
    match unused.iter().position(|slice| is_placeholder(slice)) {
        Some(at) => drop(unused.remove(at)),
        None => plan.create.push(dress(frame, fresh(frame, family), Vec::new())),
    }
}

/// Turns creations into updates of slices that would be deleted. The family of a slice cannot change.
fn reuse(frame: &Frame, unused: Vec<&Arc<EndpointSlice>>, plan: &mut Plan) {
    let emptied = std::mem::take(&mut plan.delete);
    let (ours, foreign): (Vec<_>, Vec<_>) = emptied.into_iter().partition(|slice| is_owned(frame, slice));
    plan.delete = foreign;
    for slice in ours.into_iter().chain(unused.into_iter().cloned()) {
        match plan.create.iter().position(|new| new.address_type == slice.address_type) {
            Some(at) => {
                let mut next = plan.create.swap_remove(at);
                let mut metadata = slice.metadata.clone();
                metadata.labels = next.metadata.labels.take();
                metadata.annotations = next.metadata.annotations.take();
                next.metadata = metadata;
                plan.update.push(next);
            }
            None => plan.delete.push(slice),
        }
    }
}

fn fresh(frame: &Frame, family: Family) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", frame.name)),
            namespace: Some(frame.namespace.clone()),
            owner_references: Some(vec![frame.owner.clone()]),
            ..ObjectMeta::default()
        },
        address_type: family.as_str().into(),
        endpoints: None,
        ports: Some(Vec::new()),
    }
}

fn dress(frame: &Frame, mut slice: EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
    slice.metadata.labels = Some(frame.labels.clone());
    if frame.annotations.is_some() {
        slice.metadata.annotations.clone_from(&frame.annotations);
    }
    slice.endpoints = Some(endpoints);
    slice
}

fn is_dressed(frame: &Frame, slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref() == Some(&frame.labels)
        && (frame.annotations.is_none()
            || slice.metadata.annotations.clone().unwrap_or_default()
                == frame.annotations.clone().unwrap_or_default())
}

fn is_owned(frame: &Frame, slice: &EndpointSlice) -> bool {
    let mut owners = slice.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.uid == frame.owner.uid)
}

fn family_of(slice: &EndpointSlice) -> Option<Family> {
    match slice.address_type.as_str() {
        "IPv4" => Some(Family::IPv4),
        "IPv6" => Some(Family::IPv6),
        _ => None,
    }
}

fn ports(slice: &EndpointSlice) -> &[EndpointPort] {
    slice.ports.as_deref().unwrap_or_default()
}

fn key(family: Family, ports: &[EndpointPort]) -> GroupKey {
    let mut ports: Vec<PortKey> = ports
        .iter()
        .map(|port| {
            let name = port.name.clone().filter(|name| !name.is_empty());
            (name, port.port, port.protocol.clone(), port.app_protocol.clone())
        })
        .collect();
    ports.sort();
    (family.as_str(), ports)
}

type EndpointKey = (Vec<String>, Option<String>, Option<String>);

/// What makes an endpoint the same one, though its conditions may change.
fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let target = endpoint.target_ref.as_ref();
    let uid = target.and_then(|target| target.uid.clone().or_else(|| target.name.clone()));
    (endpoint.addresses.clone(), endpoint.hostname.clone(), uid)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointConditions;
    use proptest::prelude::*;

    use super::*;

    fn frame() -> Frame {
        Frame {
            namespace: "ns".into(),
            name: "web".into(),
            owner: OwnerReference { uid: "svc".into(), ..OwnerReference::default() },
            labels: BTreeMap::from([("kubernetes.io/service-name".into(), "web".into())]),
            annotations: None,
        }
    }

    fn endpoint(number: usize, ready: bool) -> Endpoint {
        Endpoint {
            addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)],
            conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }
    }

    fn group(port: i32, endpoints: Vec<Endpoint>) -> Group {
        let port = EndpointPort { name: Some("p".into()), port: Some(port), ..EndpointPort::default() };
        Group { family: Family::IPv4, ports: vec![port], endpoints }
    }

    fn numbers(range: std::ops::Range<usize>) -> Vec<Endpoint> {
        range.map(|number| endpoint(number, true)).collect()
    }

    /// The slices after a plan.
    fn apply(existing: &[Arc<EndpointSlice>], plan: Plan, next: &mut usize) -> Vec<Arc<EndpointSlice>> {
        let mut slices: Vec<Arc<EndpointSlice>> = existing
            .iter()
            .filter(|slice| !plan.delete.iter().any(|gone| gone.metadata.name == slice.metadata.name))
            .map(|slice| {
                let update = plan.update.iter().find(|update| update.metadata.name == slice.metadata.name);
                update.map_or_else(|| Arc::clone(slice), |update| Arc::new(update.clone()))
            })
            .collect();
        for mut slice in plan.create {
            *next += 1;
            slice.metadata.name = Some(format!("s{next}"));
            slices.push(Arc::new(slice));
        }
        slices
    }

    #[test]
    fn no_endpoints_are_an_empty_slice_and_it_becomes_the_first_full_one() {
        let mut next = 0;
        let first = plan(&frame(), &[], vec![], &[Family::IPv4]);
        assert_eq!((first.create.len(), first.create[0].endpoints.as_deref()), (1, Some([].as_slice())));
        let slices = apply(&[], first, &mut next);
        assert!(plan(&frame(), &slices, vec![], &[Family::IPv4]).is_empty());
        let second = plan(&frame(), &slices, vec![group(80, numbers(0..3))], &[Family::IPv4]);
        assert_eq!((second.create.len(), second.update.len(), second.delete.len()), (0, 1, 0));
    }

    #[test]
    fn one_change_writes_one_slice() {
        let mut next = 0;
        let wanted = |endpoints| vec![group(80, endpoints)];
        let slices = apply(&[], plan(&frame(), &[], wanted(numbers(0..250)), &[Family::IPv4]), &mut next);
        assert_eq!(slices.len(), 3);
        let mut endpoints = numbers(0..250);
        endpoints[7] = endpoint(7, false);
        endpoints.push(endpoint(900, true));
        let change = plan(&frame(), &slices, wanted(endpoints), &[Family::IPv4]);
        assert_eq!((change.create.len(), change.delete.len()), (0, 0));
        assert!(change.update.len() <= 2, "{}", change.update.len());
    }

    #[test]
    fn slices_of_a_former_service_are_removed() {
        let mut old = fresh(&frame(), Family::IPv4);
        old.metadata.owner_references.as_mut().unwrap()[0].uid = "former".into();
        old.metadata.name = Some("old".into());
        let change = plan(&frame(), &[Arc::new(old)], vec![group(80, numbers(0..1))], &[Family::IPv4]);
        assert_eq!((change.create.len(), change.update.len(), change.delete.len()), (1, 0, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn planning_again_after_apply_is_empty_and_every_endpoint_is_there_once(
            rounds in prop::collection::vec((0..400_usize, 0..150_usize, 0..400_usize, any::<bool>()), 1..6),
        ) {
            let (mut slices, mut next) = (Vec::new(), 0);
            for (first, extra, second, ready) in rounds {
                let groups = || vec![
                    group(80, (first..first + extra).map(|n| endpoint(n, ready)).collect()),
                    group(81, numbers(0..second)),
                ];
                let change = plan(&frame(), &slices, groups(), &[Family::IPv4]);
                slices = apply(&slices, change, &mut next);
                let all: Vec<&Endpoint> = slices.iter().flat_map(|s| s.endpoints.iter().flatten()).collect();
                prop_assert_eq!(all.len(), extra + second);
                prop_assert!(slices.iter().all(|s| s.endpoints.as_ref().unwrap().len() <= MOST));
                prop_assert!(!slices.is_empty());
                prop_assert!(plan(&frame(), &slices, groups(), &[Family::IPv4]).is_empty());
            }
        }
    }
}
