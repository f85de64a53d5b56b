//! Builds the API server: store, registry, identity checks, admission, pages.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use apiserver::{
    Cache, Components, Config as ServerConfig, Server, admission,
    authn::{Authentication, TokenIssuer, openid::Documents, service_account_name},
    authz::Authorization,
    bootstrap,
    connect::{self, Connector},
    discovery::Discovery,
    openapi::OpenApi,
    registry::{Registry, strategy::service::Family, table},
    reviews,
    transaction::PoolsConfig,
    user::UserInfo,
};
use config::Config;
use controllers::ClientFor;
use lifecycle::{BoxError, Scope};
use pki::TokenKeys;
use store::{Compactor, EmbeddedStore, Store, embedded};
use tokio::{net::TcpListener, time::Instant};
use tracing::{info, warn};

use crate::identity::Place;

/// The version of Kubernetes whose API this is.
const VERSION: &str = "v1.36.3";

/// The API, and the store under it.
pub(crate) struct ControlPlane {
    pub(crate) server: Server,
    store: Arc<dyn Store>,
}

/// What the API server proves itself by, and knows others by.
pub(crate) struct Credentials {
    /// Sign and verify service-account tokens.
    pub(crate) tokens: TokenKeys,
    /// How it calls kubelets: its client certificate, and the authority that they must show.
    pub(crate) kubelets: rustls::ClientConfig,
    /// The cluster's authority, for machines that join.
    pub(crate) authority_pem: String,
}

/// Opens the store, and with its lock takes the state directory: no second process writes there from then on.
///
/// # Errors
/// Who has it, or why it cannot be used.
pub(crate) fn open_store(config: &Config, scope: &Scope) -> anyhow::Result<Arc<dyn Store>> {
    let options = embedded::Options::new(config.state_dir.join("store"));
    Ok(Arc::new(EmbeddedStore::open(&options, scope)?))
}

/// Reads the store into the watch cache, and makes what every cluster has. Nothing listens yet.
pub(crate) async fn build(
    config: &Config,
    place: &Place,
    credentials: Credentials,
    store: Arc<dyn Store>,
    scope: &Scope,
) -> anyhow::Result<ControlPlane> {
    let Credentials { tokens, kubelets, authority_pem } = credentials;
    let issuer = format!("https://kubernetes.default.svc.{}", config.kubelet.cluster_domain);
    let tokens = Arc::new(TokenIssuer::new(tokens, issuer));
    let authentication = Authentication::new(Arc::clone(&tokens));
    let authorization = Authorization::new();

    let mut actions = table::Actions::default();
    reviews::fill(&mut actions, &authentication, &authorization);
    connect::fill(&mut actions, &Connector::new(kubelets, scope));
    let cluster = table::Cluster {
        service_families: vec![family(config)],
        upstream_kinds: table::UpstreamKinds::beside(
            config.components.controllers,
            config.components.scheduler,
        ),
    };
    let (rows, virtuals) = table::rows(&cluster, &actions);
    let registry = Arc::new(Registry::new(rows, virtuals));
    let cache =
        Cache::start(Arc::clone(&store), Arc::clone(&registry), scope).await.context("read the store")?;
    authentication.attach(cache.clone());
    authorization.attach(cache.clone());

    let pools = PoolsConfig {
        service_cidrs: vec![config.network.service_cidr],
        node_ports: config.network.node_ports.0..=config.network.node_ports.1,
    };
    let components = Components {
        cache,
        registry: Arc::clone(&registry),
        authenticator: authentication,
        authorizer: authorization.clone(),
        admission: admission::plugins(&authorization),
        pages: vec![
            Arc::new(Discovery(Arc::clone(&registry))),
            Arc::new(OpenApi { registry: Arc::clone(&registry), version: VERSION.into() }),
            Arc::new(Documents { tokens, address: place.advertised.to_string() }),
        ],
    };
    let server = Server::new(ServerConfig { pools, ..ServerConfig::default() }, components, scope);
    bootstrap(&server, config, place, authority_pem).await;
    Ok(ControlPlane { server, store })
}

fn family(config: &Config) -> Family {
    Family::of(config.network.service_cidr.addr())
}

/// What fails here is told and tried again at the next start: a cluster with one broken object still serves.
async fn bootstrap(server: &Server, config: &Config, place: &Place, authority_pem: String) {
    let introduction = bootstrap::Introduction {
        server: place.api_url(),
        authority_pem,
        version: VERSION.into(),
        pod_cidr: config.network.pod_cidr,
        service_cidr: config.network.service_cidr,
        cluster_domain: config.kubelet.cluster_domain.clone(),
        cluster_dns: config.cluster_dns(),
    };
    let place = bootstrap::Place {
        service_ip: place.service_ip,
        service_port: 443,
        endpoint: bootstrap::Endpoint { addresses: vec![place.advertised.ip()], port: config.server.port },
    };
    let mut wanted = bootstrap::all(&place);
    wanted.extend(bootstrap::introduction(&introduction));
    let ensured = bootstrap::ensure(server.objects().as_ref(), &wanted).await;
    for (object, error) in &ensured.failed {
        warn!(object, error = %error.message, "an object that every cluster has could not be made");
    }
    info!(created = ensured.created, repaired = ensured.repaired, "bootstrap objects are there");
}

impl ControlPlane {
    /// Serves the API over TLS until `scope` is cancelled.
    pub(crate) async fn serve(
        server: Server,
        listener: Option<TcpListener>,
        address: std::net::SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        scope: Scope,
    ) -> Result<(), BoxError> {
        // At the start it listens already; after a failure it has to do so again.
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind(address).await?,
        };
        info!(%address, "API server listens");
        server.serve(listener, tls, scope).await;
        Ok(())
    }

    /// Forgets old revisions of the store, once a minute.
    pub(crate) fn compaction(&self) -> impl Fn(Scope) -> CompactionFuture + Send + 'static {
        let store = Arc::clone(&self.store);
        move |scope| {
            let store = Arc::clone(&store);
            Box::pin(async move {
                let mut compactor = Compactor::new(store::KEPT);
                let mut minutes = tokio::time::interval(Duration::from_secs(60));
                loop {
                    tokio::select! {
                        () = scope.cancelled() => return Ok(()),
                        _ = minutes.tick() => {}
                    }
                    if let Err(error) = compactor.tick(store.as_ref(), Instant::now().into_std()).await {
                        warn!(error = &error as &dyn std::error::Error, "the store was not compacted");
                    }
                }
            })
        }
    }

    /// Connections to this API inside the process.
    pub(crate) fn clients(&self) -> Clients {
        Clients(self.server.clone())
    }
}

/// Gives each component of the process its client: in memory, with an identity of its own, and with no more
/// rights than that identity has.
#[derive(Clone)]
pub(crate) struct Clients(Server);

impl Clients {
    pub(crate) fn user(&self, user: &str, groups: &[&str]) -> client::Client {
        client::from_service(self.0.connect(UserInfo::new(user, groups)))
    }

    pub(crate) fn node(&self, name: &str) -> client::Client {
        self.user(&format!("system:node:{name}"), &["system:nodes"])
    }
}

impl ClientFor for Clients {
    fn client(&self, controller: &'static str) -> client::Client {
        let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
        self.user(&service_account_name("kube-system", controller), &groups)
    }
}

type CompactionFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;
