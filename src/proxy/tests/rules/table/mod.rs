//! A table in memory that refuses what the kernel refuses.

use std::collections::{BTreeMap, BTreeSet};

use netlink::nft::{Change, Data, Statement, Transaction, Value, Verdict};

/// The content of a table: rules by chain, elements by map, names of plain sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    chains: BTreeMap<String, Vec<String>>,
    jumps: BTreeMap<String, BTreeSet<String>>,
    sets: BTreeMap<String, BTreeMap<Vec<Data>, String>>,
    targets: BTreeMap<(String, Vec<Data>), String>,
}

impl Table {
    /// All changes or none, and why none.
    pub(crate) fn commit(&mut self, transaction: &Transaction) -> Result<(), String> {
        let mut next = self.clone();
        for change in &transaction.changes {
            next.apply(change).map_err(|reason| format!("{change:?}: {reason}"))?;
        }
        *self = next;
        Ok(())
    }

    fn apply(&mut self, change: &Change) -> Result<(), String> {
        match change {
            Change::AddTable => {}
            Change::DeleteTable => *self = Self::default(),
            Change::AddChain(chain) => drop(self.chains.entry(chain.name.clone()).or_default()),
            Change::FlushChain(name) => {
                self.chains.get_mut(name).ok_or("no such chain")?.clear();
                self.jumps.remove(name);
            }
            Change::DeleteChain(name) => {
                if !self.chains.get(name).ok_or("no such chain")?.is_empty() {
                    return Err("the chain is not empty".into());
                }
                let used = self.jumps.values().any(|to| to.contains(name))
                    || self.targets.values().any(|to| to == name);
                if used {
                    return Err("something goes to the chain".into());
                }
                self.chains.remove(name);
            }
            Change::AddRule(rule) => {
                for statement in &rule.statements {
                    self.check(&rule.chain, statement)?;
                }
                let text = format!("{:?}", rule.statements);
                self.chains.get_mut(&rule.chain).ok_or("no such chain")?.push(text);
            }
            Change::AddSet(set) => drop(self.sets.entry(set.name.clone()).or_default()),
            Change::FlushSet(name) => self.sets.get_mut(name).ok_or("no such set")?.clear(),
            Change::DeleteSet(name) => {
                let used = self.chains.values().flatten().any(|rule| rule.contains(name.as_str()));
                if used {
                    return Err("a rule names the set".into());
                }
                self.sets.remove(name).ok_or("no such set")?;
            }
            Change::AddElements { set, elements } => {
                for element in elements {
                    let value = format!("{:?}", element.value);
                    if let Value::Verdict(Verdict::Goto(to) | Verdict::Jump(to)) = &element.value {
                        self.chains.get(to).ok_or("no chain to go to")?;
                        self.targets.insert((set.clone(), element.key.clone()), to.clone());
                    }
                    let old = self
                        .sets
                        .get_mut(set)
                        .ok_or("no such set")?
                        .insert(element.key.clone(), value.clone());
                    if old.is_some_and(|old| old != value) {
                        return Err("the element is there with another value".into());
                    }
                }
            }
            Change::DeleteElements { set, elements } => {
                for element in elements {
                    self.sets
                        .get_mut(set)
                        .ok_or("no such set")?
                        .remove(&element.key)
                        .ok_or("no such element")?;
                    self.targets.remove(&(set.clone(), element.key.clone()));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self, chain: &str, statement: &Statement) -> Result<(), String> {
        let verdicts: Vec<&Verdict> = match statement {
            Statement::Do(verdict) => vec![verdict],
            Statement::RandomVerdict(verdicts) => verdicts.iter().collect(),
            Statement::Vmap { map: set, .. }
            | Statement::InSet { set, .. }
            | Statement::Update { set, .. } => {
                return self.sets.get(set).map(drop).ok_or("no such set".into());
            }
            _ => Vec::new(),
        };
        for verdict in verdicts {
            if let Verdict::Goto(to) | Verdict::Jump(to) = verdict {
                self.chains.get(to).ok_or("no chain to go to")?;
                self.jumps.entry(chain.to_string()).or_default().insert(to.clone());
            }
        }
        Ok(())
    }
}
