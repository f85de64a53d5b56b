//! Authentication: whose request it is.

use futures_util::future::BoxFuture;
use http::request::Parts;
use rustls_pki_types::CertificateDer;

use crate::{status::ApiError, user::UserInfo};

/// The client certificate chain of a TLS connection, already verified against the client CA.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub std::sync::Arc<Vec<CertificateDer<'static>>>);

/// Finds the user of a request.
pub trait Authenticator: Send + Sync {
    /// `None`: no credentials were sent (the request is anonymous). An error: they were refused (401).
    fn authenticate<'a>(
        &'a self,
        parts: &'a Parts,
        peer: Option<&'a PeerCertificates>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, ApiError>>;
}
