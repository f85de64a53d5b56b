//! The component: bind, answer, and once the cluster is known, be found.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use client::{Cache, Client};
use hickory_proto::ProtoError;
use ipnet::IpNet;
use lifecycle::Scope;
use tracing::info;

use crate::{
    clients::Clients,
    forward::{Forwarder, Settings},
    observe::Objects,
    publish::{self, Published},
    respond::Responder,
    serve::{self, Sockets},
    zone::Zone,
};

/// As kubeadm configures CoreDNS, in seconds.
const TTL: u32 = 30;
const DNS_PORT: u16 = 53;

#[derive(Clone, Debug)]
pub struct Config {
    /// Such as `cluster.local`.
    pub domain: String,
    /// Where to listen. Not a wildcard address: an answer has to come from the address that was asked.
    pub listen: SocketAddr,
    /// The ranges of pods and Services: their addresses have names here, or none.
    pub ranges: Vec<IpNet>,
    /// Besides the cluster's own, for whom other names are asked for.
    pub clients: Vec<IpNet>,
    /// Names the resolvers that everything else is asked of.
    pub resolv_conf: PathBuf,
    /// The Service's address, which pods' resolv.conf names.
    pub cluster_ip: std::net::IpAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("\"{domain}\" is no domain name; set kubelet.clusterDomain in the configuration")]
    Domain {
        domain: String,
        #[source]
        source: ProtoError,
    },
    #[error(
        "cannot listen on {address} for DNS; another program may have the port (`ss -lnp` names it; dns.port in the configuration chooses another)"
    )]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// Serves DNS until `scope` is cancelled; `client` writes the Service at which it is found.
///
/// # Errors
/// When it cannot listen, or the domain is none.
pub async fn run(config: Config, client: Client, cache: &Cache, scope: Scope) -> Result<(), DnsError> {
    // Changes are not transferred to anybody: it only has to grow.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let serial = u32::try_from(since.as_secs() & u64::from(u32::MAX)).unwrap_or(1);
    let zone = Zone::new(&config.domain, config.ranges.clone(), TTL, serial)
        .map_err(|source| DnsError::Domain { domain: config.domain.clone(), source })?;
    let listen = |source| DnsError::Listen { address: config.listen, source };
    let sockets = Sockets::bind(config.listen).await.map_err(listen)?;
    let address = sockets.address().map_err(listen)?;
    let settings = Settings {
        resolv_conf: config.resolv_conf,
        port: DNS_PORT,
        ourselves: vec![address, SocketAddr::new(config.cluster_ip, DNS_PORT)],
    };
    let objects = Objects::new(cache);
    let ranges = [config.ranges, config.clients].concat();
    let responder = Arc::new(Responder {
        zone,
        objects: objects.clone(),
        forwarder: Arc::new(Forwarder::new(settings)),
        clients: Clients::new(ranges, cache),
    });
    info!(%address, domain = config.domain, "DNS listens");

    let wanted = Published { cluster_ip: config.cluster_ip, address: address.ip(), port: address.port() };
    let (cache, own) = (cache.clone(), scope.child("publish"));
    scope.spawn("dns publisher", async move {
        tokio::select! {
            () = own.cancelled() => return,
            () = objects.wait_synced() => {}
        }
        publish::run(client, &cache, wanted, own).await;
    });
    serve::run(sockets, responder, scope).await;
    Ok(())
}
