//! The documents by which others verify service-account tokens: OpenID Connect discovery.

use http::{Response, header};

use super::TokenIssuer;
use crate::body::{Body, full};

pub const CONFIGURATION: &str = "/.well-known/openid-configuration";
pub const KEY_SET: &str = "/openid/v1/jwks";

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
