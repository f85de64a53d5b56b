//! The difference between what the kernel has and what it should have, as one transaction.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::take,
    net::IpAddr,
};

use netlink::nft::{Chain, Change, Data, Element, Rule, TableName, TableState, Transaction, Verdict};

use super::{
    base::base,
    names::{
        HAIRPINS, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS, SERVICE_ADDRESSES, SERVICE_IPS,
        SERVICE_NODE_PORTS, TABLE,
    },
    render::{Elements, Layout, Own, Role, Wish, render},
};
use crate::{
    claims::{Held, Shadowed, Turn},
    model::{Entrance, ServiceModel},
};

/// What the kernel has, as far as we know: what the last successful transactions made.
#[derive(Clone, Debug)]
pub struct Programmed<K: Ord> {
    held: Held<K, Own, Elements>,
    /// Emptied chains and sets that nothing should use any more. They are deleted later and by themselves:
    /// the kernel may refuse while a set element that goes with them is still being freed.
    retired: BTreeSet<Retired>,
    /// How many entrances an address has; how many Services an endpoint.
    addresses: Counts,
    hairpins: Counts,
    /// This node's own addresses, when all was written: what else comes to one of them is no Service's.
    node: BTreeSet<IpAddr>,
}

type Counts = BTreeMap<IpAddr, usize>;

impl<K: Ord> Default for Programmed<K> {
    fn default() -> Self {
        Self {
            held: Held::default(),
            retired: BTreeSet::new(),
            addresses: Counts::new(),
            hairpins: Counts::new(),
            node: BTreeSet::new(),
        }
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
    after: BTreeMap<K, Wish>,
    retire: BTreeSet<Retired>,
    revive: BTreeSet<Retired>,
    addresses: Delta,
    hairpins: Delta,
    /// The node's own addresses, where all is written.
    from_nothing: Option<BTreeSet<IpAddr>>,
}

impl<K: Ord> Plan<K> {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.transaction.changes.is_empty()
    }
}

fn table(layout: Layout) -> TableName {
    TableName { family: layout.family, name: TABLE.to_string() }
}

/// The whole table from nothing.
pub fn plan_all<'a, K: Ord + Clone + 'a>(
    services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    layout: Layout,
) -> Plan<K> {
    plan_all_on(BTreeSet::new(), services, layout)
}

/// The same on a node with these addresses, which count beside IPVS only.
pub fn plan_all_on<'a, K: Ord + Clone + 'a>(
    node: BTreeSet<IpAddr>,
    services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    layout: Layout,
) -> Plan<K> {
    let nothing = Programmed { node, ..Programmed::default() };
    let plan = plan_from(&nothing, services, layout, base(layout));
    Plan { from_nothing: Some(nothing.node), ..plan }
}

/// What the changed Services need; the empty model for one that is gone.
pub fn plan<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    layout: Layout,
) -> Plan<K> {
    plan_from(programmed, changed, layout, Vec::new())
}

/// `base` comes first.
fn plan_from<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    layout: Layout,
    base: Vec<Change>,
) -> Plan<K> {
    let nothing = Own::default();
    let mut builder = Builder::new(base);
    let (mut after, mut hairpins) = (BTreeMap::new(), Delta::default());
    for (key, service) in changed {
        let wish = render(service, layout);
        let before = programmed.held.get(key).map_or(&nothing, |before| &before.own);
        builder.change(before, &wish.own);
        hairpins.change(&before.hairpins, &wish.own.hairpins);
        after.insert(key.clone(), wish);
    }
    let (turns, shadowed) = programmed.held.settle(&after);
    let mut addresses = Delta::default();
    for turn in &turns {
        builder.turn(turn);
        if let Entrance::Address(ip, ..) = turn.entrance {
            addresses.change(turn.had.map(|_| &ip), turn.has.map(|_| &ip));
        }
    }
    if layout.role == Role::BesideIpvs {
        let members = addresses.without(&programmed.node);
        builder.members(SERVICE_ADDRESSES, 1, &members, &programmed.addresses);
        builder.members(HAIRPINS, 2, &hairpins, &programmed.hairpins);
    }
    let transaction = Transaction { table: table(layout), changes: builder.ordered() };
    let Builder { retire, revive, .. } = builder;
    Plan { transaction, after, retire, revive, addresses, hairpins, from_nothing: None, shadowed }
}

/// By how much counts of addresses change.
#[derive(Clone, Debug, Default)]
struct Delta(BTreeMap<IpAddr, isize>);

impl Delta {
    fn change<'a>(
        &mut self,
        before: impl IntoIterator<Item = &'a IpAddr>,
        after: impl IntoIterator<Item = &'a IpAddr>,
    ) {
        before.into_iter().for_each(|ip| *self.0.entry(*ip).or_default() -= 1);
        after.into_iter().for_each(|ip| *self.0.entry(*ip).or_default() += 1);
    }

    fn without(&self, addresses: &BTreeSet<IpAddr>) -> Self {
        Self(self.0.iter().filter(|(ip, _)| !addresses.contains(ip)).map(|(ip, by)| (*ip, *by)).collect())
    }

    /// Each address with how often it was and will be counted.
    fn counts(&self, known: &Counts) -> impl Iterator<Item = (IpAddr, usize, usize)> {
        self.0.iter().map(|(ip, by)| {
            let count = known.get(ip).copied().unwrap_or_default();
            (*ip, count, count.saturating_add_signed(*by))
        })
    }

    fn apply(&self, counts: &mut Counts) {
        let after: Vec<_> = self.counts(counts).map(|(ip, _, after)| (ip, after)).collect();
        for (ip, count) in after {
            let _before = if count == 0 { counts.remove(&ip) } else { counts.insert(ip, count) };
        }
    }
}

