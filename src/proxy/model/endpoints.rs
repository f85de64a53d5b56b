//! Chooses which endpoints of a port take traffic.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use super::{Endpoint, Place, Targets};

/// An endpoint with what the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    endpoint: Endpoint,
    ready: bool,
    /// Still answers although it is being ended.
    serving_while_terminating: bool,
    serving: bool,
    local: bool,
    for_node: Hint,
    for_zone: Hint,
}

/// What an endpoint's hints say about this node, or its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// They do not speak of nodes, or of zones.
    None,
    Here,
    Elsewhere,
}

impl Hint {
    fn of<'a>(names: impl Iterator<Item = &'a str>, here: Option<&str>) -> Self {
        names.fold(Self::None, |hint, name| match hint {
            Self::Here => Self::Here,
            _ if Some(name) == here => Self::Here,
            _ => Self::Elsewhere,
        })
    }
}

/// The candidates of the port named `port` in one address family.
pub(super) fn candidates(slices: &[&EndpointSlice], port: &str, ipv6: bool, place: &Place) -> Vec<Candidate> {
    let mut found = Vec::new();
    for slice in slices {
        let number = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port);
        let Some(number) = number.and_then(|p| p.port).and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // The first address stands for all (they are interchangeable, says the API).
            let Some(Ok(ip)) = endpoint.addresses.first().map(|address| address.parse::<IpAddr>()) else {
                continue;
            };
            if ip.is_ipv6() == ipv6 {
                found.push(candidate(endpoint, Endpoint { ip, port: number }, place));
            }
        }
    }
    found
}

fn candidate(endpoint: &ApiEndpoint, at: Endpoint, place: &Place) -> Candidate {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating == Some(true);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    Candidate {
        endpoint: at,
        // What is not said counts as true for readiness (discovery.k8s.io/v1, EndpointConditions).
        ready: conditions.ready != Some(false),
        serving_while_terminating: terminating && conditions.serving != Some(false),
        // An old producer of slices says only whether it is ready.
        serving: conditions.serving.or(conditions.ready) != Some(false),
        local: endpoint.node_name.as_deref() == Some(place.node.as_str()),
        for_node: Hint::of(nodes.map(|node| node.name.as_str()), Some(&place.node)),
        for_zone: Hint::of(zones.map(|zone| zone.name.as_str()), place.zone.as_deref()),
    }
}

pub(super) fn serving(candidates: &[Candidate]) -> BTreeSet<Endpoint> {
    candidates.iter().filter(|candidate| candidate.serving).map(|candidate| candidate.endpoint).collect()
}

/// Ready endpoints of this node: a pod that is being ended is nothing to send more traffic for.
pub(super) fn ready_here(candidates: &[Candidate]) -> impl Iterator<Item = IpAddr> {
    candidates
        .iter()
        .filter(|candidate| candidate.ready && candidate.local)
        .map(|candidate| candidate.endpoint.ip)
}

/// Which of the ready endpoints are near enough: as hints say while all have them and some are for here, else all (KEP-2433, KEP-3015).
fn near(candidates: &[Candidate]) -> impl Fn(&Candidate) -> bool + use<> {
    let decides = |hint: fn(&Candidate) -> Hint| {
        let mut hints = candidates.iter().filter(|candidate| candidate.ready).map(hint).peekable();
        let mut here = false;
        hints.peek().is_some() && hints.all(|hint| (here |= hint == Hint::Here, hint != Hint::None).1) && here
    };
    let (by_node, by_zone) = (decides(|c| c.for_node), decides(|c| c.for_zone));
    move |candidate| match (by_node, by_zone) {
        (true, _) => candidate.for_node == Hint::Here,
        (false, true) => candidate.for_zone == Hint::Here,
        (false, false) => true,
    }
}

/// Ready endpoints; where there are none, those that still serve while they terminate (KEP-1669).
pub(super) fn targets(candidates: &[Candidate], local_only: bool) -> Targets {
    let near = near(candidates);
    let choose = |allowed: &dyn Fn(&Candidate) -> bool| -> BTreeSet<Endpoint> {
        let of = |takes: &dyn Fn(&Candidate) -> bool| -> BTreeSet<Endpoint> {
            candidates.iter().filter(|c| takes(c) && allowed(c)).map(|c| c.endpoint).collect()
        };
        let ready = of(&|c| c.ready && (local_only || near(c)));
        if ready.is_empty() { of(&|c| c.serving_while_terminating) } else { ready }
    };
    let all = choose(&|_| true);
    let endpoints = if local_only { choose(&|c| c.local) } else { all.clone() };
    Targets { local_only, elsewhere: endpoints.is_empty() && !all.is_empty(), endpoints }
}
