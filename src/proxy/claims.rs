//! Who has an entrance when several Services claim it.
//!
//! An address with a port, or a node port, is one Service's: the kernel takes one verdict for a key of a map and one virtual
//! server for an address, and of two rules only the first counts. So every claim is decided here, in each mode alike.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Entrance, Via};

/// How strong a claim is: the stronger comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// The API gives a cluster IP to one Service only.
    Cluster,
    /// External IPs, load balancers' addresses and node ports, which users choose.
    Outside,
}

/// What a Service wants an entrance to do, in the words of a mode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim<V> {
    standing: Standing,
    value: V,
}

/// What one Service wants of the kernel in one mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish<P, V> {
    /// What no other Service can want: its own chains, for example.
    pub(crate) own: P,
    claims: BTreeMap<Entrance, Claim<V>>,
    /// Decides between claims.
    created: i64,
}

impl<P: Default + PartialEq, V> Wish<P, V> {
    pub(crate) fn new(created: i64) -> Self {
        Self { own: P::default(), claims: BTreeMap::new(), created }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.own == P::default() && self.claims.is_empty()
    }

    /// Of two claims of one Service to one entrance the stronger counts, then the first.
    pub(crate) fn claim(&mut self, entrance: Entrance, via: Via, value: V) {
        let standing = if via == Via::ClusterIp { Standing::Cluster } else { Standing::Outside };
        if self.claims.get(&entrance).is_none_or(|other| standing < other.standing) {
            self.claims.insert(entrance, Claim { standing, value });
        }
    }
}

/// Ordered by right: standing, then age, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant<K> {
    standing: Standing,
    created: i64,
    service: K,
}

/// A claim that has no effect, since another Service has a better one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed<K> {
    /// `ADDRESS:PORT/PROTOCOL`, or `node port PORT/PROTOCOL`.
    pub what: String,
    pub loser: K,
    pub winner: K,
}

/// An entrance that does something else after a change than before.
#[derive(Debug)]
pub(crate) struct Turn<'a, V> {
    pub(crate) entrance: Entrance,
    pub(crate) had: Option<&'a V>,
    pub(crate) has: Option<&'a V>,
}

/// What all Services have in one mode and family, as far as we know: what was accepted last.
#[derive(Clone, Debug)]
pub(crate) struct Held<K, P, V> {
    services: BTreeMap<K, Wish<P, V>>,
    /// The claimants of each entrance, best first: a change looks at its own entrances only. Most have one.
    claimants: BTreeMap<Entrance, Vec<Claimant<K>>>,
}

impl<K, P, V> Default for Held<K, P, V> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), claimants: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, P: Default + PartialEq, V: PartialEq> Held<K, P, V> {
    pub(crate) fn get(&self, service: &K) -> Option<&Wish<P, V>> {
        self.services.get(service)
    }

    pub(crate) fn own(&self) -> impl Iterator<Item = &P> {
        self.services.values().map(|wish| &wish.own)
    }

    /// What each entrance does that does anything.
    pub(crate) fn winners(&self) -> impl Iterator<Item = (&Entrance, &V)> {
        self.claimants
            .iter()
            .filter_map(|(entrance, claimants)| Some((entrance, self.value(*entrance, claimants.first()?)?)))
    }

    fn value(&self, entrance: Entrance, claimant: &Claimant<K>) -> Option<&V> {
        self.services.get(&claimant.service)?.claims.get(&entrance).map(|claim| &claim.value)
    }

    fn known(&self, entrance: Entrance) -> &[Claimant<K>] {
        self.claimants.get(&entrance).map_or(&[], Vec::as_slice)
    }

    /// Decides every entrance that a changed Service had or wants, and tells who loses now.
    pub(crate) fn settle<'a>(
        &'a self,
        after: &'a BTreeMap<K, Wish<P, V>>,
    ) -> (Vec<Turn<'a, V>>, Vec<Shadowed<K>>) {
        let mut fresh: BTreeMap<Entrance, BTreeSet<Claimant<K>>> = BTreeMap::new();
        for (service, wish) in after {
            for entrance in self.services.get(service).iter().flat_map(|before| before.claims.keys()) {
                fresh.entry(*entrance).or_default();
            }
            for (entrance, claim) in &wish.claims {
                fresh.entry(*entrance).or_default().insert(claimant(service, wish, claim));
            }
        }
        let (mut turns, mut shadowed) = (Vec::new(), Vec::new());
        for (entrance, fresh) in fresh {
            let known = self.known(entrance);
            let old = known.first();
            let kept = known.iter().find(|claimant| !after.contains_key(&claimant.service));
            let new = fresh.first().into_iter().chain(kept).min();
            let had = old.and_then(|old| self.value(entrance, old));
            let has = new.and_then(|new| match after.get(&new.service) {
                Some(wish) => wish.claims.get(&entrance).map(|claim| &claim.value),
                None => self.value(entrance, new),
            });
            if had != has {
                turns.push(Turn { entrance, had, has });
            }
            let Some(new) = new else { continue };
            let same_winner = old.is_some_and(|old| old.service == new.service);
            let displaced = old.filter(|old| !after.contains_key(&old.service));
            let losers = fresh.iter().chain(displaced).filter(|loser| loser.service != new.service);
            let told = |loser: &Claimant<K>| {
                same_winner
                    && self.services.get(&loser.service).is_some_and(|s| s.claims.contains_key(&entrance))
            };
            shadowed.extend(losers.filter(|loser| !told(loser)).map(|loser| Shadowed {
                what: entrance.to_string(),
                loser: loser.service.clone(),
                winner: new.service.clone(),
            }));
        }
        (turns, shadowed)
    }

    /// What was settled is so. A Service that wants nothing is gone.
    pub(crate) fn accept(&mut self, after: BTreeMap<K, Wish<P, V>>) {
        for (service, wish) in after {
            if let Some(before) = self.services.remove(&service) {
                for (entrance, claim) in &before.claims {
                    self.withdraw(*entrance, &claimant(&service, &before, claim));
                }
            }
            for (entrance, claim) in &wish.claims {
                self.enter(*entrance, claimant(&service, &wish, claim));
            }
            if !wish.is_empty() {
                self.services.insert(service, wish);
            }
        }
    }

    fn enter(&mut self, entrance: Entrance, claimant: Claimant<K>) {
        let claimants = self.claimants.entry(entrance).or_default();
        if let Err(at) = claimants.binary_search(&claimant) {
            claimants.reserve_exact(1);
            claimants.insert(at, claimant);
        }
    }

    fn withdraw(&mut self, entrance: Entrance, claimant: &Claimant<K>) {
        let Some(claimants) = self.claimants.get_mut(&entrance) else { return };
        if let Ok(at) = claimants.binary_search(claimant) {
            claimants.remove(at);
        }
        if claimants.is_empty() {
            self.claimants.remove(&entrance);
        }
    }
}

fn claimant<K: Clone, P, V>(service: &K, wish: &Wish<P, V>, claim: &Claim<V>) -> Claimant<K> {
    Claimant { standing: claim.standing, created: wish.created, service: service.clone() }
}
