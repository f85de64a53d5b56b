//! The difference between what the kernel has and what it should have, as one transaction.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
};

use netlink::nft::{Chain, Change, Data, Element, Family, Rule, TableName, Transaction};

use super::{
    base::base,
    claims::{Claim, ClaimKey, Claimant, Claimants, Shadowed, no_elements, spell},
    names::TABLE,
    render::{PodRange, Rendered, render},
};
use crate::model::ServiceModel;

/// What the kernel has, as far as we know: what the last successful transactions made.
#[derive(Clone, Debug)]
pub struct Programmed<K: Ord> {
    services: BTreeMap<K, Rendered>,
    /// By key of the shared maps, so that a change looks at its own keys only.
    claimants: Claimants<K>,
    /// Emptied chains and sets that nothing should use any more. They are deleted later and by themselves:
    /// the kernel may refuse while a set element that goes with them is still being freed.
    retired: BTreeSet<Retired>,
}

impl<K: Ord> Default for Programmed<K> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), claimants: Claimants::default(), retired: BTreeSet::new() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retired {
    Chain(String),
    Set(String),
}

/// A transaction, and what will be programmed once the kernel has accepted it.
#[derive(Clone, Debug)]
pub struct Plan<K: Ord> {
    pub transaction: Transaction,
    /// Claims that lose with this plan and did not before, or lost to another.
    pub shadowed: Vec<Shadowed<K>>,
    /// Empty for a Service that is gone.
    after: BTreeMap<K, Rendered>,
    retire: BTreeSet<Retired>,
    revive: BTreeSet<Retired>,
    from_nothing: bool,
}

impl<K: Ord> Plan<K> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transaction.changes.is_empty()
    }
}

fn table(family: Family) -> TableName {
    TableName { family, name: TABLE.to_string() }
}

/// The whole table from nothing.
pub fn plan_all<'a, K: Ord + Clone + 'a>(
    services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    family: Family,
    pods: PodRange,
) -> Plan<K> {
    plan_from(&Programmed::default(), services, (family, pods), Some(base(family)))
}

/// What the changed services need; `None` for one that is gone.
pub fn plan<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    family: Family,
    pods: PodRange,
) -> Plan<K> {
    plan_from(programmed, changed, (family, pods), None)
}

/// `base` comes first where the table is made from nothing.
fn plan_from<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    (family, pods): (Family, PodRange),
    base: Option<Vec<Change>>,
) -> Plan<K> {
    let nothing = Rendered::default();
    let from_nothing = base.is_some();
    let mut builder = Builder::new(base.unwrap_or_default());
    let mut after = BTreeMap::new();
    for (key, service) in changed {
        let rendered = render(service, family, pods);
        builder.change(programmed.services.get(key).unwrap_or(&nothing), &rendered);
        after.insert(key.clone(), rendered);
    }
    let shadowed = builder.elements(programmed, &after);
    let transaction = Transaction { table: table(family), changes: builder.ordered() };
    Plan { transaction, after, retire: builder.retire, revive: builder.revive, from_nothing, shadowed }
}

/// Deletes what was retired before.
#[must_use]
pub fn plan_deletions<K: Ord>(programmed: &Programmed<K>, family: Family) -> Transaction {
    let delete = |retired: &Retired| match retired {
        Retired::Chain(name) => Change::DeleteChain(name.clone()),
        Retired::Set(name) => Change::DeleteSet(name.clone()),
    };
    Transaction { table: table(family), changes: programmed.retired.iter().map(delete).collect() }
}

impl<K: Ord + Clone> Programmed<K> {
    /// The kernel has accepted `plan`.
    pub fn accept(&mut self, plan: Plan<K>) {
        if plan.from_nothing {
            self.services.clear();
            self.claimants.clear();
            self.retired.clear();
        }
        for (key, rendered) in plan.after {
            if let Some(before) = self.services.remove(&key) {
                for (claimed, claim) in &before.claims {
                    self.claimants.remove(claimed, &claimant(&key, &before, claim));
                }
            }
            for (claimed, claim) in &rendered.claims {
                self.claimants.insert(claimed, claimant(&key, &rendered, claim));
            }
            if !rendered.is_empty() {
                self.services.insert(key, rendered);
            }
        }
        for revived in &plan.revive {
            self.retired.remove(revived);
        }
        self.retired.extend(plan.retire);
    }

    /// The kernel has deleted what was retired.
    pub fn accept_deletions(&mut self) {
        self.retired.clear();
    }

    #[must_use]
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// How many rules each of our chains has, to hold against what the kernel counts.
    #[must_use]
    pub fn rule_counts(&self) -> BTreeMap<&str, usize> {
        let rendered = self.services.values().flat_map(|service| &service.chains);
        rendered.map(|(name, rules)| (name.as_str(), rules.len())).collect()
    }
}

impl<K: Ord> Programmed<K> {
    /// How many elements each shared map has, to hold against what the kernel counts.
    #[must_use]
    pub fn element_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = no_elements();
        for (key, winner) in self.claimants.winners() {
            if let Some(claim) = self.claim(key, winner) {
                *counts.entry(claim.map).or_default() += 1;
            }
        }
        counts
    }

    fn claim(&self, key: &[Data], claimant: &Claimant<K>) -> Option<&Claim> {
        self.services.get(&claimant.service)?.claims.get(key)
    }
}

fn claimant<K: Clone>(service: &K, rendered: &Rendered, claim: &Claim) -> Claimant<K> {
    Claimant { standing: claim.standing, created: rendered.created, service: service.clone() }
}

