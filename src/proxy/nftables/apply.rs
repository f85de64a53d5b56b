//! Carries transactions to the kernel, and holds the kernel's table against ours.

use std::{collections::BTreeSet, io, net::IpAddr, time::Duration};

use netlink::nft::{Change, CommitError, Family, Monitor, Socket, TableName, TableState, Transaction};
use tokio::time::Instant;
use tracing::debug;

use super::{
    Layout, Programmed, Role, TABLE, names::UPSTREAMS_TABLE, plan, plan::Plan, plan_all_on, plan_deletions,
};
use crate::{
    apply::{Config, Heard, Key, ProxyError, Rules, WriteError, Written},
    model::{Pods, ServiceModel},
    observe::drops_invalid,
};

/// Emptied chains are deleted this long after the last change: not in the way of the next one.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// The tables of all families in this network namespace.
#[derive(Debug)]
pub struct Nftables<K: Ord> {
    socket: Socket,
    monitor: Monitor,
    tables: Vec<Table<K>>,
}

/// Our table in one address family.
#[derive(Debug)]
struct Table<K: Ord> {
    layout: Layout,
    programmed: Programmed<K>,
}

impl<K: Ord + Clone> Nftables<K> {
    /// # Errors
    /// When the kernel has no nf_tables, or the process no right to it.
    pub fn open(config: &Config, role: Role) -> Result<Self, ProxyError> {
        let socket = Socket::open().map_err(ProxyError::Nftables)?;
        let monitor = Monitor::open(TABLE, &socket).map_err(ProxyError::Nftables)?;
        let drop_invalid = drops_invalid();
        let table = |family: &Family| {
            let pods = Pods::of(&config.pod_ranges, matches!(family, Family::Ip6), config.masquerade_all);
            let layout = Layout { family: *family, pods, role, drop_invalid };
            Table { layout, programmed: Programmed::default() }
        };
        Ok(Self { socket, monitor, tables: config.families.iter().map(table).collect() })
    }

    /// The addresses by which connections come to Services.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.tables.iter().flat_map(|table| table.programmed.addresses())
    }
}

impl<K: Key> Nftables<K> {
    /// Writes all on a node with these addresses, which count beside IPVS only.
    pub(crate) async fn write_all_on(
        &mut self,
        node: &BTreeSet<IpAddr>,
        services: &[(K, ServiceModel)],
    ) -> Result<Written<K>, WriteError> {
        let mut written = Written::default();
        for table in &mut self.tables {
            let services = services.iter().map(|(key, model)| (key, model));
            let plan = plan_all_on(node.clone(), services, table.layout);
            written.add(table.commit(&mut self.socket, plan).await?);
        }
        Ok(written)
    }

    /// Which of the node's own addresses are Services' too, as they were when all was written.
    pub(crate) fn shared_addresses(&self) -> BTreeSet<IpAddr> {
        let shared = |table: &Table<K>| {
            let node = table.programmed.node().clone();
            table.programmed.addresses().filter(move |ip| node.contains(ip)).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(shared).collect()
    }
}

impl<K: Ord> Table<K> {
    /// Whether the kernel has the rules that we gave it.
    fn matches(&self, state: Option<&TableState>) -> bool
    where
        K: Clone,
    {
        state.is_some_and(|state| {
            let chain = |(name, count): (String, usize)| state.chains.get(&name) == Some(&count);
            let map = |(name, count): (&str, usize)| state.sets.get(name) == Some(&count);
            self.programmed.rule_counts(self.layout).into_iter().all(chain)
                && self.programmed.element_counts(self.layout).into_iter().all(map)
        })
    }

    async fn commit(&mut self, socket: &mut Socket, plan: Plan<K>) -> Result<Written<K>, WriteError>
    where
        K: Clone,
    {
        socket.commit(&plan.transaction).await?;
        let written = Written { changes: plan.transaction.changes.len(), shadowed: plan.shadowed.clone() };
        self.programmed.accept(plan);
        Ok(written)
    }
}

impl<K: Key> Rules<K> for Nftables<K> {
    async fn write_all(&mut self, services: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        self.write_all_on(&BTreeSet::new(), services).await
    }

    async fn write(&mut self, changed: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        let mut written = Written::default();
        for table in &mut self.tables {
            let changed = changed.iter().map(|(key, model)| (key, model));
            let plan = plan(&table.programmed, changed, table.layout);
            written.add(table.commit(&mut self.socket, plan).await?);
        }
        Ok(written)
    }

    async fn heard(&mut self) -> io::Result<Heard> {
        // Nobody but us has a reason to change our table.
        self.monitor.foreign_change().await.map(|()| Heard::Broken)
    }

    async fn audit(&mut self) -> Result<bool, WriteError> {
        for table in &self.tables {
            let state = self.socket.state(&name(table.layout.family)).await?;
            if !table.matches(state.as_ref()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tidy_after(&self) -> Option<Duration> {
        self.tables.iter().any(|table| table.programmed.has_retired()).then_some(TIDY_AFTER)
    }

    async fn tidy(&mut self) -> Result<(), WriteError> {
        let started = Instant::now();
        for table in self.tables.iter_mut().filter(|table| table.programmed.has_retired()) {
            match self.socket.commit(&plan_deletions(&table.programmed, table.layout)).await {
                Ok(()) => table.programmed.accept_deletions(),
                // Something still uses one of them for a moment: nothing is lost, the next tidying tries again.
                Err(error) => {
                    let elapsed_us = started.elapsed().as_micros();
                    debug!(
                        error = &error as &dyn std::error::Error,
                        elapsed_us, "emptied chains cannot be deleted yet"
                    );
                }
            }
        }
        Ok(())
    }
}

fn name(family: Family) -> TableName {
    named(family, TABLE)
}

fn named(family: Family, name: &str) -> TableName {
    TableName { family, name: name.to_string() }
}

/// Removes our tables. False where there was none.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_tables() -> Result<bool, CommitError> {
    remove(TABLE).await
}

/// Removes the tables of kube-proxy's mode nftables: two that translate are one too many. False where there was none.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_upstreams_tables() -> Result<bool, CommitError> {
    remove(UPSTREAMS_TABLE).await
}

async fn remove(name: &str) -> Result<bool, CommitError> {
    let mut removed = false;
    for family in [Family::Ip, Family::Ip6] {
        let table = named(family, name);
        let mut socket = match Socket::open() {
            Err(error) if error.is_unsupported() => return Ok(false),
            socket => socket?,
        };
        let state = match socket.state(&table).await {
            Err(error) if error.is_unsupported() => None,
            state => state?,
        };
        if state.is_some() {
            let transaction = Transaction { table, changes: vec![Change::DeleteTable] };
            socket.commit(&transaction).await?;
            removed = true;
        }
    }
    Ok(removed)
}
