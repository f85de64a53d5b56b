//! Who this machine is: its name and address, and the certificates that prove it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use config::Config;
use ipnet::IpNet;
use jiff::Timestamp;
use pki::{Authority, Directory, Issued, Names, Profile, TokenKeys, kubeconfig};

use crate::addresses;

/// This machine as a node.
#[derive(Clone, Debug)]
pub(crate) struct NodePlace {
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
}

/// Where a control plane stands, and the node beside it.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node: NodePlace,
    /// Where others reach the API server.
    pub(crate) advertised: SocketAddr,
    /// The first address of the Service range: the `kubernetes` Service.
    pub(crate) service_ip: IpAddr,
}

impl Place {
    /// # Errors
    /// When the machine has no address, or the configuration no room for Services.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let ip = match config.node.ip {
            Some(ip) => ip,
            None => addresses::outward().ok_or_else(|| {
                anyhow!("this machine has no address besides loopback; set node.ip in the configuration")
            })?,
        };
        let advertised = config.server.advertise_address.unwrap_or(ip);
        Ok(Self {
            node: NodePlace { name: node_name(config)?, ip },
            advertised: SocketAddr::new(advertised, config.server.port),
            service_ip: first_address(&config.network.service_cidr)?,
        })
    }

    pub(crate) fn api_url(&self) -> String {
        format!("https://{}", self.advertised)
    }
}

/// # Errors
/// When the machine has no name, or one that no node can have.
pub(crate) fn node_name(config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &config.node.name {
        return Ok(name.clone());
    }
    let host = nix::unistd::gethostname().context("ask for the host name")?;
    node_of_host(&host.to_string_lossy())
}

fn node_of_host(host: &str) -> anyhow::Result<String> {
    // Node names are lower case (RFC 1123); host names need not be.
    let name = host.to_lowercase();
    if api::names::dns1123_subdomain(&name).is_empty() {
        return Ok(name);
    }
    bail!(
        "the host name {host:?} cannot be a node's: that has lower-case letters, digits, '-' and '.' alone; name the node \
         (node.name in the configuration, or `coracle join --node-name`) or the machine (`hostnamectl hostname NAME`)"
    )
}

fn first_address(range: &IpNet) -> anyhow::Result<IpAddr> {
    range.hosts().next().ok_or_else(|| anyhow!("network.serviceCIDR {range} holds no address"))
}

/// The cluster's authority and the certificates of this process.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) directory: Arc<Directory>,
    pub(crate) tokens: TokenKeys,
    /// Signs the requests of nodes, by the certificate controller.
    pub(crate) signer: Arc<Authority>,
    pub(crate) api_server: Issued,
    /// With which the API server calls kubelets.
    pub(crate) kubelet_client: Issued,
}

/// The certificates that are shown to others, which are renewed while they are in use.
pub(crate) fn api_server_profile(config: &Config, place: &Place) -> Profile {
    let mut extra = vec![
        place.node.name.clone(),
        place.node.ip.to_string(),
        place.advertised.ip().to_string(),
        place.service_ip.to_string(),
    ];
    extra.extend(config.server.extra_sans.iter().cloned());
    Profile::ApiServer { names: Names::api_server(&config.kubelet.cluster_domain, &extra) }
}

pub(crate) fn kubelet_serving_profile(place: &NodePlace) -> Profile {
    let names = Names::from_texts(&[place.name.clone(), place.ip.to_string()]);
    Profile::KubeletServing { node: place.name.clone(), names }
}

impl Identity {
    /// Makes at first start what is read at every later one, and writes the administrator's kubeconfig.
    ///
    /// # Errors
    /// Which file cannot be used, why, and what mends it.
    pub(crate) fn ensure(config: &Config, place: &Place) -> anyhow::Result<Self> {
        let now = Timestamp::now();
        let directory = Directory::open(&config.state_dir.join("pki"), now)?;
        let api_server = directory.ensure(&api_server_profile(config, place), now)?;
        let kubelet_client = directory.ensure(&Profile::ApiServerKubeletClient, now)?;
        let admin = directory.ensure(&Profile::Admin, now)?;
        AdminKubeconfig::of(config, place).write(&directory, &admin)?;
        // The keys go to the API server and the signer for good; the directory stays for renewals.
        let (signer, tokens) = Directory::open(directory.path(), now)?.into_parts();
        Ok(Self {
            directory: Arc::new(directory),
            tokens,
            signer: Arc::new(signer),
            api_server,
            kubelet_client,
        })
    }
}

/// # Errors
/// When this machine is a node of somebody else's cluster.
pub(crate) fn check_not_joined(config: &Config) -> anyhow::Result<()> {
    if let Some(member) = join::Paths::of(&config.state_dir).member()? {
        bail!(
            "this machine has joined another cluster as node {:?}; `coracle reset --yes` leaves it, \
             another stateDir in the configuration keeps both apart",
            member.node_name
        );
    }
    Ok(())
}

/// The file with which a person does everything.
#[derive(Clone, Debug)]
pub(crate) struct AdminKubeconfig {
    file: PathBuf,
    server: String,
}

impl AdminKubeconfig {
    pub(crate) fn of(config: &Config, place: &Place) -> Self {
        Self { file: config.admin_kubeconfig(), server: place.api_url() }
    }

    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, directory: &Directory, admin: &Issued) -> anyhow::Result<()> {
        let text = kubeconfig::yaml(&kubeconfig::Kubeconfig {
            cluster: "coracle",
            server: &self.server,
            authority: directory.authority().certificate(),
            user: "kubernetes-admin",
            client: admin,
        });
        pki::write_atomically(&self.file, text.as_bytes(), 0o600)
            .with_context(|| format!("write {}", self.file.display()))
    }
}

/// Takes the API server's port, or says who may have it.
///
/// # Errors
/// When another process listens there.
pub(crate) fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    let address = api_address(config);
    let listener = TcpListener::bind(address).map_err(|error| {
        anyhow!(
            "the API server cannot listen on {address} ({error}); another coracle may run already (`coracle status` tells), \
             or another program has the port (`ss -ltnp` names it; server.port in the configuration chooses another)"
        )
    })?;
    listener.set_nonblocking(true).context("make the API server's socket asynchronous")?;
    Ok(listener)
}

pub(crate) fn api_address(config: &Config) -> SocketAddr {
    SocketAddr::new(config.server.bind_address, config.server.port)
}

/// Whether a node agent of this configuration runs, by its port.
pub(crate) fn agent_runs(config: &Config) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, config.kubelet.port)).is_err()
}

/// # Errors
/// When a process of this configuration serves.
pub(crate) fn check_not_running(config: &Config) -> anyhow::Result<()> {
    if agent_runs(config) {
        bail!(
            "the kubelet's port {} is taken: `coracle up` or `coracle node` runs (`ss -ltnp` names who has it)",
            config.kubelet.port
        );
    }
    // Of a node, that port is whoever's else on this machine, such as a load balancer of the control plane.
    if join::Paths::of(&config.state_dir).is_member() {
        return Ok(());
    }
    listen(config).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_nodes_or_is_refused_with_a_mend() {
        assert_eq!(node_of_host("Web-1.example").unwrap(), "web-1.example");
        for host in ["my_host", "", "-a"] {
            let error = node_of_host(host).unwrap_err().to_string();
            assert!(error.starts_with(&format!("the host name {host:?} cannot be")), "{error}");
            assert!(error.contains("--node-name"), "{error}");
        }
    }
}
