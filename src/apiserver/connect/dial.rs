//! Reaches kubelets, and the pods and Services that are asked for by proxy.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use lifecycle::{Chain, Scope};
use rustls::pki_types::ServerName;
use serde_json::Value;
use streaming::socket;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::location::{self, Endpoint};
use crate::{
    registry::ActionContext,
    request::RequestInfo,
    status::{ApiError, GroupResource, Reason},
};

const CONNECT: Duration = Duration::from_secs(10);

/// Knows how to reach what runs on the cluster's nodes, and owns the connections that outlive their request.
#[derive(Clone, Debug)]
pub struct Connector {
    tls: Arc<rustls::ClientConfig>,
    /// For what is no kubelet, and is shown no certificate.
    any_certificate: Arc<rustls::ClientConfig>,
    scope: Scope,
}

/// How a connection is made to what is no kubelet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Whatever certificate the other side has.
    AnyTls,
    Plain,
}

/// A connection of any sort.
pub(super) trait Line: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Line for S {}

impl Connector {
    /// `tls` shows the API server's kubelet client certificate, and trusts who signs kubelets' certificates.
    pub fn new(mut tls: rustls::ClientConfig, scope: &Scope) -> Connector {
        // Upgrades are a matter of HTTP/1.1.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Connector {
            tls: Arc::new(tls),
            any_certificate: streaming::tls::any_certificate(),
            scope: scope.child("connections to nodes"),
        }
    }

    /// The endpoint of the node of this name.
    pub(super) async fn endpoint(&self, context: &ActionContext, node: &str) -> Result<Endpoint, ApiError> {
        let node: Value = context.objects.get(&GroupResource::new("", "nodes"), "", node).await?;
        location::endpoint(&node).ok_or_else(|| {
            plain(format!(
                "no preferred addresses found; known addresses: {}",
                node.pointer("/status/addresses").unwrap_or(&Value::Array(Vec::new()))
            ))
        })
    }

    /// A connection to a kubelet.
    pub(super) async fn dial(&self, to: &Endpoint) -> io::Result<TlsStream<TcpStream>> {
        in_time(async {
            let stream = socket::connect((to.host.as_str(), to.port)).await?;
            shake_hands(&self.tls, to, stream).await
        })
        .await
    }

    /// A connection to anything at an address that is `allowed`.
    ///
    /// # Errors
    /// `PermissionDenied` for an address that is not.
    pub(super) async fn line(
        &self,
        to: &Endpoint,
        over: Over,
        allowed: fn(IpAddr) -> bool,
    ) -> io::Result<Box<dyn Line>> {
        in_time(async {
            // The very address that was looked at: asked again, a name might have another.
            let mut addresses = tokio::net::lookup_host((to.host.as_str(), to.port)).await?;
            let address = addresses.find(|address| allowed(address.ip()));
            let stream = socket::connect(address.ok_or(io::ErrorKind::PermissionDenied)?).await?;
            Ok(match over {
                Over::AnyTls => {
                    Box::new(shake_hands(&self.any_certificate, to, stream).await?) as Box<dyn Line>
                }
                Over::Plain => Box::new(stream),
            })
        })
        .await
    }

    /// Runs a stream until it or the server ends. Its request is answered by then.
    pub(super) fn run(&self, name: &'static str, stream: impl Future<Output = ()> + Send + 'static) {
        let token = self.scope.token();
        drop(self.scope.spawn_guarded(name, async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = stream => {}
            }
        }));
    }
}

async fn in_time<T>(connect: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn shake_hands(
    tls: &Arc<rustls::ClientConfig>,
    to: &Endpoint,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(to.host.clone()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(tls)).connect(name, stream).await
}

/// The pod that a request names.
pub(super) async fn pod(context: &ActionContext, info: &RequestInfo) -> Result<Value, ApiError> {
    context.objects.get(&GroupResource::new("", "pods"), &info.namespace, &info.name).await
}

/// A request to a kubelet, with what every one has.
pub(super) fn request(to: &Endpoint, path: &str) -> http::request::Builder {
    Request::builder().uri(path).header(header::HOST, to.to_string())
}

/// A kubelet that cannot be reached, in the words of Go's HTTP client.
pub(super) fn unreachable(method: &str, to: &Endpoint, path: &str, error: &io::Error) -> ApiError {
    plain(format!("{method} \"https://{to}{path}\": dial tcp {to}: {}", Chain(error)))
}

fn plain(message: String) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, message)
}
