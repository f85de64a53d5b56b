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

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

pub use gate::{ApiReviewer, ReviewError, Reviewer, User};
pub use host::{Host, NodeHost, StreamRequest, Streams};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use lifecycle::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use self::gate::Gate;

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER_READ: Duration = Duration::from_secs(30);
/// How long open requests may go on when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// After an accept that failed (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    let acceptor = TlsAcceptor::from(config.tls);
    loop {
        let accepted = tokio::select! {
            () = scope.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (server, acceptor) = (server.clone(), acceptor.clone());
                drop(connections.spawn_guarded("kubelet connection", async move {
                    connection(server, stream, peer, acceptor).await;
                }));
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if !connections.close(DRAIN).await {
        debug!("connections were still open at the end of the drain");
    }
}

async fn connection(server: Server, stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor) {
    drop(stream.set_nodelay(true));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return debug!(%peer, error = &error as &dyn std::error::Error, "TLS handshake failed");
        }
        Err(_) => return debug!(%peer, "TLS handshake timed out"),
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let by_certificate = leaf.and_then(|certificate| rules::user_of(certificate));
    let scope = server.scope.clone();
    let mut builder = auto::Builder::new(Tasks(scope.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, user) = (server.clone(), by_certificate.clone());
        async move { Ok::<_, Infallible>(answer(&server, user, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = scope.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%peer, error = error.as_ref() as &dyn std::error::Error, "connection ended");
    }
}

async fn answer(server: &Server, user: Option<User>, request: Request<Incoming>) -> Response<Body> {
    let (parts, _) = request.into_parts();
    match server.gate.admit(user, &parts.method, parts.uri.path(), &parts.headers).await {
        Ok(()) => routes::route(server, parts).await,
        Err(refusal) => routes::text(refusal.code, refusal.words),
    }
}

/// Runs a connection's HTTP/2 streams as tasks of its scope.
#[derive(Clone)]
struct Tasks(Scope);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn_guarded("http2-stream", future));
    }
}

#[cfg(test)]
mod tests;
