//! The controllers: each turns what people ask for in one kind of object into other objects.
//!
//! ```text
//!   Cache (shared reflectors) ──▶ Changes ──▶ WorkQueue ──▶ observe ──▶ plan (pure) ──▶ apply ──▶ API, as itself
//!                                     ▲                                                  │
//!                                     └────────────── the API's answer ◀─────────────────┘
//! ```
//!
//! Invariants:
//! - A controller reads the shared cache and writes under its own identity, with the verbs that
//!   upstream's bootstrap roles give to it and no others.
//! - It decides from the state it sees, never from an event, and not before the cache includes what it
//!   wrote itself ([`ledger`]): so it cannot make the same thing twice.
//! - A poisoned object is retried with back-off, told in an event, and stops no loop.

mod bootstrap_tokens;
mod certificates;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod error;
mod garbage;
mod hash;
mod ledger;
mod mirroring;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod owned;
mod owners;
mod ownership;
mod pod_gc;
mod pod_hands;
mod replicaset;
mod resources;
mod service_account;
mod template;
mod work;

use std::{sync::Arc, time::Duration};

use client::{Cache, Client};
use lifecycle::Scope;

use owned::Pods;

pub use node_ipam::CidrError;

/// What the controllers need to know about their cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod address ranges of the whole cluster, at most one for each family, as `10.244.0.0/16`. Empty:
    /// nodes are given no `spec.podCIDR`.
    pub cluster_cidrs: Vec<String>,
    /// The size of a node's share: 24 for IPv4.
    pub node_cidr_mask_ipv4: u8,
    /// The size of a node's share: 64 for IPv6.
    pub node_cidr_mask_ipv6: u8,
    /// Signs CSRs of Kubernetes' own signers; none: CSRs are approved and left to somebody else.
    pub signer: Option<Arc<pki::Authority>>,
    /// The longest life of a certificate that is signed (a year).
    pub signing_duration: Duration,
    /// What goes into `kube-root-ca.crt` in every namespace; none: it is not published.
    pub root_ca_pem: Option<String>,
    /// A node is Unknown when it was silent for this long (40 s).
    pub node_monitor_grace: Duration,
    /// Terminated pods beyond this number are deleted, oldest first (12500).
    pub terminated_pod_threshold: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster_cidrs: Vec::new(),
            node_cidr_mask_ipv4: 24,
            node_cidr_mask_ipv6: 64,
            signer: None,
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            root_ca_pem: None,
            node_monitor_grace: Duration::from_secs(40),
            terminated_pod_threshold: 12_500,
        }
    }
}

/// Gives each controller its client. In one process the client acts as
/// `system:serviceaccount:kube-system:<controller>`, with the groups of a service account.
pub trait ClientFor: Send + Sync {
    fn client(&self, controller: &'static str) -> Client;
}

/// One client for all: the process's own identity, as upstream without `--use-service-account-credentials`.
impl ClientFor for Client {
    fn client(&self, _controller: &'static str) -> Client {
        self.clone()
    }
}

/// Each controller's name: that of its service account in upstream's bootstrap roles.
pub mod names {
    pub const BOOTSTRAP_SIGNER: &str = "bootstrap-signer";
    pub const CERTIFICATES: &str = "certificate-controller";
    pub const DAEMON_SET: &str = "daemon-set-controller";
    pub const DEPLOYMENT: &str = "deployment-controller";
    pub const DISRUPTION: &str = "disruption-controller";
    pub const ENDPOINTS: &str = "endpoint-controller";
    pub const ENDPOINT_SLICE: &str = "endpointslice-controller";
    pub const GARBAGE: &str = "generic-garbage-collector";
    pub const MIRRORING: &str = "endpointslicemirroring-controller";
    pub const NAMESPACE: &str = "namespace-controller";
    pub const NODE: &str = "node-controller";
    pub const POD_GC: &str = "pod-garbage-collector";
    pub const REPLICA_SET: &str = "replicaset-controller";
    pub const REPLICATION: &str = "replication-controller";
    pub const ROOT_CA: &str = "root-ca-cert-publisher";
    pub const SERVICE_ACCOUNT: &str = "service-account-controller";
    pub const TOKEN_CLEANER: &str = "token-cleaner";

    /// All of them.
    pub const ALL: &[&str] = &[
        BOOTSTRAP_SIGNER,
        CERTIFICATES,
        DAEMON_SET,
        DEPLOYMENT,
        DISRUPTION,
        ENDPOINTS,
        ENDPOINT_SLICE,
        GARBAGE,
        MIRRORING,
        NAMESPACE,
        NODE,
        POD_GC,
        REPLICA_SET,
        REPLICATION,
        ROOT_CA,
        SERVICE_ACCOUNT,
        TOKEN_CLEANER,
    ];
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cluster CIDR {cidr:?} cannot be used")]
    ClusterCidr {
        cidr: String,
        #[source]
        source: CidrError,
    },
}

/// Runs all controllers until `scope` is cancelled.
///
/// # Errors
/// When the configuration cannot be used.
pub async fn run(
    config: Config,
    clients: &dyn ClientFor,
    cache: &Cache,
    scope: Scope,
) -> Result<(), StartError> {
    let config = Arc::new(config);
    // Identity first: nodes and pods wait for certificates, service accounts and the root CA.
    certificates::start(&config, clients, cache, &scope);
    bootstrap_tokens::start(clients, cache, &scope);
    service_account::start(&config, clients, cache, &scope);
    namespace::start(clients, cache, &scope);
    node_ipam::start(&config, clients, cache, &scope)?;
    node_lifecycle::start(&config, clients, cache, &scope);
    let pods = Pods::new(cache);
    deployment::start(clients, cache, &scope);
    disruption::start(clients, cache, &scope);
    replicaset::start(clients, cache, &pods, &scope);
    daemonset::start(clients, cache, &pods, &scope);
    endpointslice::start(clients, cache, &scope);
    endpoints::start(clients, cache, &scope);
    mirroring::start(clients, cache, &scope);
    pod_gc::start(&config, clients, cache, &scope);
    garbage::start(clients, &scope);
    scope.cancelled().await;
    Ok(())
}
