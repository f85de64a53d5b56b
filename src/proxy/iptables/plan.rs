//! The difference between the rules that there are and those that there should be, as input of `iptables-restore --noflush`.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

use super::{
    base::{chains, jumps, rules},
    render::{Own, Wish, render},
    rules::{Restore, Saved, Section, SharedRule, Table},
};
use crate::{
    claims::{Held, Shadowed},
    model::{Pods, ServiceModel},
};

/// The rules of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub ipv6: bool,
    pub pods: Pods,
    /// Whether packets that conntrack takes for no connection's are not forwarded.
    pub drop_invalid: bool,
}

/// What the kernel has, as far as we know: what the last successful restores made.
#[derive(Clone, Debug)]
pub struct Programmed<K: Ord> {
    held: Held<K, Own, Vec<SharedRule>>,
}

impl<K: Ord> Default for Programmed<K> {
    fn default() -> Self {
        Self { held: Held::default() }
    }
}

/// An input, and what will be programmed once it was taken.
#[derive(Clone, Debug)]
pub struct Plan<K: Ord> {
    pub restore: Restore,
    /// Claims that lose with this plan and did not before, or lost to another.
    pub shadowed: Vec<Shadowed<K>>,
    /// Empty for a Service that is gone.
    after: BTreeMap<K, Wish>,
    from_nothing: bool,
}

/// Everything, where there is what was saved.
pub fn plan_all<'a, K: Ord + Clone + 'a>(
    services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    saved: &Saved,
    layout: Layout,
) -> Plan<K> {
    let after: BTreeMap<K, Wish> = services
        .into_iter()
        .map(|(key, model)| (key.clone(), render(model, layout.ipv6, layout.pods)))
        .collect();
    let nothing = Held::default();
    let (turns, shadowed) = nothing.settle(&after);
    let own: BTreeMap<&String, &Vec<String>> = after.values().flat_map(|wish| &wish.own).collect();
    let mut sections = BTreeMap::from(Table::ALL.map(|table| (table, Section::new(table))));
    let mut wanted: BTreeSet<(Table, &str)> = BTreeSet::new();
    for (table, section) in &mut sections {
        for chain in chains(*table) {
            wanted.insert((*table, chain));
            section.chain(*chain);
        }
        // Whoever put them there: all go, and ours come to the top in their order.
        for (_, chain, rule) in saved.jumps.iter().filter(|(of, ..)| of == table) {
            section.delete(chain, rule);
        }
        for jump in jumps().iter().rev().filter(|jump| jump.table == *table) {
            section.insert(jump.from, &jump.rule);
        }
        for (_, chain, rule) in rules(layout).iter().filter(|(of, ..)| of == table) {
            section.append(chain, rule);
        }
        if *table == Table::Nat {
            for (chain, rules) in &own {
                wanted.insert((*table, chain));
                section.chain(*chain);
                rules.iter().for_each(|rule| section.append(chain, rule));
            }
        }
        for shared in turns.iter().flat_map(|turn| turn.has.into_iter().flatten()) {
            if shared.table == *table {
                section.insert(shared.chain, &shared.rule);
            }
        }
    }
    for (table, chain) in saved.chains.keys().filter(|(table, chain)| !wanted.contains(&(*table, chain))) {
        if let Some(section) = sections.get_mut(table) {
            remove(section, *table, chain, saved);
        }
    }
    Plan { restore: Restore::of(sections.into_values()), shadowed, after, from_nothing: true }
}

