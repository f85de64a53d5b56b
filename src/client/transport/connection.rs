//! One connection to one server, shared by all requests.
//!
//! The server's ALPN answer decides: with `h2` all requests and watches share the connection; with
//! `http/1.1` (some proxies) each request opens its own.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, HOST, USER_AGENT},
    uri::{Parts, PathAndQuery},
};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::client::Body;
use lifecycle::Scope;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use tower::{BoxError, Service};
use tracing::debug;

use super::{
    ConnectError,
    endpoint::{Credentials, Endpoint},
    tls,
};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// A dead peer is noticed after interval + time-out, whatever the kernel thinks of the connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
const TOKEN_AGE: Duration = Duration::from_secs(60);

/// The service under a remote client.
#[derive(Clone)]
pub(super) struct Remote(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    /// `host:port`, for dialling and errors.
    address: String,
    host: String,
    scope: Scope,
    /// Locked while a connection is being made, on purpose: the others wait for that one connection
    /// instead of dialling their own. Dialling has a deadline, so nobody waits for ever.
    shared: Mutex<Option<http2::SendRequest<Body>>>,
    token: parking_lot::Mutex<Option<(HeaderValue, Instant)>>,
}

/// Drops the current connection; the next request makes a new one from files read afresh.
#[derive(Clone)]
pub struct Reconnect(Remote);

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect").field("address", &self.0.0.address).finish()
    }
}

impl Reconnect {
    /// New requests go over a new connection. Streams of the old one run on until they end.
    pub async fn reconnect(&self) {
        self.0.0.token.lock().take();
        self.0.0.shared.lock().await.take();
    }
}

enum Sender {
    Shared(http2::SendRequest<Body>),
    Single(http1::SendRequest<Body>),
}

impl Remote {
    pub(super) fn new(endpoint: Endpoint, scope: &Scope) -> Result<Self, ConnectError> {
        let url = || endpoint.server.to_string();
        let host = endpoint.server.host().ok_or_else(|| ConnectError::NoHost { url: url() })?;
        let port = match (endpoint.server.scheme_str(), endpoint.server.port_u16()) {
            (Some("http" | "https"), Some(port)) => port,
            (Some("https"), None) => 443,
            (Some("http"), None) => 80,
            (scheme, _) => {
                let scheme = scheme.unwrap_or_default().to_string();
                return Err(ConnectError::Scheme { url: url(), scheme });
            }
        };
        if endpoint.server.scheme_str() == Some("https") {
            // Tells mistakes in files now rather than at the first request.
            tls::client_config(&endpoint)?;
        }
        let shared = Shared {
            address: format!("{host}:{port}"),
            host: host.trim_start_matches('[').trim_end_matches(']').to_string(),
            scope: scope.child("connection"),
            shared: Mutex::new(None),
            token: parking_lot::Mutex::new(None),
            endpoint,
        };
        Ok(Self(Arc::new(shared)))
    }

    pub(super) fn reconnect(&self) -> Reconnect {
        Reconnect(self.clone())
    }

    async fn send(self, mut request: Request<Body>) -> Result<Response<Incoming>, BoxError> {
        self.0.prepare(&mut request)?;
        // A connection may turn out dead when it is used: a request that did not leave goes again, once.
        for last in [false, true] {
            match self.0.sender().await? {
                Sender::Shared(mut sender) => match sender.try_send_request(request).await {
                    Ok(response) => return Ok(response),
                    Err(mut failed) => match failed.take_message() {
                        Some(unsent) if !last => request = unsent,
                        _ => return Err(failed.into_error().into()),
                    },
                },
                Sender::Single(mut sender) => {
                    let path = request.uri().path_and_query().cloned();
                    *request.uri_mut() = path.map_or_else(Uri::default, Uri::from);
                    let host = HeaderValue::from_str(&self.0.address)?;
                    request.headers_mut().insert(HOST, host);
                    return Ok(sender.send_request(request).await?);
                }
            }
        }
        Err(ConnectError::Timeout { address: self.0.address.clone(), seconds: 0 }.into())
    }
}

