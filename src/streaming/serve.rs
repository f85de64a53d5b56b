//! The listening sockets of the API server and of the kubelet: TLS, HTTP/1.1 and HTTP/2, upgrades, a graceful end.
//!
//! Here rather than in either, since they differ in nothing but their answers. The tasks are those of the scope that the
//! caller gives.

use std::{
    convert::Infallible,
    error::Error,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use lifecycle::Scope;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::socket;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of the first request, and of each next one on a connection that is kept.
const HEADER_READ: Duration = Duration::from_secs(30);
/// Upstream's: a peer that is gone without a word is noticed after 45 s.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_STREAMS: u32 = 250;
/// What one HTTP/2 stream may hold for a peer that does not read.
const MAX_SEND_BYTES: usize = 128 << 10;
/// After an accept that failed (too many open files), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A server that stays full says so this often.
const TELL_FULL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once, those that were upgraded among them. More wait in the kernel's backlog.
    pub connections: usize,
    /// How long open requests may go on when the server stops.
    pub drain: Duration,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The client's chain as the TLS configuration has verified it; empty without one.
    pub certificates: Vec<CertificateDer<'static>>,
}

tokio::task_local! {
    static RESPONSE: CancellationToken;
}

/// Cancelled, it breaks off the response that the calling request handler makes, also while the peer does not read it:
/// an HTTP/2 stream is reset, an HTTP/1.1 connection is closed. `None` when no socket is behind the request.
#[must_use]
pub fn this_response() -> Option<CancellationToken> {
    RESPONSE.try_with(Clone::clone).ok()
}

/// Accepts until `connections` is cancelled, then lets open requests finish. Asks `on_connection` for each connection's
/// way to answer requests.
pub async fn serve<C, A, F, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    limits: Limits,
    connections: &Scope,
    on_connection: C,
) where
    C: Fn(Peer) -> A + Clone + Send + Sync + 'static,
    A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    accept_all(listener, limits, connections, |stream, address, permit| {
        let (acceptor, scope, on_connection) = (acceptor.clone(), connections.clone(), on_connection.clone());
        async move {
            let Some(stream) = shake_hands(stream, address, &acceptor).await else { return };
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let certificates = chain.iter().map(|one| one.clone().into_owned()).collect();
            let answer = on_connection(Peer { address, certificates });
            let stream = Counted { stream, _permit: permit };
            connection(stream, address, answer, limits.drain, scope).await;
        }
    })
    .await;
}

/// As [`serve`], without TLS: for questions that everybody who reaches the address may ask.
pub async fn serve_plain<A, F, B>(listener: TcpListener, limits: Limits, connections: &Scope, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    accept_all(listener, limits, connections, |stream, address, permit| {
        let (scope, answer) = (connections.clone(), answer.clone());
        let stream = Counted { stream, _permit: permit };
        async move { connection(stream, address, answer, limits.drain, scope).await }
    })
    .await;
}

/// Gives each connection a task of its own, with `attend`, until `connections` is cancelled; then waits for them.
async fn accept_all<W>(
    listener: TcpListener,
    limits: Limits,
    connections: &Scope,
    attend: impl Fn(TcpStream, SocketAddr, OwnedSemaphorePermit) -> W,
) where
    W: Future<Output = ()> + Send + 'static,
{
    let mut door = Door { room: Arc::new(Semaphore::new(limits.connections)), limits, told: None };
    loop {
        let accepted = tokio::select! {
            () = connections.cancelled() => break,
            accepted = door.accept(&listener) => accepted,
        };
        match accepted {
            Ok((stream, address, permit)) => {
                drop(connections.spawn_guarded("connection", attend(stream, address, permit)));
            }
            Err(error) => {
                warn!(error = &error as &dyn Error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if !connections.close(limits.drain).await {
        debug!("connections were still open at the end of the drain");
    }
}

/// Lets in as many as there is room for.
struct Door {
    room: Arc<Semaphore>,
    limits: Limits,
    /// When it was last said that there is none.
    told: Option<Instant>,
}

impl Door {
    async fn accept(
        &mut self,
        listener: &TcpListener,
    ) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let permit = match self.room.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if self.told.is_none_or(|told| told.elapsed() >= TELL_FULL) {
                    self.told = Some(Instant::now());
                    let limit = self.limits.connections;
                    warn!(limit, "as many connections as there may be; new ones wait until one ends");
                }
                self.room.clone().acquire_owned().await.map_err(std::io::Error::other)?
            }
        };
        let (stream, address) = listener.accept().await?;
        // A connection that the kernel sets up no better serves as well.
        drop(socket::set_up(&stream));
        Ok((stream, address, permit))
    }
}

async fn shake_hands(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: &TlsAcceptor,
) -> Option<TlsStream<TcpStream>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => debug!(%peer, error = &error as &dyn Error, "TLS handshake failed"),
        Err(_) => debug!(%peer, "TLS handshake timed out"),
    }
    None
}

async fn connection<S, A, F, B>(
    stream: Counted<S>,
    peer: SocketAddr,
    answer: A,
    drain: Duration,
    scope: Scope,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = builder(&scope);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let broken_off = CancellationToken::new();
    let serving = RESPONSE.scope(broken_off.clone(), async move {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = scope.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(drain, connection).await.unwrap_or(Ok(()))
            }
        }
    });
    let ended = tokio::select! {
        ended = serving => ended,
        () = broken_off.cancelled() => return debug!(%peer, "response broken off"),
    };
    if let Err(error) = ended {
        debug!(%peer, error = error.as_ref() as &dyn Error, "connection ended");
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
        .max_send_buf_size(MAX_SEND_BYTES)
        .adaptive_window(true);
    builder
}

/// Runs a connection's HTTP/2 streams as tasks of its scope, each of which can be broken off.
#[derive(Clone)]
struct Tasks(Scope);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let broken_off = CancellationToken::new();
        let stream = RESPONSE.scope(broken_off.clone(), future);
        drop(self.0.spawn_guarded("http2-stream", async move {
            tokio::select! {
                _ = stream => {}
                () = broken_off.cancelled() => {}
            }
        }));
    }
}

/// A connection, counted as long as it is open: also when an upgrade has taken it from HTTP.
struct Counted<S> {
    stream: S,
    _permit: OwnedSemaphorePermit,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
