//! The socket: TLS, HTTP/1.1 and HTTP/2, upgrades, a graceful end.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use lifecycle::Scope;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::{
    authn::PeerCertificates,
    chain::{self, Caller},
    server::Server,
};

const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER_READ: Duration = Duration::from_secs(30);
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_STREAMS: u32 = 250;
/// How long open requests may go on when the server stops.
const DRAIN: Duration = Duration::from_secs(10);
/// After an accept that failed (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Server {
    /// Accepts connections until `scope` is cancelled, then lets open requests finish. Client certificates are
    /// what `tls` verifies; a connection without one is up to the authenticator.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>, scope: Scope) {
        let acceptor = TlsAcceptor::from(tls);
        let connections = scope.child("connections");
        loop {
            let accepted = tokio::select! {
                () = scope.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (server, acceptor) = (self.clone(), acceptor.clone());
                    let own = connections.clone();
                    drop(connections.spawn_guarded("connection", async move {
                        server.connection(stream, peer, acceptor, own).await;
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

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, scope: Scope) {
        // Small writes (watch events) go out at once.
        drop(stream.set_nodelay(true));
        let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                return debug!(%peer, error = &error as &dyn std::error::Error, "TLS handshake failed");
            }
            Err(_) => return debug!(%peer, "TLS handshake timed out"),
        };
        let certificates = stream.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty());
        let caller = Caller::Remote(certificates.map(|chain| {
            let owned = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
            PeerCertificates(Arc::new(owned))
        }));
        let server = self.inner().clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, caller) = (server.clone(), caller.clone());
            let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
            async move { Ok::<_, Infallible>(chain::answer(&server, caller, request).await) }
        });
        let builder = builder(&scope);
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
}

fn builder(scope: &Scope) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(Tasks(scope.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .adaptive_window(true);
    builder
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