impl Service<Request<Body>> for Remote {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

impl Shared {
    /// Makes the URI absolute and adds who we are.
    fn prepare(&self, request: &mut Request<Body>) -> Result<(), BoxError> {
        let base = self.endpoint.server.path().trim_end_matches('/');
        let asked = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let mut parts = Parts::default();
        parts.scheme = self.endpoint.server.scheme().cloned();
        parts.authority = self.endpoint.server.authority().cloned();
        parts.path_and_query = Some(format!("{base}{asked}").parse()?);
        *request.uri_mut() = Uri::from_parts(parts)?;
        let agent = HeaderValue::from_str(&self.endpoint.user_agent)?;
        request.headers_mut().entry(USER_AGENT).or_insert(agent);
        if let Some(token) = self.token()? {
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        Ok(())
    }

    fn token(&self) -> Result<Option<HeaderValue>, BoxError> {
        match &self.endpoint.credentials {
            Credentials::None | Credentials::Certificate { .. } => Ok(None),
            Credentials::Token(token) => Ok(Some(bearer(token.reveal())?)),
            Credentials::TokenFile(path) => {
                let mut cached = self.token.lock();
                if let Some((token, read_at)) = &*cached
                    && read_at.elapsed() < TOKEN_AGE
                {
                    return Ok(Some(token.clone()));
                }
                let text = tls::read_file(path)?;
                let token = bearer(String::from_utf8_lossy(&text).trim())?;
                *cached = Some((token.clone(), Instant::now()));
                Ok(Some(token))
            }
        }
    }

    async fn sender(&self) -> Result<Sender, ConnectError> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = &*shared
            && !sender.is_closed()
        {
            return Ok(Sender::Shared(sender.clone()));
        }
        let sender = timeout(CONNECT_DEADLINE, self.dial()).await.unwrap_or_else(|_| {
            let seconds = CONNECT_DEADLINE.as_secs();
            Err(ConnectError::Timeout { address: self.address.clone(), seconds })
        })?;
        if let Sender::Shared(sender) = &sender {
            *shared = Some(sender.clone());
        }
        Ok(sender)
    }

    async fn dial(&self) -> Result<Sender, ConnectError> {
        let address = || self.address.clone();
        let tcp = TcpStream::connect(&self.address)
            .await
            .map_err(|source| ConnectError::Tcp { address: address(), source })?;
        // Small requests must not wait for the peer's delayed acknowledgement.
        tcp.set_nodelay(true).map_err(|source| ConnectError::Tcp { address: address(), source })?;
        if self.endpoint.server.scheme_str() == Some("http") {
            return self.http1(tcp).await;
        }
        let config = tls::client_config(&self.endpoint)?;
        let name = self.endpoint.tls_server_name.clone().unwrap_or_else(|| self.host.clone());
        let name = ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName { name })?;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .map_err(|source| ConnectError::Handshake { address: address(), source })?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            self.http2(stream).await
        } else {
            self.http1(stream).await
        }
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Sender, ConnectError> {
        let (sender, connection) = http2::Builder::new(OnScope(self.scope.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { address: self.address.clone(), source })?;
        self.drive("http2 connection", connection);
        Ok(Sender::Shared(sender))
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> Result<Sender, ConnectError> {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { address: self.address.clone(), source })?;
        self.drive("http1 connection", connection);
        Ok(Sender::Single(sender))
    }

    fn drive(
        &self,
        name: &'static str,
        connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static,
    ) {
        let (token, server) = (self.scope.token(), self.address.clone());
        drop(self.scope.spawn_guarded(name, async move {
            tokio::select! {
                () = token.cancelled() => {}
                ended = connection => if let Err(error) = ended {
                    debug!(%server, error = &error as &dyn std::error::Error, "connection ended");
                }
            }
        }));
    }
}

fn bearer(token: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Lets hyper start its tasks under our scope.
#[derive(Clone)]
struct OnScope(Scope);

impl<F> hyper::rt::Executor<F> for OnScope
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn_guarded("http2 stream", future));
    }
}
