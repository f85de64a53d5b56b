//! By what this machine, as a node alone, is known to its cluster: the files of `coracle join`, or a kubeconfig of the
//! administrator's, which may have to be made first.

use std::{
    error::Error,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use client::{Credentials, Endpoint, Kubeconfig, Pem};
use config::Config;
use jiff::Timestamp;
use join::{Bootstrap, Paths};
use lifecycle::Scope;
use pki::{Certificate, Issued};
use tokio::net::lookup_host;
use tracing::warn;

use crate::{
    addresses,
    identity::{self, NodePlace},
    service_manager,
};

/// By upstream's names.
const CLIENT: &str = "kubelet-client-current.pem";
const SERVING: &str = "kubelet-server-current.pem";
/// A resolver that does not answer holds no node up: the address is a guess that the configuration may replace.
const RESOLVING: Duration = Duration::from_secs(5);

/// A node of somebody's cluster.
pub(crate) struct Membership {
    pub(crate) place: NodePlace,
    pub(crate) endpoint: Endpoint,
    /// Who signs the certificates of those who call this node.
    pub(crate) authorities: Vec<Certificate>,
    /// The client certificate with its key, where it is one file that can be renewed.
    pub(crate) client_file: Option<PathBuf>,
    pub(crate) serving_file: PathBuf,
    shown: Shown,
}

/// What the node's server shows before the cluster has signed anything.
enum Shown {
    /// What was signed before, while it lives.
    Stored,
    Provisional,
}

/// Makes the node's kubeconfig by its bootstrap kubeconfig, where it has one and cannot be used without. False when
/// told to stop first.
///
/// # Errors
/// Why there is no certificate.
pub(crate) async fn bootstrap(config: &Config, stop: impl Future<Output = ()>) -> anyhow::Result<bool> {
    let (Some(kubeconfig), Some(by)) = (&config.node.kubeconfig, &config.node.bootstrap_kubeconfig) else {
        return Ok(true);
    };
    let client = Paths::of(&config.state_dir).client;
    let beside = client.parent().unwrap_or(&config.state_dir);
    let wanted = Bootstrap {
        node_name: identity::node_name(config)?,
        kubeconfig: kubeconfig.clone(),
        by: by.clone(),
        certificate_dir: config.node.certificate_dir.clone().unwrap_or_else(|| beside.to_path_buf()),
        expiration_seconds: life_seconds(config),
    };
    let scope = Scope::root("bootstrap");
    let told = |name: &str| {
        service_manager::show(&format!(
            "waiting for the approval of this node: kubectl certificate approve {name}"
        ));
    };
    // Large: it holds a watch and a connection's first request.
    let asking = service_manager::while_starting(Box::pin(join::bootstrap(&wanted, &scope, told)));
    let outcome = tokio::select! {
        outcome = asking => outcome?,
        () = stop => join::Outcome::Stopped,
    };
    Ok(outcome != join::Outcome::Stopped)
}

/// How long certificates that are asked for should live.
pub(crate) fn life_seconds(config: &Config) -> Option<i32> {
    config.node.certificate_life.map(|life| i32::try_from(life.as_secs()).unwrap_or(i32::MAX))
}

impl Membership {
    /// # Errors
    /// When this machine has not joined, or what it joined by cannot be used.
    pub(crate) async fn open(config: &Config) -> anyhow::Result<Self> {
        let paths = Paths::of(&config.state_dir);
        let file = config.node.kubeconfig.clone().unwrap_or_else(|| paths.kubeconfig.clone());
        if !file.exists() {
            bail!("{}", unknown(config, &file));
        }
        let mut endpoint = Kubeconfig::load(&file)?.endpoint(None)?;
        let authorities = authorities(config, &file, &endpoint)?;
        let (certificate, client_file) = match Own::of(config, &endpoint.credentials) {
            Own::None => (None, None),
            Own::Held { certificate, file: renewed } => (Some(own(&file, certificate)?), renewed),
            Own::TakenOver { certificate, key, to } => {
                own(&file, certificate)?;
                let kept = join::adopt(&to, &read(certificate)?, &read(key)?, Timestamp::now())
                    .with_context(|| format!("take the client certificate over from {}", file.display()))?;
                (Some(kept.certificate), Some(to))
            }
        };
        if let Some(path) = &client_file {
            let (certificate, key) = (Pem::File(path.clone()), Pem::File(path.clone()));
            endpoint.credentials = Credentials::Certificate { certificate, key };
        }
        let name = node_name(config, certificate.as_ref())?;
        let place = NodePlace { ip: node_ip(config, &endpoint, &paths.address).await?, name };
        let serving_file = match &config.node.certificate_dir {
            Some(dir) => dir.join(SERVING),
            None => paths.serving,
        };
        let shown = match config.kubelet.serving {
            config::Serving::Requested => Shown::Stored,
            config::Serving::SelfSigned | config::Serving::Files { .. } => Shown::Provisional,
        };
        Ok(Self { place, endpoint, authorities, client_file, serving_file, shown })
    }

    /// What the node's server shows: the certificate of the time before, or one that nobody vouches for until the
    /// cluster has signed one.
    pub(crate) fn serving(&self) -> anyhow::Result<Issued> {
        let now = Timestamp::now();
        let stored = match self.shown {
            Shown::Stored => {
                std::fs::read(&self.serving_file).ok().and_then(|pem| Issued::from_pem(&pem).ok())
            }
            Shown::Provisional => None,
        };
        if let Some(issued) = stored.filter(|issued| issued.certificate.not_after > now) {
            return Ok(issued);
        }
        Ok(Issued::provisional(&identity::kubelet_serving_profile(&self.place), now)?)
    }
}

/// Nothing says by what this node is known.
fn unknown(config: &Config, file: &Path) -> String {
    let file = file.display();
    match (&config.upstream, &config.node.kubeconfig) {
        (None, None) => format!(
            "this machine has not joined a cluster: there is no {file}; run `coracle token create` on the control plane, \
             and here the line that it prints"
        ),
        _ => format!(
            "there is no kubeconfig {file}; write this node's there, or name by {} one that may ask for a certificate",
            config.called("--bootstrap-kubeconfig", "node.bootstrapKubeconfig")
        ),
    }
}

/// Who signs callers' certificates: whom the configuration names, or who signs for the cluster.
fn authorities(config: &Config, file: &Path, endpoint: &Endpoint) -> anyhow::Result<Vec<Certificate>> {
    let (pem, place) = match (&config.kubelet.client_authority, &endpoint.ca) {
        (Some(own), _) => (read(&Pem::File(own.clone()))?, own.as_path()),
        (None, Some(pem)) => (read(pem)?, file),
        (None, None) => {
            bail!("{} names no authority; add certificate-authority-data to its cluster", file.display())
        }
    };
    Certificate::all_from_pem(&pem).with_context(|| format!("read the authority in {}", place.display()))
}

fn read(pem: &Pem) -> anyhow::Result<Vec<u8>> {
    match pem {
        Pem::Data(data) => Ok(data.clone()),
        Pem::File(path) => std::fs::read(path).with_context(|| format!("read {}", path.display())),
    }
}

/// What becomes of the client certificate that a kubeconfig shows.
enum Own<'a> {
    /// It shows something else.
    None,
    /// Used where it is; renewed there if it is one `file` with its key.
    Held { certificate: &'a Pem, file: Option<PathBuf> },
    /// Copied to a file where it can be renewed.
    TakenOver { certificate: &'a Pem, key: &'a Pem, to: PathBuf },
}

impl<'a> Own<'a> {
    fn of(config: &Config, shown: &'a Credentials) -> Self {
        let Credentials::Certificate { certificate, key } = shown else { return Self::None };
        match (certificate, key, &config.node.certificate_dir) {
            (Pem::File(one), Pem::File(other), _) if one == other => {
                Self::Held { certificate, file: Some(one.clone()) }
            }
            (_, _, Some(dir)) if config.kubelet.renews_client_certificate => {
                Self::TakenOver { certificate, key, to: dir.join(CLIENT) }
            }
            _ => Self::Held { certificate, file: None },
        }
    }
}

/// `certificate` of the kubeconfig `file`.
fn own(file: &Path, certificate: &Pem) -> anyhow::Result<Certificate> {
    Certificate::from_pem(&read(certificate)?)
        .with_context(|| format!("read the client certificate of {}", file.display()))
}

/// The API lets a node write its own object only: the certificate says which that is.
fn node_name(config: &Config, certificate: Option<&Certificate>) -> anyhow::Result<String> {
    let certified = certificate.and_then(|own| own.common_name.strip_prefix("system:node:"));
    match (certified, &config.node.name) {
        (Some(own), Some(wanted)) if own != wanted => {
            let setting = config.called("--hostname-override", "node.name in the configuration");
            let mend = match &config.node.kubeconfig {
                Some(kubeconfig) => format!("write a kubeconfig of that node to {}", kubeconfig.display()),
                None => "`coracle reset --yes` and join again by the other name".to_string(),
            };
            bail!(
                "the client certificate is that of node {own:?}, but {setting} says {wanted:?}; take that out, or {mend}"
            )
        }
        (Some(own), _) => Ok(own.to_string()),
        (None, _) => identity::node_name(config),
    }
}

/// The address that routes to the API server, which on machines with several networks is the one that it reaches. It is kept
/// in the file `kept` for a start at which nobody knows the server's name.
async fn node_ip(config: &Config, endpoint: &Endpoint, kept: &Path) -> anyhow::Result<IpAddr> {
    if let Some(ip) = config.node.ip {
        return Ok(ip);
    }
    let host = endpoint.server.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = endpoint.server.port_u16().unwrap_or(443);
    let resolved = match tokio::time::timeout(RESOLVING, lookup_host((host, port))).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            warn!(host, error = &error as &dyn Error, "the API server's name cannot be resolved");
            Vec::new()
        }
        Err(_) => {
            warn!(host, "the API server's name cannot be resolved: nobody answers");
            Vec::new()
        }
    };
    let before = join::kept_address(kept);
    let seen = Seen {
        routed: resolved.into_iter().find_map(addresses::towards),
        kept: before.filter(|ip| addresses::is_own(*ip)),
        outward: addresses::outward(),
    };
    let found = seen.choose().ok_or_else(|| {
        anyhow!(
            "no route leads to the API server {host}:{port}; bring the network up, or set {}",
            config.called("--node-ip", "node.ip in the configuration")
        )
    })?;
    match found {
        Choice::Routed(ip) if before != Some(ip) => {
            if let Err(error) = join::keep_address(kept, ip) {
                warn!(file = %kept.display(), error = &error as &dyn Error, "the node's address cannot be kept");
            }
        }
        Choice::Routed(_) => {}
        Choice::Kept(ip) => {
            warn!(%ip, "no route to the API server is known; the node's address is that of the last start")
        }
        Choice::Guessed(ip) => {
            let mend = config.called("--node-ip", "node.ip in the configuration");
            warn!(%ip, "no route to the API server is known; the node's address is a guess ({mend} says which it is)");
        }
    }
    Ok(found.ip())
}

