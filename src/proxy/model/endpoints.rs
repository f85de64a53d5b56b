//! Chooses which endpoints of a port take traffic.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use super::{Endpoint, Targets};

/// An endpoint with what the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    endpoint: Endpoint,
    ready: bool,
    /// Still answers although it is being ended.
    serving_while_terminating: bool,
    serving: bool,
    local: bool,
}

/// The candidates of the port named `port` in one address family.
pub(super) fn candidates(slices: &[&EndpointSlice], port: &str, ipv6: bool, node: &str) -> Vec<Candidate> {
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
                found.push(candidate(endpoint, Endpoint { ip, port: number }, node));
            }
        }
    }
    found
}

fn candidate(endpoint: &ApiEndpoint, at: Endpoint, node: &str) -> Candidate {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let terminating = conditions.terminating == Some(true);
    Candidate {
        endpoint: at,
        // What is not said counts as true for readiness (discovery.k8s.io/v1, EndpointConditions).
        ready: conditions.ready != Some(false),
        serving_while_terminating: terminating && conditions.serving != Some(false),
        // An old producer of slices says only whether it is ready.
        serving: conditions.serving.or(conditions.ready) != Some(false),
        local: endpoint.node_name.as_deref() == Some(node),
    }
}

pub(super) fn serving(candidates: &[Candidate]) -> BTreeSet<Endpoint> {
    candidates.iter().filter(|candidate| candidate.serving).map(|candidate| candidate.endpoint).collect()
}

/// Ready endpoints; where there are none, those that still serve while they terminate (KEP-1669).
pub(super) fn targets(candidates: &[Candidate], local_only: bool) -> Targets {
    let choose = |allowed: &dyn Fn(&Candidate) -> bool| -> BTreeSet<Endpoint> {
        let ready: BTreeSet<Endpoint> =
            candidates.iter().filter(|c| c.ready && allowed(c)).map(|c| c.endpoint).collect();
        if !ready.is_empty() {
            return ready;
        }
        candidates.iter().filter(|c| c.serving_while_terminating && allowed(c)).map(|c| c.endpoint).collect()
    };
    let all = choose(&|_| true);
    let endpoints = if local_only { choose(&|c| c.local) } else { all.clone() };
    Targets { local_only, elsewhere: endpoints.is_empty() && !all.is_empty(), endpoints }
}
