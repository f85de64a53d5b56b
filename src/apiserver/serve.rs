//! The API's socket: who calls, by his certificate, and the path of his requests.

use std::{sync::Arc, time::Duration};

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use lifecycle::Scope;
use streaming::serve::{Limits, Peer, serve};
use tokio::net::TcpListener;

use crate::{
    authn::PeerCertificates,
    chain::{self, Caller},
    server::Server,
};

/// Some thousand nodes and their clients; each costs tens of kilobytes before it is known who it is.
const LIMITS: Limits = Limits { connections: 4096, drain: Duration::from_secs(10) };

impl Server {
    /// Accepts connections until `scope` is cancelled, then lets open requests finish. Client certificates are
    /// what `tls` verifies; a connection without one is up to the authenticator.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<rustls::ServerConfig>, scope: Scope) {
        let server = self.clone();
        let on_connection = move |peer: Peer| {
            let chain = Some(peer.certificates).filter(|chain| !chain.is_empty());
            let caller = Caller::Remote(chain.map(|chain| PeerCertificates(Arc::new(chain))));
            let server = server.inner().clone();
            let address = peer.address;
            move |mut request: Request<Incoming>| {
                let (server, caller) = (server.clone(), caller.clone());
                // For who wants to know where a request came from: it says nothing about who sent it.
                request.extensions_mut().insert(address);
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                async move { chain::answer(&server, caller, request).await }
            }
        };
        serve(listener, tls, LIMITS, &scope.child("connections"), on_connection).await;
    }
}