/// Collects changes by the order in which the kernel needs them.
struct Builder {
    first: Vec<Change>,
    sets: Vec<Change>,
    chains: Vec<Change>,
    rules: Vec<Change>,
    removed: BTreeMap<&'static str, Vec<Element>>,
    added: BTreeMap<&'static str, Vec<Element>>,
    last: Vec<Change>,
    retire: BTreeSet<Retired>,
    revive: BTreeSet<Retired>,
}

impl Builder {
    fn new(first: Vec<Change>) -> Self {
        Self {
            first,
            sets: Vec::new(),
            chains: Vec::new(),
            rules: Vec::new(),
            removed: BTreeMap::new(),
            added: BTreeMap::new(),
            last: Vec::new(),
            retire: BTreeSet::new(),
            revive: BTreeSet::new(),
        }
    }

    /// What leads from `before` to `after` for one Service.
    fn change(&mut self, before: &Rendered, after: &Rendered) {
        for (name, set) in after.sets.iter().filter(|(name, set)| before.sets.get(*name) != Some(set)) {
            self.sets.push(Change::AddSet(set.clone()));
            self.revive.insert(Retired::Set(name.clone()));
        }
        for (name, rules) in
            after.chains.iter().filter(|(name, rules)| before.chains.get(*name) != Some(rules))
        {
            if before.chains.contains_key(name) {
                self.rules.push(Change::FlushChain(name.clone()));
            } else {
                // Making a chain that is retired but not yet deleted does nothing: it is there, and empty.
                self.chains.push(Change::AddChain(Chain::plain(name.clone())));
                self.revive.insert(Retired::Chain(name.clone()));
            }
            let rules = rules.iter().map(|statements| Rule::new(name.clone(), statements.iter().cloned()));
            self.rules.extend(rules.map(Change::AddRule));
        }
        self.retire(before, after);
    }

    /// Decides every key that a changed Service had or wants, and tells who loses now.
    fn elements<K: Ord + Clone>(
        &mut self,
        programmed: &Programmed<K>,
        after: &BTreeMap<K, Rendered>,
    ) -> Vec<Shadowed<K>> {
        let mut fresh: BTreeMap<&ClaimKey, BTreeSet<Claimant<K>>> = BTreeMap::new();
        for (service, rendered) in after {
            for key in programmed.services.get(service).iter().flat_map(|before| before.claims.keys()) {
                fresh.entry(key).or_default();
            }
            for (key, claim) in &rendered.claims {
                fresh.entry(key).or_default().insert(claimant(service, rendered, claim));
            }
        }
        let mut shadowed = Vec::new();
        for (key, fresh) in fresh {
            let known = programmed.claimants.of(key);
            let old = known.first();
            let kept = known.iter().find(|claimant| !after.contains_key(&claimant.service));
            let new = fresh.first().into_iter().chain(kept).min();
            let had = old.and_then(|old| programmed.claim(key, old));
            let has = new.and_then(|new| match after.get(&new.service) {
                Some(rendered) => rendered.claims.get(key),
                None => programmed.claim(key, new),
            });
            self.element(key, had, has);
            let Some(new) = new else { continue };
            let same_winner = old.is_some_and(|old| old.service == new.service);
            let displaced = old.filter(|old| !after.contains_key(&old.service));
            let losers = fresh.iter().chain(displaced).filter(|loser| loser.service != new.service);
            let told = |loser: &Claimant<K>| {
                same_winner
                    && programmed.services.get(&loser.service).is_some_and(|s| s.claims.contains_key(key))
            };
            shadowed.extend(losers.filter(|loser| !told(loser)).map(|loser| Shadowed {
                what: spell(key),
                loser: loser.service.clone(),
                winner: new.service.clone(),
            }));
        }
        shadowed
    }

    fn element(&mut self, key: &[Data], had: Option<&Claim>, has: Option<&Claim>) {
        let place = |claim: &Claim| (claim.map, Element::verdict(key.iter().copied(), claim.verdict.clone()));
        let same = |(had, has): (&Claim, &Claim)| had.map == has.map && had.verdict == has.verdict;
        if had.zip(has).is_some_and(same) {
            return;
        }
        if let Some((map, element)) = had.map(place) {
            self.removed.entry(map).or_default().push(element);
        }
        if let Some((map, element)) = has.map(place) {
            self.added.entry(map).or_default().push(element);
        }
    }

    fn retire(&mut self, before: &Rendered, after: &Rendered) {
        for name in before.chains.keys().filter(|name| !after.chains.contains_key(*name)) {
            self.last.push(Change::FlushChain(name.clone()));
            self.retire.insert(Retired::Chain(name.clone()));
        }
        for name in before.sets.keys().filter(|name| !after.sets.contains_key(*name)) {
            self.retire.insert(Retired::Set(name.clone()));
        }
    }

    /// The changes in the order in which the kernel takes them.
    fn ordered(&mut self) -> Vec<Change> {
        let mut changes = take(&mut self.first);
        changes.append(&mut self.sets);
        changes.append(&mut self.chains);
        changes.append(&mut self.rules);
        let delete =
            |(set, elements): (&str, Vec<Element>)| Change::DeleteElements { set: set.to_string(), elements };
        let add =
            |(set, elements): (&str, Vec<Element>)| Change::AddElements { set: set.to_string(), elements };
        // An address that moves from one Service to another in one go is removed first.
        changes.extend(take(&mut self.removed).into_iter().map(delete));
        changes.extend(take(&mut self.added).into_iter().map(add));
        changes.append(&mut self.last);
        changes
    }
}
