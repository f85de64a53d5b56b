//! Virtual servers, the addresses of the dummy link, and the table of nf_tables beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::Duration,
};

use lifecycle::Workers;
use netlink::{ipvs::VirtualServer, nft::Family};
use tokio::process::Command;

use super::{
    Scheduler,
    kernel::{Addresses, IpvsError, Kernel, has_link, remove_link},
    plan::{Change, Server, plan, render, servers_of},
};
use crate::{
    apply::{Config, Heard, Key, ProxyError, Rules, WriteError, Written},
    claims::Held,
    model::{Entrance, PortModel, ServiceModel, Via},
    nftables::{Nftables, Role},
};

/// How often it is looked whether the last connection of a real server ended.
const DRAINED_AFTER: Duration = Duration::from_secs(15);
const LOADED_WITHIN: Duration = Duration::from_secs(30);
/// Thousands of servers are asked for one by one.
const VISITED_WITHIN: Duration = Duration::from_secs(120);

/// IPVS of this network namespace.
#[derive(Debug)]
pub struct Ipvs<K: Ord> {
    /// Masquerades, refuses, discards.
    table: Nftables<K>,
    held: Held<K, (), Server>,
    settings: Settings,
    /// Those that are served, of which IPv6 is `true`.
    families: Vec<bool>,
    /// What is left of plans: see [`super::Plan`].
    draining: BTreeSet<VirtualServer>,
    /// One: a visit that was given up must not come between those after it.
    workers: Workers,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    scheduler: Scheduler,
    node_ports: (u16, u16),
}

impl<K: Ord + Clone> Ipvs<K> {
    /// # Errors
    /// When the kernel has no IPVS or no dummy links, with what helps.
    pub async fn open(config: &Config) -> Result<Self, ProxyError> {
        let workers = Workers::new(1);
        let mut prepared = visit(&workers, || Kernel::prepare().map(drop)).await;
        if matches!(prepared, Err(IpvsError::NoModule(_))) {
            // Where it is only not loaded yet. That it fails is told by the second look.
            let load = Command::new("modprobe").args(["--quiet", "ip_vs"]).kill_on_drop(true).status();
            drop(tokio::time::timeout(LOADED_WITHIN, load).await);
            prepared = visit(&workers, || Kernel::prepare().map(drop)).await;
        }
        prepared.map_err(ProxyError::Ipvs)?;
        Ok(Self {
            table: Nftables::open(config, Role::BesideIpvs)?,
            held: Held::default(),
            settings: Settings { scheduler: config.scheduler, node_ports: config.node_ports },
            families: config.families.iter().map(|family| matches!(family, Family::Ip6)).collect(),
            draining: BTreeSet::new(),
            workers,
        })
    }

    /// Every entrance with where it leads.
    fn desired(&self) -> BTreeMap<Entrance, Server> {
        self.held.winners().map(|(entrance, server)| (*entrance, server.clone())).collect()
    }
}

/// Runs on a thread that may block.
async fn visit<T: Send + 'static>(
    workers: &Workers,
    work: impl FnOnce() -> Result<T, IpvsError> + Send + 'static,
) -> Result<T, IpvsError> {
    workers.run("ipvs", VISITED_WITHIN, work).await?
}

/// What is to be done to some entrances and addresses.
#[derive(Debug)]
struct Changed {
    turns: BTreeMap<Entrance, Option<Server>>,
    bind: BTreeSet<IpAddr>,
    unbind: BTreeSet<IpAddr>,
}

impl Changed {
    fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.bind.is_empty() && self.unbind.is_empty()
    }
}

/// What a visit did.
#[derive(Debug, Default)]
struct Visited {
    changes: usize,
    draining: BTreeSet<VirtualServer>,
    /// The node's own addresses.
    node: BTreeSet<IpAddr>,
    /// Why some of it was not done, the first reason.
    refused: Option<IpvsError>,
}

/// Asks for all, whatever became of one: what is refused to one Service is no reason to leave the others. Gives the first error.
fn each<T>(
    items: impl IntoIterator<Item = T>,
    mut ask: impl FnMut(T) -> Result<(), IpvsError>,
) -> Option<IpvsError> {
    // All are asked for before one is taken.
    let errors: Vec<IpvsError> = items.into_iter().filter_map(|item| ask(item).err()).collect();
    errors.into_iter().next()
}

fn expand(
    entrances: &BTreeMap<Entrance, Server>,
    node: &BTreeSet<IpAddr>,
) -> BTreeMap<VirtualServer, Server> {
    let servers = |(entrance, server): (&Entrance, &Server)| {
        servers_of(*entrance, node).into_iter().map(|at| (at, server.clone())).collect::<Vec<_>>()
    };
    entrances.iter().flat_map(servers).collect()
}

