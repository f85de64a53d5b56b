//! Gives plans to `iptables-restore`, and holds what `iptables-save` says against them.

use std::{io, time::Duration};

use netlink::nft::{Family, Monitor};

use super::{
    Layout, Plan, Programmed,
    command::{Flavour, IptablesError, Tools},
    names::is_ours,
    plan, plan_all,
    rules::Table,
};
use crate::{
    apply::{Config, Heard, Key, Rules, WriteError, Written},
    model::{Pods, ServiceModel},
    observe::drops_invalid,
};

/// Where nobody tells of changes: how long a flush by somebody else may stay unseen.
const AUDIT_EVERY: Duration = Duration::from_secs(30);
const QUIET_AUDIT_EVERY: Duration = Duration::from_secs(60);
const AUDIT_AFTER_WRITE: Duration = Duration::from_secs(5);

/// The rules of all families in this network namespace.
#[derive(Debug)]
pub struct Iptables<K: Ord> {
    families: Vec<FamilyRules<K>>,
    /// Where the rules are in nf_tables, the kernel tells who takes some away.
    monitor: Option<Monitor>,
}

#[derive(Debug)]
struct FamilyRules<K: Ord> {
    tools: Tools,
    layout: Layout,
    programmed: Programmed<K>,
}

impl<K: Ord + Clone> Iptables<K> {
    /// # Errors
    /// When the programs are not there, or another packet filter has rules of Services too.
    pub async fn open(config: &Config) -> Result<Self, IptablesError> {
        Self::open_in(config, None).await
    }

    /// In a packet filter that is not for the machine to choose.
    ///
    /// # Errors
    /// As [`Iptables::open`].
    pub async fn open_in(config: &Config, flavour: Option<Flavour>) -> Result<Self, IptablesError> {
        let (mut families, mut nft) = (Vec::new(), true);
        for family in &config.families {
            let ipv6 = matches!(family, Family::Ip6);
            let tools = Tools::of(ipv6, flavour);
            nft &= tools.settle().await? == Flavour::Nft;
            let pods = Pods::of(&config.pod_ranges, ipv6, config.masquerade_all);
            let layout = Layout { ipv6, pods, drop_invalid: drops_invalid() };
            families.push(FamilyRules { tools, layout, programmed: Programmed::default() });
        }
        // Without it, audits find the same, later.
        let monitor = nft.then(|| Monitor::of_removals(&Table::ALL.map(Table::name), is_ours).ok()).flatten();
        Ok(Self { families, monitor })
    }

    /// What was told until now was our own doing.
    fn forget_own_changes(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            monitor.forget();
        }
    }
}

impl<K: Ord + Clone> FamilyRules<K> {
    async fn restore(&mut self, plan: Plan<K>) -> Result<Written<K>, IptablesError> {
        self.tools.restore(&plan.restore).await?;
        let written = Written { changes: plan.restore.changes(), shadowed: plan.shadowed.clone() };
        self.programmed.accept(plan);
        Ok(written)
    }
}

impl<K: Key> Rules<K> for Iptables<K> {
    async fn write_all(&mut self, services: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        let mut written = Written::default();
        for family in &mut self.families {
            // The machine's choice may have changed since the start, and somebody may have filled the other one.
            family.tools.settle().await?;
            let saved = family.tools.saved().await?;
            let plan = plan_all(services.iter().map(|(key, model)| (key, model)), &saved, family.layout);
            written.add(family.restore(plan).await?);
        }
        self.forget_own_changes();
        Ok(written)
    }

    async fn write(&mut self, changed: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        let mut written = Written::default();
        for family in &mut self.families {
            let changed = changed.iter().map(|(key, model)| (key, model));
            let plan = plan(&family.programmed, changed, family.layout);
            written.add(family.restore(plan).await?);
        }
        if written.changes > 0 {
            self.forget_own_changes();
        }
        Ok(written)
    }

    async fn heard(&mut self) -> io::Result<Heard> {
        match &mut self.monitor {
            Some(monitor) => monitor.foreign_change().await.map(|()| Heard::Perhaps),
            None => std::future::pending().await,
        }
    }

    async fn audit(&mut self) -> Result<bool, WriteError> {
        for family in &self.families {
            let saved = family.tools.saved().await?;
            if !family.programmed.matches(&saved, family.layout) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn audit_every(&self) -> Duration {
        if self.monitor.is_some() { QUIET_AUDIT_EVERY } else { AUDIT_EVERY }
    }

    fn audit_after_write(&self) -> Option<Duration> {
        // Our own changes are forgotten with all that was told while they were made.
        self.monitor.is_some().then_some(AUDIT_AFTER_WRITE)
    }

    fn tidy_after(&self) -> Option<Duration> {
        None
    }

    async fn tidy(&mut self) -> Result<(), WriteError> {
        Ok(())
    }
}

/// Removes the chains of a Service proxy and the rules that lead to them, from every packet filter of the machine. False where
/// there was nothing; then no program is started.
///
/// # Errors
/// When one of the programs fails.
pub async fn remove_chains() -> Result<bool, IptablesError> {
    let mut removed = false;
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        for ipv6 in [false, true] {
            removed |= Tools::clear(ipv6, flavour).await?;
        }
    }
    Ok(removed)
}
