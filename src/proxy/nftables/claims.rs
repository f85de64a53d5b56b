//! Who has an element of the shared maps when several Services claim its key.
//!
//! The kernel takes one verdict for a key and refuses a transaction with two, so every claim is decided here.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use netlink::nft::{Data, Verdict};

use super::names::{NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, SERVICE_IPS, SERVICE_NODE_PORTS};

/// An address, protocol and port, or a protocol and node port; whichever map it is to be in.
pub(super) type ClaimKey = Vec<Data>;

/// How strong a claim is: the stronger comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// The API gives a cluster IP to one Service only.
    Cluster,
    /// External IPs, load balancers' addresses and node ports, which users choose.
    Outside,
}

/// What a Service wants a key to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) standing: Standing,
    pub(super) map: &'static str,
    pub(super) verdict: Verdict,
}

/// Ordered by right: standing, then age, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant<K> {
    pub(super) standing: Standing,
    pub(super) created: i64,
    pub(super) service: K,
}

/// A claim that has no effect, since another Service has a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed<K> {
    /// `ADDRESS:PORT/PROTOCOL`, or `node port PORT/PROTOCOL`.
    pub what: String,
    pub loser: K,
    pub winner: K,
}

pub(super) fn spell(key: &[Data]) -> String {
    match key {
        [Data::Address(ip), Data::Proto(proto), Data::Port(port)] => {
            format!("{}/{proto:?}", std::net::SocketAddr::new(*ip, *port))
        }
        [Data::Proto(proto), Data::Port(port)] => format!("node port {port}/{proto:?}"),
        other => format!("{other:?}"),
    }
}

/// The claimants of each key, best first. Most keys have one.
#[derive(Clone, Debug)]
pub(super) struct Claimants<K>(BTreeMap<ClaimKey, Vec<Claimant<K>>>);

impl<K> Default for Claimants<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Claimants<K> {
    pub(super) fn of(&self, key: &[Data]) -> &[Claimant<K>] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, key: &[Data], claimant: Claimant<K>) {
        let claimants = self.0.entry(key.to_vec()).or_default();
        if let Err(at) = claimants.binary_search(&claimant) {
            claimants.reserve_exact(1);
            claimants.insert(at, claimant);
        }
    }

    pub(super) fn remove(&mut self, key: &[Data], claimant: &Claimant<K>) {
        let Some(claimants) = self.0.get_mut(key) else { return };
        if let Ok(at) = claimants.binary_search(claimant) {
            claimants.remove(at);
        }
        if claimants.is_empty() {
            self.0.remove(key);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The keys with who has them.
    pub(super) fn winners(&self) -> impl Iterator<Item = (&ClaimKey, &Claimant<K>)> {
        self.0.iter().filter_map(|(key, claimants)| Some((key, claimants.first()?)))
    }
}

/// Every shared map without elements, to count into.
pub(super) fn no_elements() -> BTreeMap<&'static str, usize> {
    [SERVICE_IPS, SERVICE_NODE_PORTS, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS].map(|map| (map, 0)).into()
}
