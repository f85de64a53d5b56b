//! Who this machine is: its name and address, and the certificates that prove it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use anyhow::{Context, anyhow};
use config::Config;
use ipnet::IpNet;
use jiff::Timestamp;
use pki::{Authority, Directory, Issued, Names, Profile, TokenKeys, kubeconfig};

/// Where this machine stands in the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) node_name: String,
    pub(crate) node_ip: IpAddr,
    /// Where others reach the API server.
    pub(crate) advertised: SocketAddr,
    /// The first address of the Service range: the `kubernetes` Service.
    pub(crate) service_ip: IpAddr,
}

impl Place {
    /// # Errors
    /// When the machine has no address, or the configuration no room for Services.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        let node_ip = match config.node.ip {
            Some(ip) => ip,
            None => routed_address().ok_or_else(|| {
                anyhow!("this machine has no address besides loopback; set node.ip in the configuration")
            })?,
        };
        let advertised = config.server.advertise_address.unwrap_or(node_ip);
        Ok(Self {
            node_name: node_name(config)?,
            node_ip,
            advertised: SocketAddr::new(advertised, config.server.port),
            service_ip: first_address(&config.network.service_cidr)?,
        })
    }

    pub(crate) fn api_url(&self) -> String {
        format!("https://{}", self.advertised)
    }
}

fn node_name(config: &Config) -> anyhow::Result<String> {
    if let Some(name) = &config.node.name {
        return Ok(name.clone());
    }
    let name = nix::unistd::gethostname().context("ask for the host name")?;
    // Node names are lower case (RFC 1123); host names need not be.
    Ok(name.to_string_lossy().to_lowercase())
}

fn first_address(range: &IpNet) -> anyhow::Result<IpAddr> {
    range.hosts().next().ok_or_else(|| anyhow!("network.serviceCIDR {range} holds no address"))
}

/// The address from which packets to the outside leave, which on machines with several networks is the one that
/// others reach. No packet is sent.
fn routed_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // An address of the documentation range (RFC 5737): only the route to it is asked for.
    socket.connect("203.0.113.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
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
    pub(crate) kubelet_serving: Issued,
}

/// The certificates that are shown to others, which are renewed while they are in use.
pub(crate) fn api_server_profile(config: &Config, place: &Place) -> Profile {
    let mut extra = vec![
        place.node_name.clone(),
        place.node_ip.to_string(),
        place.advertised.ip().to_string(),
        place.service_ip.to_string(),
    ];
    extra.extend(config.server.extra_sans.iter().cloned());
    Profile::ApiServer { names: Names::api_server(&config.kubelet.cluster_domain, &extra) }
}

pub(crate) fn kubelet_serving_profile(place: &Place) -> Profile {
    let names = Names::from_texts(&[place.node_name.clone(), place.node_ip.to_string()]);
    Profile::KubeletServing { node: place.node_name.clone(), names }
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
        let kubelet_serving = directory.ensure(&kubelet_serving_profile(place), now)?;
        let admin = directory.ensure(&Profile::Admin, now)?;
        let text = admin_kubeconfig(&directory, &admin, &place.api_url());
        let file = config.admin_kubeconfig();
        pki::write_atomically(&file, text.as_bytes(), 0o600)
            .with_context(|| format!("write {}", file.display()))?;
        // The keys go to the API server and the signer for good; the directory stays for renewals.
        let (signer, tokens) = Directory::open(directory.path(), now)?.into_parts();
        Ok(Self {
            directory: Arc::new(directory),
            tokens,
            signer: Arc::new(signer),
            api_server,
            kubelet_client,
            kubelet_serving,
        })
    }
}

fn admin_kubeconfig(directory: &Directory, admin: &Issued, server: &str) -> String {
    kubeconfig::yaml(&kubeconfig::Kubeconfig {
        cluster: "coracle",
        server,
        authority: directory.authority().certificate(),
        user: "kubernetes-admin",
        client: admin,
    })
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

/// # Errors
/// When a process of this configuration serves.
pub(crate) fn check_not_running(config: &Config) -> anyhow::Result<()> {
    listen(config).map(drop)
}
