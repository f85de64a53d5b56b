//! Tables, rules, and the text in which `iptables-restore` takes and `iptables-save` gives them.
#![deny(clippy::disallowed_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::names::{is_ours, is_proof};

/// The tables that Services have rules in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Mangle,
    Filter,
    Nat,
}

impl Table {
    pub(super) const ALL: [Self; 3] = [Self::Mangle, Self::Filter, Self::Nat];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mangle => "mangle",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A rule in a chain that Services share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SharedRule {
    pub(super) table: Table,
    pub(super) chain: &'static str,
    pub(super) rule: String,
}

/// What is to be done to one table, in the order in which it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    table: Table,
    /// Made if they are not there, emptied if they are.
    chains: Vec<String>,
    rules: Vec<String>,
    /// Removed: emptied before.
    stale: Vec<String>,
}

impl Section {
    pub(super) fn new(table: Table) -> Self {
        Self { table, chains: Vec::new(), rules: Vec::new(), stale: Vec::new() }
    }

    pub(super) fn chain(&mut self, name: impl Into<String>) {
        self.chains.push(name.into());
    }

    pub(super) fn append(&mut self, chain: &str, rule: &str) {
        self.rules.push(format!("-A {chain} {rule}"));
    }

    /// At the beginning of the chain.
    pub(super) fn insert(&mut self, chain: &str, rule: &str) {
        self.rules.push(format!("-I {chain} {rule}"));
    }

    /// Everything is refused where there is no such rule.
    pub(super) fn delete(&mut self, chain: &str, rule: &str) {
        self.rules.push(format!("-D {chain} {rule}"));
    }

    pub(super) fn remove_chain(&mut self, name: impl Into<String>) {
        self.stale.push(name.into());
    }

    fn lines(&self) -> usize {
        self.chains.len() + self.rules.len() + self.stale.len()
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table.name())?;
        for chain in self.chains.iter().chain(&self.stale) {
            writeln!(f, ":{chain} - [0:0]")?;
        }
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        for chain in &self.stale {
            writeln!(f, "-X {chain}")?;
        }
        writeln!(f, "COMMIT")
    }
}

/// The input of one `iptables-restore --noflush`. Each section is made as a whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    sections: Vec<Section>,
}

impl Restore {
    pub(super) fn of(sections: impl IntoIterator<Item = Section>) -> Self {
        Self { sections: sections.into_iter().filter(|section| section.lines() > 0).collect() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// How many chains and rules it names.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.sections.iter().map(Section::lines).sum()
    }
}

impl fmt::Display for Restore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sections.iter().try_for_each(|section| section.fmt(f))
    }
}

/// What the kernel has that is a Service proxy's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// How many rules each of our chains has.
    pub(super) chains: BTreeMap<(Table, String), usize>,
    /// Rules that lead to them from the kernel's own chains, as `iptables-save` writes them: chain and rule.
    pub(super) jumps: Vec<(Table, String, String)>,
    /// Those of them that other software's chains lead to, which stay as they are: a port mapper's do to `KUBE-MARK-MASQ`.
    pub(super) used: BTreeSet<(Table, String)>,
}

/// Where packets begin: chains of the kernel, in which everybody has rules.
const BUILT_IN: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

impl Saved {
    /// From the output of `iptables-save`. Lines that say nothing of ours are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut saved = Self::default();
        let mut table = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|table| table.name() == name.trim());
            }
            let Some(table) = table else { continue };
            if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next()) {
                if is_ours(chain) {
                    saved.chains.entry((table, chain.to_string())).or_default();
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' '))
            {
                if is_ours(chain) {
                    *saved.chains.entry((table, chain.to_string())).or_default() += 1;
                } else if let Some(to) = target(rule).filter(|to| is_ours(to)) {
                    if BUILT_IN.contains(&chain) {
                        saved.jumps.push((table, chain.to_string(), rule.to_string()));
                    } else {
                        saved.used.insert((table, to.to_string()));
                    }
                }
            }
        }
        saved
    }

    /// Whether there are rules of Services.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.chains.keys().any(|(_, chain)| is_proof(chain)) && self.jumps.is_empty()
    }
}

/// Where a rule leads.
pub(super) fn target(rule: &str) -> Option<&str> {
    // A comment may hold anything, but it stands before the target, which is a single word here.
    let after = |word: &str| {
        let inside = rule.rsplit_once(&format!(" {word} ")).map(|(_, after)| after);
        inside.or_else(|| rule.strip_prefix(&format!("{word} ")))
    };
    after("-j").or_else(|| after("-g"))?.split(' ').next()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_saved_is_counted_and_jumps_are_kept_as_they_are_written() {
        let text = "# Generated\n*nat\n:PREROUTING ACCEPT [1:2]\n:KUBE-SERVICES - [0:0]\n:DOCKER - [0:0]\n\
            -A PREROUTING -m comment --comment \"a -j b\" -j KUBE-SERVICES\n-A PREROUTING -j DOCKER\n\
            -A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-A\n-A DOCKER -j RETURN\nCOMMIT\n*raw\n:KUBE-SERVICES - [0:0]\nCOMMIT\n";
        let saved = Saved::parse(text);
        assert_eq!(saved.chains, BTreeMap::from([((Table::Nat, "KUBE-SERVICES".to_string()), 1)]));
        assert!(saved.used.is_empty());
        let jump = "-m comment --comment \"a -j b\" -j KUBE-SERVICES";
        assert_eq!(saved.jumps, [(Table::Nat, "PREROUTING".to_string(), jump.to_string())]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\*nat\n|:|-A |-j |KUBE-SVC-|\\PC|\n| ){0,60}") {
            drop(Saved::parse(&text));
        }
    }
}
