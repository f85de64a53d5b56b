//! The kubelet's HTTPS server (port 10250): logs, exec, attach, port-forward, pods, metrics, health.
//!
//! ```text
//!   connection ──TLS──▶ gate (who, may he: TokenReview, SubjectAccessReview) ──▶ routes ─┬─▶ logs (CRI log files)
//!                                                                                        └─▶ stream ──splice──▶ runtime
//! ```
//!
//! Invariants:
//! - Nothing is answered before the gate has let the request in; nobody is anonymous.
//! - Streams are the runtime's: the upgrade is passed on and not looked into.

mod gate;
mod host;
mod logs;
mod query;
mod routes;
mod rules;
mod stream;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use gate::{ApiReviewer, ReviewError, Reviewer, User};
pub use host::{Host, NodeHost, StreamRequest, Streams};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use lifecycle::Scope;
use streaming::serve::{Limits, Peer};
use tokio::net::TcpListener;
use tracing::info;

use self::gate::Gate;

/// The API server's connections and some scrapers: each exec, attach and port-forward has one of its own.
const LIMITS: Limits = Limits { connections: 1024, drain: Duration::from_secs(5) };

type Body = UnsyncBoxBody<bytes::Bytes, std::io::Error>;

#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    pub address: SocketAddr,
    /// Shows the node's serving certificate; asks for a client certificate of the cluster's authority without needing
    /// one.
    pub tls: Arc<rustls::ServerConfig>,
}

#[derive(Debug, thiserror::Error)]
#[error("listen on {address}")]
pub struct ServerError {
    address: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What every request may use.
#[derive(Clone)]
struct Server {
    host: Arc<dyn Host>,
    gate: Arc<Gate>,
    scope: Scope,
}

/// Serves until `scope` is cancelled.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(
    config: Config,
    host: Arc<dyn Host>,
    reviewer: Arc<dyn Reviewer>,
    scope: &Scope,
) -> Result<(), ServerError> {
    let address = config.address;
    let listener = TcpListener::bind(address).await.map_err(|source| ServerError { address, source })?;
    info!(%address, "kubelet server listens");
    serve(listener, config, host, reviewer, scope).await;
    Ok(())
}

async fn serve(
    listener: TcpListener,
    config: Config,
    host: Arc<dyn Host>,
    reviewer: Arc<dyn Reviewer>,
    scope: &Scope,
) {
    let connections = scope.child("kubelet connections");
    let gate = Arc::new(Gate::new(config.node_name, reviewer));
    let server = Server { host, gate, scope: connections.clone() };
    let on_connection = move |peer: Peer| {
        let by_certificate = peer.certificates.first().and_then(|leaf| rules::user_of(leaf));
        let server = server.clone();
        move |request: Request<Incoming>| {
            let (server, user) = (server.clone(), by_certificate.clone());
            async move { answer(&server, user, request).await }
        }
    };
    streaming::serve::serve(listener, config.tls, LIMITS, &connections, on_connection).await;
}

async fn answer(server: &Server, user: Option<User>, request: Request<Incoming>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    match server.gate.admit(user, &parts.method, parts.uri.path(), &parts.headers).await {
        Ok(()) => routes::route(server, parts).await,
        Err(refusal) => routes::text(refusal.code, refusal.words),
    }
}

#[cfg(test)]
mod tests;
