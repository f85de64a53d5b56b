//! Continue tokens: where the next page of a list starts. The same text as upstream's, so that pages may be
//! asked of either.
#![deny(clippy::disallowed_methods)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::status::ApiError;

/// A place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// The list's revision; `None` for "whatever is now".
    pub(crate) revision: Option<u64>,
    /// The first key of the page, a whole key of the store.
    pub(crate) start: String,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    #[serde(rename = "v", default)]
    version: String,
    #[serde(rename = "rv", default)]
    revision: i64,
    #[serde(default)]
    start: String,
}

const VERSION: &str = "meta.k8s.io/v1";

impl Token {
    /// After `last`, a whole key below `prefix`.
    pub(crate) fn after(last: &str, revision: u64) -> Self {
        Self { revision: Some(revision), start: format!("{last}\0") }
    }

    pub(crate) fn encode(&self, prefix: &str) -> String {
        let wire = Wire {
            version: VERSION.into(),
            revision: self.revision.and_then(|revision| i64::try_from(revision).ok()).unwrap_or(-1),
            start: self.start.strip_prefix(prefix).unwrap_or(&self.start).into(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&wire).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str, prefix: &str) -> Result<Self, ApiError> {
        let invalid = |why: &str| ApiError::bad_request(format!("invalid continue token: {why}"));
        let foreign = || invalid("continue key is not valid: it is not what an earlier list returned");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| foreign())?;
        let wire: Wire = serde_json::from_slice(&bytes).map_err(|_| foreign())?;
        if wire.version != VERSION {
            let why = "continue key is not valid: server does not recognize this encoded version";
            return Err(invalid(&format!("{why} {}", wire.version)));
        }
        if wire.revision == 0 {
            return Err(invalid(
                "continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ));
        }
        if wire.start.is_empty() {
            return Err(invalid(
                "continue key is not valid: encoded start key empty (version meta.k8s.io/v1)",
            ));
        }
        // The start must stay below the prefix: no way up.
        let leaves =
            wire.start.split('/').any(|part| part == ".." || part == ".") || wire.start.contains("//");
        if leaves || wire.start.starts_with('/') {
            return Err(invalid(&format!("continue key is not valid: {}", wire.start)));
        }
        Ok(Self { revision: u64::try_from(wire.revision).ok(), start: format!("{prefix}{}", wire.start) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "/registry/core/pods/";

    #[test]
    fn a_token_leads_back_to_its_place() {
        let token = Token::after("/registry/core/pods/a/b", 42);
        assert_eq!(Token::decode(&token.encode(PREFIX), PREFIX), Ok(token));
    }

    #[test]
    fn a_start_outside_the_prefix_is_refused() {
        for start in ["../secrets/a", "/registry", "a//b", "a/./b"] {
            let token = Token { revision: Some(1), start: start.into() };
            assert!(Token::decode(&token.encode("x"), PREFIX).is_err(), "{start}");
        }
    }

    #[test]
    fn what_is_not_a_token_is_refused_in_upstreams_words() {
        let empty = URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#);
        let message = Token::decode(&empty, PREFIX).unwrap_err().message;
        assert_eq!(
            message,
            "invalid continue token: continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            prop_assert!(Token::decode(&text, PREFIX).is_err() || !text.is_empty());
        }

        #[test]
        fn no_json_leaves_the_prefix(start in "[a-z./]{0,12}", rv in any::<i64>()) {
            let text = URL_SAFE_NO_PAD.encode(format!(r#"{{"v":"meta.k8s.io/v1","rv":{rv},"start":"{start}"}}"#));
            if let Ok(token) = Token::decode(&text, PREFIX) {
                prop_assert!(token.start.starts_with(PREFIX));
            }
        }
    }
}