/// What the changed Services need; the empty model for one that is gone.
pub fn plan<'a, K: Ord + Clone + 'a>(
    programmed: &Programmed<K>,
    changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>,
    layout: Layout,
) -> Plan<K> {
    let nothing = Own::new();
    let (mut before_nat, mut nat, mut after_nat) =
        (Section::new(Table::Filter), Section::new(Table::Nat), Section::new(Table::Filter));
    let mut after = BTreeMap::new();
    for (key, model) in changed {
        let wish = render(model, layout.ipv6, layout.pods);
        let before = programmed.held.get(key).map_or(&nothing, |before| &before.own);
        for (chain, rules) in wish.own.iter().filter(|(chain, rules)| before.get(*chain) != Some(rules)) {
            nat.chain(chain);
            rules.iter().for_each(|rule| nat.append(chain, rule));
        }
        for chain in before.keys().filter(|chain| !wish.own.contains_key(*chain)) {
            nat.remove_chain(chain);
        }
        after.insert(key.clone(), wish);
    }
    let (turns, shadowed) = programmed.held.settle(&after);
    let empty = Vec::new();
    for turn in &turns {
        let (had, has) = (turn.had.unwrap_or(&empty), turn.has.unwrap_or(&empty));
        for shared in had.iter().filter(|rule| !has.contains(rule)) {
            // What refuses goes after what translates has come, and comes before that goes: it meets what is not
            // translated, and nothing is let through in between.
            let section = if shared.table == Table::Nat { &mut nat } else { &mut after_nat };
            section.delete(shared.chain, &shared.rule);
        }
        for shared in has.iter().filter(|rule| !had.contains(rule)) {
            let section = if shared.table == Table::Nat { &mut nat } else { &mut before_nat };
            section.insert(shared.chain, &shared.rule);
        }
    }
    let restore = Restore::of([before_nat, nat, after_nat]);
    Plan { restore, shadowed, after, from_nothing: false }
}

/// Removes everything that was saved of a Service proxy, but for chains that other software uses: these are emptied.
#[must_use]
pub fn plan_removal(saved: &Saved) -> Restore {
    let mut sections = BTreeMap::from(Table::ALL.map(|table| (table, Section::new(table))));
    for (table, chain, rule) in &saved.jumps {
        if let Some(section) = sections.get_mut(table) {
            section.delete(chain, rule);
        }
    }
    for (table, chain) in saved.chains.keys() {
        if let Some(section) = sections.get_mut(table) {
            remove(section, *table, chain, saved);
        }
    }
    Restore::of(sections.into_values())
}

/// One that other software leads to cannot go, and is left empty.
fn remove(section: &mut Section, table: Table, chain: &str, saved: &Saved) {
    if saved.used.contains(&(table, chain.to_string())) {
        section.chain(chain);
    } else {
        section.remove_chain(chain);
    }
}

impl<K: Ord + Clone> Programmed<K> {
    /// The kernel has taken `plan`.
    pub fn accept(&mut self, plan: Plan<K>) {
        if plan.from_nothing {
            self.held = Held::default();
        }
        self.held.accept(plan.after);
    }

    /// Whether there is in the kernel what we gave it.
    #[must_use]
    pub fn matches(&self, saved: &Saved, layout: Layout) -> bool {
        let counts = self.rule_counts(layout);
        let has = |((table, chain), count): (&(Table, &str), &usize)| {
            saved.chains.get(&(*table, (*chain).to_string())) == Some(count)
        };
        let expected =
            |table, from: &str| jumps().iter().filter(|j| j.table == table && j.from == from).count();
        let found =
            |table, from: &str| saved.jumps.iter().filter(|(t, f, _)| *t == table && f == from).count();
        counts.iter().all(has)
            && jumps().iter().all(|jump| found(jump.table, jump.from) == expected(jump.table, jump.from))
    }

    fn rule_counts(&self, layout: Layout) -> BTreeMap<(Table, &str), usize> {
        let mut counts = BTreeMap::new();
        for table in Table::ALL {
            counts.extend(chains(table).iter().map(|chain| ((table, *chain), 0)));
        }
        for (table, chain, _) in rules(layout) {
            *counts.entry((table, chain)).or_default() += 1;
        }
        for shared in self.held.winners().flat_map(|(_, rules)| rules) {
            *counts.entry((shared.table, shared.chain)).or_default() += 1;
        }
        for (chain, rules) in self.held.own().flatten() {
            counts.insert((Table::Nat, chain.as_str()), rules.len());
        }
        counts
    }
}