fn carry_out(
    kernel: &mut Kernel,
    desired: &BTreeMap<VirtualServer, Server>,
    keep: impl Fn(&VirtualServer) -> bool,
    scheduler: Scheduler,
) -> Result<Visited, IpvsError> {
    let plan = plan(desired, &kernel.servers(keep)?, scheduler);
    let refused = each(&plan.changes, |change| kernel.change(change));
    Ok(Visited { changes: plan.changes.len(), draining: plan.draining, refused, node: BTreeSet::new() })
}

impl Settings {
    fn is_ours(&self, server: &VirtualServer, addresses: &Addresses) -> bool {
        let (first, last) = self.node_ports;
        addresses.bound.contains(&server.address)
            || (addresses.node.contains(&server.address) && (first..=last).contains(&server.port))
    }

    /// Makes exactly these addresses and servers, of those that are ours.
    fn write_all(
        self,
        wanted: &BTreeSet<IpAddr>,
        entrances: &BTreeMap<Entrance, Server>,
    ) -> Result<Visited, IpvsError> {
        let mut kernel = Kernel::prepare()?;
        let addresses = kernel.addresses()?;
        let missing = wanted.difference(&addresses.bound).filter(|ip| !addresses.node.contains(ip));
        let unbound = each(missing, |ip| kernel.bind(*ip));
        let desired = expand(entrances, &addresses.node);
        let ours = |server: &VirtualServer| desired.contains_key(server) || self.is_ours(server, &addresses);
        let visited = carry_out(&mut kernel, &desired, ours, self.scheduler)?;
        let refused = unbound.or(visited.refused);
        // Last, and of servers that are gone: what is bound tells whose a server is.
        let stale = addresses.bound.difference(wanted).filter(|_| refused.is_none());
        let refused = each(stale, |ip| kernel.unbind(*ip)).or(refused);
        Ok(Visited { node: addresses.node, refused, ..visited })
    }

    /// Makes the servers of these entrances what they should be; without a server there should be none.
    fn write(self, change: &Changed) -> Result<Visited, IpvsError> {
        let mut kernel = Kernel::open()?;
        let addresses = kernel.addresses()?;
        let missing = change.bind.iter().filter(|ip| !addresses.node.contains(ip));
        let unbound = each(missing, |ip| kernel.bind(*ip));
        let servers = |entrance: &Entrance| servers_of(*entrance, &addresses.node);
        let touched: BTreeSet<VirtualServer> = change.turns.keys().flat_map(servers).collect();
        let desired: BTreeMap<Entrance, Server> =
            change.turns.iter().filter_map(|(entrance, server)| Some((*entrance, server.clone()?))).collect();
        let desired = expand(&desired, &addresses.node);
        let visited = carry_out(&mut kernel, &desired, |server| touched.contains(server), self.scheduler)?;
        let refused = unbound.or(visited.refused);
        let stale = change.unbind.iter().filter(|_| refused.is_none());
        let refused = each(stale, |ip| kernel.unbind(*ip)).or(refused);
        Ok(Visited { refused, ..visited })
    }

    /// `shared` are the addresses that are the node's own too.
    fn is_right(
        self,
        wanted: &BTreeSet<IpAddr>,
        shared: &BTreeSet<IpAddr>,
        entrances: &BTreeMap<Entrance, Server>,
    ) -> Result<bool, IpvsError> {
        if !has_link()? {
            return Ok(false);
        }
        let mut kernel = Kernel::open()?;
        let addresses = kernel.addresses()?;
        let desired = expand(entrances, &addresses.node);
        let ours = |server: &VirtualServer| desired.contains_key(server) || self.is_ours(server, &addresses);
        let found = kernel.servers(ours)?;
        let bound = wanted.iter().all(|ip| addresses.bound.contains(ip) || addresses.node.contains(ip));
        // A connection that ends meanwhile is no fault of the rules.
        let is_end = |change: &Change| matches!(change, Change::RemoveReal(..));
        let same = wanted.iter().all(|ip| addresses.node.contains(ip) == shared.contains(ip));
        Ok(bound && same && plan(&desired, &found, self.scheduler).changes.iter().all(is_end))
    }
}

impl<K: Key> Rules<K> for Ipvs<K> {
    async fn write_all(&mut self, services: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        self.held = Held::default();
        let families = &self.families;
        let wish = |(key, model): &(K, ServiceModel)| (key.clone(), render(model, families));
        self.held.accept(services.iter().map(wish).collect());
        let ports =
            services.iter().flat_map(|(_, model)| families.iter().flat_map(|ipv6| model.ports_of(*ipv6)));
        let address = |(entrance, _): (Entrance, Via)| match entrance {
            Entrance::Address(ip, ..) => Some(ip),
            Entrance::NodePort { .. } => None,
        };
        let wanted: BTreeSet<IpAddr> = ports.flat_map(PortModel::entrances).filter_map(address).collect();
        let (settings, desired) = (self.settings, self.desired());
        // Before the table: what translated in the mode before is in it, and goes when it is written.
        let visited = visit(&self.workers, move || settings.write_all(&wanted, &desired)).await?;
        self.draining = visited.draining;
        let written = self.table.write_all_on(&visited.node, services).await?;
        visited.refused.map_or(Ok(()), Err)?;
        Ok(Written { changes: written.changes + visited.changes, ..written })
    }