/// Deletes what was retired before.
#[must_use]
pub fn plan_deletions<K: Ord>(programmed: &Programmed<K>, layout: Layout) -> Transaction {
    let delete = |retired: &Retired| match retired {
        Retired::Chain(name) => Change::DeleteChain(name.clone()),
        Retired::Set(name) => Change::DeleteSet(name.clone()),
    };
    Transaction { table: table(layout), changes: programmed.retired.iter().map(delete).collect() }
}

impl<K: Ord + Clone> Programmed<K> {
    /// The kernel has accepted `plan`.
    pub fn accept(&mut self, plan: Plan<K>) {
        if let Some(node) = plan.from_nothing {
            *self = Self { node, ..Self::default() };
        }
        self.held.accept(plan.after);
        plan.addresses.apply(&mut self.addresses);
        plan.hairpins.apply(&mut self.hairpins);
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
    pub fn rule_counts(&self, layout: Layout) -> BTreeMap<String, usize> {
        let shared = Transaction { table: table(layout), changes: base(layout) };
        let mut counts = TableState::after(&shared).chains;
        let chains = self.held.own().flat_map(|own| &own.chains);
        counts.extend(chains.map(|(name, rules)| (name.clone(), rules.len())));
        counts
    }

    /// How many elements each shared map and set has, to hold against what the kernel counts.
    #[must_use]
    pub fn element_counts(&self, layout: Layout) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<&'static str, usize> =
            [SERVICE_IPS, SERVICE_NODE_PORTS, NO_ENDPOINT_IPS, NO_ENDPOINT_NODE_PORTS]
                .map(|map| (map, 0))
                .into();
        for (entrance, elements) in self.held.winners() {
            for (map, _) in places(*entrance, Some(elements)) {
                *counts.entry(map).or_default() += 1;
            }
        }
        if layout.role == Role::BesideIpvs {
            let members = self.addresses.keys().filter(|ip| !self.node.contains(ip)).count();
            counts.extend([(SERVICE_ADDRESSES, members), (HAIRPINS, self.hairpins.len())]);
        }
        counts
    }

    /// This node's own addresses, as they were when all was written.
    #[must_use]
    pub fn node(&self) -> &BTreeSet<IpAddr> {
        &self.node
    }

    /// The addresses by which connections come to Services.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }
}

/// What an entrance has in which of the shared maps.
fn places(entrance: Entrance, elements: Option<&Elements>) -> BTreeMap<&'static str, &Verdict> {
    let Some(elements) = elements else { return BTreeMap::new() };
    let maps = match entrance {
        Entrance::Address(..) => [SERVICE_IPS, NO_ENDPOINT_IPS],
        Entrance::NodePort { .. } => [SERVICE_NODE_PORTS, NO_ENDPOINT_NODE_PORTS],
    };
    let verdicts = [&elements.services, &elements.no_endpoints];
    maps.into_iter().zip(verdicts).filter_map(|(map, verdict)| Some((map, verdict.as_ref()?))).collect()
}

fn key(entrance: Entrance) -> Vec<Data> {
    match entrance {
        Entrance::Address(ip, proto, port) => vec![Data::Address(ip), Data::Proto(proto), Data::Port(port)],
        Entrance::NodePort { proto, port, .. } => vec![Data::Proto(proto), Data::Port(port)],
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
    fn change(&mut self, before: &Own, after: &Own) {
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

    fn turn(&mut self, turn: &Turn<'_, Elements>) {
        let (had, has) = (places(turn.entrance, turn.had), places(turn.entrance, turn.has));
        let element = |verdict: &Verdict| Element::verdict(key(turn.entrance), verdict.clone());
        for (map, verdict) in had.iter().filter(|(map, verdict)| has.get(*map) != Some(*verdict)) {
            self.removed.entry(map).or_default().push(element(verdict));
        }
        for (map, verdict) in has.iter().filter(|(map, verdict)| had.get(*map) != Some(*verdict)) {
            self.added.entry(map).or_default().push(element(verdict));
        }
    }

    /// Addresses that are counted for the first time, or not any more, come into a set or go; each `width` times in its key.
    fn members(&mut self, set: &'static str, width: usize, delta: &Delta, known: &Counts) {
        for (ip, before, after) in delta.counts(known) {
            let element = || Element::member(vec![Data::Address(ip); width]);
            match (before, after) {
                (0, 1..) => self.added.entry(set).or_default().push(element()),
                (1.., 0) => self.removed.entry(set).or_default().push(element()),
                _ => {}
            }
        }
    }

    fn retire(&mut self, before: &Own, after: &Own) {
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