/// What is known of this machine's address.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Packets to the API server leave by it.
    routed: Option<IpAddr>,
    /// They did at an earlier start, and the machine still has it.
    kept: Option<IpAddr>,
    /// Packets to the outside leave by it.
    outward: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Routed(IpAddr),
    Kept(IpAddr),
    Guessed(IpAddr),
}

impl Seen {
    fn choose(self) -> Option<Choice> {
        let routed = self.routed.map(Choice::Routed);
        routed.or(self.kept.map(Choice::Kept)).or(self.outward.map(Choice::Guessed))
    }
}

impl Choice {
    fn ip(self) -> IpAddr {
        match self {
            Self::Routed(ip) | Self::Kept(ip) | Self::Guessed(ip) => ip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_called_a_kubelet_is_told_of_its_flags_and_not_of_our_commands() {
        let theirs = Config {
            upstream: Some(config::Upstream {
                program: "kubelet",
                ignored_flags: Vec::new(),
                not_done: Vec::new(),
            }),
            node: config::Node {
                name: Some("b".into()),
                kubeconfig: Some("/k".into()),
                ..Config::default().node
            },
            ..Config::default()
        };
        let ours = Config {
            node: config::Node { name: Some("b".into()), ..Config::default().node },
            ..Config::default()
        };
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let authority = pki::Authority::self_signed("c", pki::Key::generate().unwrap(), now).unwrap();
        let issued = authority.issue(&pki::Profile::KubeletClient { node: "a".into() }, now).unwrap();
        let words = |config: &Config| {
            let name = node_name(config, Some(&issued.certificate)).unwrap_err();
            format!("{} {name}", unknown(config, Path::new("/k")))
        };
        let told = words(&theirs);
        assert!(told.contains("--bootstrap-kubeconfig") && told.contains("--hostname-override"), "{told}");
        assert!(!told.contains("coracle"), "{told}");
        let told = words(&ours);
        assert!(told.contains("coracle token create") && told.contains("coracle reset"), "{told}");
    }

    #[test]
    fn a_certificate_is_renewed_where_it_is_or_taken_to_where_it_can_be() {
        let (file, data) = (|path: &str| Pem::File(path.into()), || Pem::Data(b"x".to_vec()));
        let own = |certificate: Pem, key: Pem, dir: Option<&str>, renews: bool| {
            let mut config = Config::default();
            config.node.certificate_dir = dir.map(PathBuf::from);
            config.kubelet.renews_client_certificate = renews;
            match Own::of(&config, &Credentials::Certificate { certificate, key }) {
                Own::None => "none".to_owned(),
                Own::Held { file: None, .. } => "held".to_owned(),
                Own::Held { file: Some(file), .. } => format!("renewed in {}", file.display()),
                Own::TakenOver { to, .. } => format!("taken to {}", to.display()),
            }
        };
        assert_eq!(own(file("/a"), file("/a"), Some("/dir"), true), "renewed in /a");
        assert_eq!(own(file("/a"), file("/b"), None, true), "held");
        assert_eq!(own(file("/a"), file("/b"), Some("/dir"), true), format!("taken to /dir/{CLIENT}"));
        assert_eq!(own(data(), data(), Some("/dir"), true), format!("taken to /dir/{CLIENT}"));
        assert_eq!(own(data(), data(), Some("/dir"), false), "held");
        let token = Credentials::TokenFile("/t".into());
        assert!(matches!(Own::of(&Config::default(), &token), Own::None));
    }

    #[test]
    fn a_route_to_the_server_decides_then_what_was_and_last_a_guess() {
        let ip = |last: u8| Some(IpAddr::from([192, 0, 2, last]));
        let choose = |routed, kept, outward| Seen { routed, kept, outward }.choose();
        assert_eq!(choose(ip(1), ip(2), ip(3)), ip(1).map(Choice::Routed));
        assert_eq!(choose(None, ip(2), ip(3)), ip(2).map(Choice::Kept));
        assert_eq!(choose(None, None, ip(3)), ip(3).map(Choice::Guessed));
        assert_eq!(choose(None, None, None), None);
    }

    #[tokio::test]
    async fn a_server_whose_name_nobody_knows_leaves_the_address_of_before_while_the_machine_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("state/node-address");
        let endpoint = Endpoint::new("https://api.invalid:6443".parse().unwrap(), None, Credentials::None);
        let found = async || node_ip(&Config::default(), &endpoint, &kept).await.ok();
        assert_eq!(found().await, addresses::outward());
        // The machine's own, and not the one that leads outside.
        let own = IpAddr::from([127, 0, 0, 1]);
        join::keep_address(&kept, own).unwrap();
        assert_eq!(found().await, Some(own));
        join::keep_address(&kept, [203, 0, 113, 9].into()).unwrap();
        assert_eq!(found().await, addresses::outward(), "the machine has it no more");
        std::fs::write(&kept, "torn").unwrap();
        assert_eq!(found().await, addresses::outward());
    }
}
