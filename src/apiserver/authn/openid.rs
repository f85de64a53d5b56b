//! The documents by which others verify service-account tokens: OpenID Connect discovery.

use std::sync::Arc;

use http::{HeaderMap, Response, header};

use super::TokenIssuer;
use crate::{
    Pages,
    body::{Body, full},
    request::RequestInfo,
    status::ApiError,
};

pub const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub const KEY_SET: &str = "/openid/v1/jwks";

/// The documents, as pages of the server.
#[derive(Debug)]
pub struct Documents {
    pub tokens: Arc<TokenIssuer>,
    /// The API server's `host:port` as others reach it.
    pub address: String,
}

impl Pages for Documents {
    fn page(&self, info: &RequestInfo, _: &HeaderMap) -> Option<Result<Response<Body>, ApiError>> {
        let document = document(&self.tokens, &info.path, &self.address)?;
        Some(if info.verb == "get" { Ok(document) } else { Err(ApiError::method_not_allowed()) })
    }
}

/// The document of a path, if it is one of the two (a last slash is allowed). `address` is the API server's
/// `host:port` as others reach it.
pub fn document(tokens: &TokenIssuer, path: &str, address: &str) -> Option<Response<Body>> {
    let (kind, document) = match path.strip_suffix('/').unwrap_or(path) {
        CONFIGURATION => {
            let uri = format!("https://{address}{KEY_SET}");
            ("application/json", tokens.keys.discovery(&tokens.issuer, &uri))
        }
        KEY_SET => ("application/jwk-set+json", tokens.keys.key_set()),
        _ => return None,
    };
    let mut response = Response::new(full(document.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("public, max-age=3600"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{authn::tests::authentication, authz::tests::Fake};

    #[test]
    fn the_two_documents_are_found_by_their_paths() {
        let authentication = authentication(&Fake::default());
        let kind = |path| {
            let response = document(authentication.tokens(), path, "10.0.0.1:6443")?;
            Some(response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned())
        };
        assert_eq!(kind(CONFIGURATION).as_deref(), Some("application/json"));
        assert_eq!(kind("/openid/v1/jwks/").as_deref(), Some("application/jwk-set+json"));
        assert_eq!(kind("/openid/v1"), None);
    }
}
