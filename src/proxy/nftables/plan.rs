//! The difference between what the kernel has and what it should have, as one transaction.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use netlink::nft::{Chain, Change, Data, Element, Family, Rule, TableName, Transaction, Verdict};

use super::{
    base::base,
    names::TABLE,
    render::{PodRange, Rendered, render},
};
use crate::model::ServiceModel;

/// What the kernel has, as far as we know: what the last successful transactions made.
#[derive(Clone, Debug)]
pub struct Programmed<K: Ord> {
    services: BTreeMap<K, Rendered>,
    /// Emptied chains and sets that nothing should use any more. They are deleted later and by themselves:
    /// the kernel may refuse while a set element that goes with them is still being freed.
    retired: BTreeSet<Retired>,
}

impl<K: Ord> Default for Programmed<K> {
    fn default() -> Self {
        Self { services: BTreeMap::new(), retired: BTreeSet::new() }
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
    after: Vec<(K, Option<Rendered>)>,
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
    let mut builder = Builder::new(base(family));
    let mut after = Vec::new();
    for (key, service) in services {
        let rendered = render(service, family, pods);
        builder.change(&Rendered::default(), &rendered);
        after.push((key.clone(), Some(rendered)));
    }
    builder.finish(family, after, true)
}

/// What the changed services need; `None` for one that is gone.
pub fn plan<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    family: Family,
    pods: PodRange,
) -> Plan<K> {
    let nothing = Rendered::default();
    let mut builder = Builder::new(Vec::new());
    let mut after = Vec::new();
    for (key, service) in changed {
        let before = programmed.services.get(key).unwrap_or(&nothing);
        let rendered = render(service, family, pods);
        builder.change(before, &rendered);
        let gone = rendered == nothing;
        after.push((key.clone(), (!gone).then_some(rendered)));
    }
    builder.finish(family, after, false)
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

impl<K: Ord> Programmed<K> {
    /// The kernel has accepted `plan`.
    pub fn accept(&mut self, plan: Plan<K>) {
        if plan.from_nothing {
            self.services.clear();
            self.retired.clear();
        }
        for (key, rendered) in plan.after {
            match rendered {
                Some(rendered) => drop(self.services.insert(key, rendered)),
                None => drop(self.services.remove(&key)),
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
        self.elements(before, after);
        self.retire(before, after);
    }

    fn elements(&mut self, before: &Rendered, after: &Rendered) {
        let element =
            |key: &[Data], verdict: &Verdict| Element::verdict(key.iter().copied(), verdict.clone());
        for ((map, key), verdict) in &before.elements {
            if after.elements.get(&(*map, key.clone())) != Some(verdict) {
                self.removed.entry(map).or_default().push(element(key, verdict));
            }
        }
        for ((map, key), verdict) in &after.elements {
            if before.elements.get(&(*map, key.clone())) != Some(verdict) {
                self.added.entry(map).or_default().push(element(key, verdict));
            }
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

    fn finish<K: Ord>(
        self,
        family: Family,
        after: Vec<(K, Option<Rendered>)>,
        from_nothing: bool,
    ) -> Plan<K> {
        let mut changes = self.first;
        changes.extend(self.sets);
        changes.extend(self.chains);
        changes.extend(self.rules);
        let delete =
            |(set, elements): (&str, Vec<Element>)| Change::DeleteElements { set: set.to_string(), elements };
        let add =
            |(set, elements): (&str, Vec<Element>)| Change::AddElements { set: set.to_string(), elements };
        // An address that moves from one Service to another in one go is removed first.
        changes.extend(self.removed.into_iter().map(delete));
        changes.extend(self.added.into_iter().map(add));
        changes.extend(self.last);
        let transaction = Transaction { table: table(family), changes };
        Plan { transaction, after, retire: self.retire, revive: self.revive, from_nothing }
    }
}