    async fn write(&mut self, changed: &[(K, ServiceModel)]) -> Result<Written<K>, WriteError> {
        let before: BTreeSet<IpAddr> = self.table.addresses().collect();
        let written = self.table.write(changed).await?;
        let wanted: BTreeSet<IpAddr> = self.table.addresses().collect();
        let after = changed.iter().map(|(key, model)| (key.clone(), render(model, &self.families))).collect();
        let (turns, _) = self.held.settle(&after);
        let change = Changed {
            turns: turns.into_iter().map(|turn| (turn.entrance, turn.has.cloned())).collect(),
            // Also those without endpoints: what comes to them is refused here.
            bind: wanted.difference(&before).copied().collect(),
            unbind: before.difference(&wanted).copied().collect(),
        };
        self.held.accept(after);
        if change.is_empty() {
            return Ok(written);
        }
        let settings = self.settings;
        let visited = visit(&self.workers, move || settings.write(&change)).await?;
        self.draining.extend(visited.draining);
        visited.refused.map_or(Ok(()), Err)?;
        Ok(Written { changes: written.changes + visited.changes, ..written })
    }

    async fn heard(&mut self) -> io::Result<Heard> {
        self.table.heard().await
    }

    async fn audit(&mut self) -> Result<bool, WriteError> {
        let (settings, desired) = (self.settings, self.desired());
        let wanted: BTreeSet<IpAddr> = self.table.addresses().collect();
        let shared = self.table.shared_addresses();
        Ok(self.table.audit().await?
            && visit(&self.workers, move || settings.is_right(&wanted, &shared, &desired)).await?)
    }

    fn tidy_after(&self) -> Option<Duration> {
        let draining = (!self.draining.is_empty()).then_some(DRAINED_AFTER);
        self.table.tidy_after().into_iter().chain(draining).min()
    }

    async fn tidy(&mut self) -> Result<(), WriteError> {
        self.table.tidy().await?;
        if self.draining.is_empty() {
            return Ok(());
        }
        let (settings, entrances) = (self.settings, self.desired());
        let draining = std::mem::take(&mut self.draining);
        let visited = visit(&self.workers, move || {
            let mut kernel = Kernel::open()?;
            let node = kernel.addresses()?.node;
            let mut desired = expand(&entrances, &node);
            desired.retain(|server, _| draining.contains(server));
            carry_out(&mut kernel, &desired, |server| desired.contains_key(server), settings.scheduler)
        });
        let visited = visited.await?;
        self.draining = visited.draining;
        Ok(visited.refused.map_or(Ok(()), Err)?)
    }
}

/// Removes the dummy link, and the virtual servers of its addresses and of this node's addresses with ports of the range of node
/// ports. False where there is no such link: then nothing is ours.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove_servers(node_ports: (u16, u16)) -> Result<bool, IpvsError> {
    visit(&Workers::new(1), move || {
        if !has_link()? {
            return Ok(false);
        }
        let mut kernel = match Kernel::open() {
            // Whose servers went with it.
            Err(IpvsError::NoModule(_)) => return remove_link().map(|()| true),
            kernel => kernel?,
        };
        let settings = Settings { scheduler: Scheduler::default(), node_ports };
        let addresses = kernel.addresses()?;
        let ours = |server: &VirtualServer| settings.is_ours(server, &addresses);
        let visited = carry_out(&mut kernel, &BTreeMap::new(), ours, settings.scheduler)?;
        // The link says that there is something left.
        visited.refused.map_or(Ok(()), Err)?;
        remove_link().map(|()| true)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_to_one_service_is_asked_for_the_others() {
        let mut asked = Vec::new();
        let refused = each(1..=3, |number| {
            asked.push(number);
            let sysctl = if number == 2 { "second" } else { "third" };
            let source = io::ErrorKind::InvalidInput.into();
            if number == 1 { Ok(()) } else { Err(IpvsError::Sysctl { sysctl, source }) }
        });
        assert_eq!(asked, [1, 2, 3]);
        assert!(matches!(refused, Some(IpvsError::Sysctl { sysctl: "second", .. })), "{refused:?}");
        assert!(each(1..=3, |_| Ok(())).is_none());
    }
}
