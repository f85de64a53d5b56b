//! Authentication: whose request it is.
//!
//! ```text
//!   client certificate ────▶ x509.rs ────────────────────────────┐
//!   Authorization: Bearer ─▶ service_account.rs or bootstrap.rs ─┴─▶ UserInfo
//!   no credentials ────────▶ None: anonymous, where chain.rs lets it in
//! ```
//!
//! Credentials that are sent and wrong are refused (401) everywhere, also where none are needed.

mod bootstrap;
pub mod openid;
mod service_account;
mod x509;

use std::sync::{Arc, OnceLock};

use api::quote;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use http::{HeaderMap, header::AUTHORIZATION, request::Parts};
use jiff::Timestamp;
use pki::{
    TokenError, TokenKeys,
    claims::{Claims, TimeError},
};
use rustls_pki_types::CertificateDer;

use crate::{
    admission::Reader,
    status::{ApiError, GroupResource},
    user::UserInfo,
};

/// The extra field that says by which credential a user was known.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// The client certificate chain of a TLS connection, already verified against the client CA.
#[derive(Clone, Debug)]
pub struct PeerCertificates(pub Arc<Vec<CertificateDer<'static>>>);

/// Finds the user of a request.
pub trait Authenticator: Send + Sync {
    /// `None`: no credentials were sent (the request is anonymous). An error: they were refused (401).
    fn authenticate<'a>(
        &'a self,
        parts: &'a Parts,
        peer: Option<&'a PeerCertificates>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, ApiError>>;
}

/// `system:serviceaccount:ns:name`
pub fn service_account_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// Who issues service-account tokens, and for whom.
#[derive(Debug)]
pub struct TokenIssuer {
    pub keys: TokenKeys,
    /// `https://kubernetes.default.svc.cluster.local`
    pub issuer: String,
    /// The audiences of this API server; the issuer if nothing else is configured.
    pub audiences: Vec<String>,
}

impl TokenIssuer {
    pub fn new(keys: TokenKeys, issuer: impl Into<String>) -> TokenIssuer {
        let issuer = issuer.into();
        TokenIssuer { keys, audiences: vec![issuer.clone()], issuer }
    }
}

/// All ways by which we know a user.
pub struct Authentication {
    tokens: Arc<TokenIssuer>,
    reader: OnceLock<Arc<dyn Reader>>,
}

/// A token that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub user: UserInfo,
    /// Those of the wanted audiences that the token is for.
    pub audiences: Vec<String>,
}

/// Why credentials are refused. Told to a TokenReview; the sender of a request only learns that he is unauthorized.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error("malformed client certificate")]
    Certificate,
    #[error("client certificate has expired or is not yet valid")]
    CertificateTime,
    /// No way of knowing users recognizes it.
    #[error("invalid bearer token")]
    UnknownToken,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Time(#[from] TimeError),
    #[error("token audiences {token} is invalid for the target audiences {wanted}")]
    Audience { token: String, wanted: String },
    #[error("{resource} {} not found", quote(name))]
    Missing { resource: &'static str, name: String },
    #[error("service account UID ({uid}) does not match claim ({claimed})")]
    AccountUid { uid: String, claimed: String },
    #[error("service account {namespace}/{name} has been deleted")]
    AccountDeleted { namespace: String, name: String },
    #[error("{kind} UID ({uid}) does not match service account {kind} ref claim ({claimed})")]
    BoundUid { kind: &'static str, uid: String, claimed: String },
    #[error("service account token has been invalidated")]
    Invalidated,
    #[error("the server is starting")]
    Starting,
}

impl Authentication {
    pub fn new(tokens: Arc<TokenIssuer>) -> Arc<Authentication> {
        Arc::new(Authentication { tokens, reader: OnceLock::new() })
    }

    /// Gives it the watch cache, once. Until then no token is accepted.
    pub fn attach(&self, reader: Arc<dyn Reader>) {
        self.reader.get_or_init(|| reader);
    }

    pub fn tokens(&self) -> &Arc<TokenIssuer> {
        &self.tokens
    }

    /// The user of a bearer token that is for one of the audiences; empty: for this API server.
    pub fn token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Authenticated, Rejected> {
        let reader = self.reader.get().ok_or(Rejected::Starting)?.as_ref();
        let wanted = if audiences.is_empty() { &self.tokens.audiences } else { audiences };
        if pki::unverified_issuer(token).as_ref() == Some(&self.tokens.issuer) {
            return self.service_account(token, wanted, reader, now);
        }
        let user = bootstrap::Token::parse(token).and_then(|token| {
            let name = format!("{}{}", bootstrap::SECRET_PREFIX, token.id);
            let secret = reader.get(&GroupResource::new("", "secrets"), "kube-system", &name)?;
            token.user(&secret, now)
        });
        // Such tokens have no audience: they are this API server's.
        let ours =
            wanted.iter().filter(|audience| self.tokens.audiences.contains(audience)).cloned().collect();
        user.map(|user| Authenticated { user, audiences: ours }).ok_or(Rejected::UnknownToken)
    }

    fn service_account(
        &self,
        token: &str,
        wanted: &[String],
        reader: &dyn Reader,
        now: Timestamp,
    ) -> Result<Authenticated, Rejected> {
        let claims: Claims = self.tokens.keys.verify(token)?;
        if claims.iss != self.tokens.issuer {
            return Err(Rejected::UnknownToken);
        }
        let audiences: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if audiences.is_empty() {
            let shown = crate::authz::rbac::quoted;
            return Err(Rejected::Audience { token: shown(&claims.aud), wanted: shown(wanted) });
        }
        let user = service_account::user(&claims, reader, now)?;
        Ok(Authenticated { user, audiences })
    }

    fn find(
        &self,
        headers: &HeaderMap,
        peer: Option<&PeerCertificates>,
        now: Timestamp,
    ) -> Result<Option<UserInfo>, Rejected> {
        if let Some(certificate) = peer.and_then(|peer| peer.0.first())
            && let Some(user) = x509::user(certificate, now)?
        {
            return Ok(Some(user));
        }
        match bearer(headers).or_else(|| web_socket_bearer(headers)) {
            Some(token) => self.token(&token, &[], now).map(|known| Some(known.user)),
            None => Ok(None),
        }
    }
}

impl Authenticator for Authentication {
    fn authenticate<'a>(
        &'a self,
        parts: &'a Parts,
        peer: Option<&'a PeerCertificates>,
    ) -> BoxFuture<'a, Result<Option<UserInfo>, ApiError>> {
        let found = self.find(&parts.headers, peer, Timestamp::now()).map_err(|rejected| {
            tracing::debug!(path = parts.uri.path(), error = %rejected, "request refused: unauthorized");
            ApiError::unauthorized()
        });
        Box::pin(std::future::ready(found))
    }
}

/// `Authorization: Bearer TOKEN`
fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned())
}

/// Browsers cannot set headers on a WebSocket: they send the token as a subprotocol, behind this.
pub(crate) const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn web_socket_bearer(headers: &HeaderMap) -> Option<String> {
    if !headers.get(http::header::UPGRADE)?.to_str().ok()?.eq_ignore_ascii_case("websocket") {
        return None;
    }
    let protocols = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    let encoded = protocols
        .flat_map(|value| value.split(','))
        .find_map(|one| one.trim().strip_prefix(TOKEN_PROTOCOL))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

impl std::fmt::Debug for Authentication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authentication").field("issuer", &self.tokens.issuer).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
