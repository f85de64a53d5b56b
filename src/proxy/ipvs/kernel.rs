//! The kernel's virtual servers and the dummy link: asked and changed, on a thread that may block.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use netlink::{
    RequestError,
    ipvs::{Socket, VirtualServer},
    route,
};

use super::{
    LINK,
    plan::{Change, Found, Real},
};
use crate::model::Endpoint;

/// What IPVS needs set to serve as Services need it: connections are known to conntrack, so that they can be masqueraded; those
/// to a real server that is gone end, and so does the memory of who went there.
const SYSCTLS: [&str; 3] = ["conntrack", "expire_nodest_conn", "expire_quiescent_template"];

#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    #[error(
        "the kernel has no IPVS: its module ip_vs is not loaded; load it with `modprobe ip_vs` and name it in \
         /etc/modules-load.d, or configure another proxy.mode"
    )]
    NoModule(#[source] RequestError),
    #[error(
        "the kernel has no scheduler {scheduler} for IPVS; load it with `modprobe ip_vs_{scheduler}`, or configure another \
         proxy.ipvs.scheduler"
    )]
    NoScheduler {
        scheduler: String,
        #[source]
        source: RequestError,
    },
    #[error(
        "the kernel has no dummy links, and mode ipvs needs one; load the module with `modprobe dummy`, or configure another \
         proxy.mode"
    )]
    NoDummy(#[source] RequestError),
    #[error("set net.ipv4.vs.{sysctl} to 1")]
    Sysctl {
        sysctl: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("change the servers of IPVS")]
    Servers(#[source] RequestError),
    #[error("give the link {LINK} the addresses of Services")]
    Addresses(#[source] RequestError),
    #[error("change IPVS")]
    Worker(#[from] lifecycle::WorkError),
}

impl IpvsError {
    /// Whether something was not there, or was there already: writing all anew mends that.
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        match self {
            Self::Servers(error) | Self::Addresses(error) => error.is_absent() || error.is_present(),
            _ => false,
        }
    }
}

/// The sockets of one visit. They are of this thread's network namespace.
pub(super) struct Kernel {
    ipvs: Socket,
    links: route::Socket,
    link: u32,
}

/// Whose the addresses of this host are.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// Those of the dummy link.
    pub(super) bound: BTreeSet<IpAddr>,
    /// Those by which others reach this node.
    pub(super) node: BTreeSet<IpAddr>,
}

impl Kernel {
    /// Makes what is not there: the dummy link, and the settings of IPVS.
    pub(super) fn prepare() -> Result<Self, IpvsError> {
        let ipvs = Socket::open().map_err(missing)?;
        for sysctl in SYSCTLS {
            set(sysctl).map_err(|source| IpvsError::Sysctl { sysctl, source })?;
        }
        let mut links = route::Socket::open().map_err(IpvsError::Addresses)?;
        links.add_dummy(LINK).map_err(|error| {
            if error.is_unsupported() { IpvsError::NoDummy(error) } else { IpvsError::Addresses(error) }
        })?;
        Self::with(ipvs, links)
    }

    /// Of what is there.
    pub(super) fn open() -> Result<Self, IpvsError> {
        let links = route::Socket::open().map_err(IpvsError::Addresses)?;
        Self::with(Socket::open().map_err(missing)?, links)
    }

    fn with(ipvs: Socket, mut links: route::Socket) -> Result<Self, IpvsError> {
        let link = links.link(LINK).map_err(IpvsError::Addresses)?;
        // One that is gone has no number, and what is asked of it fails.
        Ok(Self { ipvs, links, link: link.map_or(0, |link| link.index) })
    }

    pub(super) fn addresses(&mut self) -> Result<Addresses, IpvsError> {
        let mut addresses = Addresses::default();
        for (link, net) in self.links.addresses_by_link().map_err(IpvsError::Addresses)? {
            let ip = net.addr();
            let unreachable = ip.is_loopback() || matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            match link == self.link {
                // IPv6 gives every link one of its own, which is nobody's to reach.
                _ if unreachable => false,
                true => addresses.bound.insert(ip),
                false => addresses.node.insert(ip),
            };
        }
        Ok(addresses)
    }

    pub(super) fn bind(&mut self, ip: IpAddr) -> Result<(), IpvsError> {
        self.links.add_address(self.link, IpNet::from(ip)).map_err(IpvsError::Addresses)
    }

    pub(super) fn unbind(&mut self, ip: IpAddr) -> Result<(), IpvsError> {
        self.links.remove_address(self.link, IpNet::from(ip)).map(drop).map_err(IpvsError::Addresses)
    }

    /// The virtual servers that `keep` wants.
    pub(super) fn servers(
        &mut self,
        keep: impl Fn(&VirtualServer) -> bool,
    ) -> Result<BTreeMap<VirtualServer, Found>, IpvsError> {
        let mut found = BTreeMap::new();
        for (server, choice) in self.ipvs.servers().map_err(IpvsError::Servers)? {
            if keep(&server) {
                let reals = self.reals(&server)?;
                found.insert(server, Found { choice, reals });
            }
        }
        Ok(found)
    }

    fn reals(&mut self, server: &VirtualServer) -> Result<BTreeMap<Endpoint, Real>, IpvsError> {
        let reals = self.ipvs.real_servers(server).map_err(IpvsError::Servers)?.into_iter();
        Ok(reals
            .map(|real| {
                let endpoint = Endpoint { ip: real.address, port: real.port };
                (endpoint, Real { weight: real.weight, connections: real.connections })
            })
            .collect())
    }

    pub(super) fn change(&mut self, change: &Change) -> Result<(), IpvsError> {
        let at = |endpoint: &Endpoint| SocketAddr::new(endpoint.ip, endpoint.port);
        let changed = match change {
            Change::AddServer(server, choice) => match self.ipvs.add_server(server, choice) {
                Err(source) if source.is_absent() => {
                    return Err(IpvsError::NoScheduler { scheduler: choice.scheduler.clone(), source });
                }
                added => added,
            },
            Change::SetServer(server, choice) => self.ipvs.set_server(server, choice),
            Change::RemoveServer(server) => self.ipvs.remove_server(server).map(drop),
            Change::AddReal(server, endpoint) => self.ipvs.add_real(server, at(endpoint), 1),
            Change::SetReal(server, endpoint, weight) => self.ipvs.set_real(server, at(endpoint), *weight),
            Change::RemoveReal(server, endpoint) => self.ipvs.remove_real(server, at(endpoint)).map(drop),
        };
        changed.map_err(IpvsError::Servers)
    }
}

/// Whether this host has the dummy link: without it, nothing here is ours.
pub(super) fn has_link() -> Result<bool, IpvsError> {
    let mut links = route::Socket::open().map_err(IpvsError::Addresses)?;
    Ok(links.link(LINK).map_err(IpvsError::Addresses)?.is_some())
}

/// Removes the dummy link with all its addresses.
pub(super) fn remove_link() -> Result<(), IpvsError> {
    let mut links = route::Socket::open().map_err(IpvsError::Addresses)?;
    links.remove_link(LINK).map(drop).map_err(IpvsError::Addresses)
}

fn missing(error: RequestError) -> IpvsError {
    if error.is_absent() { IpvsError::NoModule(error) } else { IpvsError::Servers(error) }
}

fn set(sysctl: &str) -> io::Result<()> {
    // The thread's network namespace, not that of the process.
    let path = format!("/proc/sys/net/ipv4/vs/{sysctl}");
    if std::fs::read_to_string(&path)?.trim() != "1" {
        std::fs::write(&path, "1")?;
    }
    Ok(())
}
