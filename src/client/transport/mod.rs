//! How requests reach an API server: over one TLS connection, or straight into a service in this process.

mod connection;
mod deadline;
mod endpoint;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use kube::client::Body;
use lifecycle::Scope;
use tower::{BoxError, Service};

pub use connection::Reconnect;
pub use endpoint::{Credentials, Endpoint, Pem, Secret};

use crate::Client;

/// How long a request that is no stream may take, from first byte out to last byte in.
const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("server URL {url:?} names no host")]
    NoHost { url: String },
    #[error("server URL {url:?} has scheme {scheme:?}: use https or http")]
    Scheme { url: String, scheme: String },
    #[error("{name:?} is no valid server name")]
    ServerName { name: String },
    #[error("read {path}")]
    Read {
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{origin} holds no PEM {what}")]
    Pem {
        what: &'static str,
        origin: String,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("{origin} holds no {what}")]
    NoPem { what: &'static str, origin: String },
    #[error("no certificate authority is given and the system has none: set certificate-authority")]
    NoRoots,
    #[error("certificate or key cannot be used")]
    Tls(#[source] rustls::Error),
    #[error("connect to {address}")]
    Tcp {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS handshake with {address}")]
    Handshake {
        address: String,
        #[source]
        source: std::io::Error,
    },
    #[error("HTTP handshake with {address}")]
    Http {
        address: String,
        #[source]
        source: hyper::Error,
    },
    #[error("no connection to {address} within {seconds} s")]
    Timeout { address: String, seconds: u64 },
}

/// A client of a remote server: one HTTP/2 connection, made at the first request, kept honest by PINGs,
/// made again after it broke. [`Reconnect`] drops the connection, for when its certificate was renewed.
///
/// # Errors
/// When the URL, a certificate or a key cannot be used. The server need not be there yet.
pub fn connect(endpoint: Endpoint, scope: &Scope) -> Result<(Client, Reconnect), ConnectError> {
    let namespace = endpoint.namespace.clone().unwrap_or_else(|| "default".to_string());
    let remote = connection::Remote::new(endpoint, scope)?;
    let reconnect = remote.reconnect();
    Ok((Client::new(deadline::Deadline::new(remote, DEADLINE), namespace), reconnect))
}

/// A client of a service in this process; no socket, no TLS. The service decides who the caller is.
pub fn from_service<S, B>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(deadline::Deadline::new(service, DEADLINE), "default")
}
