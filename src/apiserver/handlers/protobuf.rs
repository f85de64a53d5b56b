//! Bodies in protobuf, which client-go's typed clients send for built-in kinds: read as the JSON that says the same.
//!
//! From there on there is one path. Answers are JSON: every client takes it (`Accept: …protobuf, application/json`).
#![deny(clippy::disallowed_methods)]

use std::borrow::Cow;

use api::{
    protobuf::{self, ProtobufError},
    schema,
};
use http::HeaderMap;
use serde_json::Value;

use super::decode::content_type;
use crate::status::{ApiError, quote};

/// Its media type.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The body as JSON, if it is protobuf; else as it is.
pub(crate) fn as_json<'a>(headers: &HeaderMap, body: &'a [u8]) -> Result<Cow<'a, [u8]>, ApiError> {
    if content_type(headers) != PROTOBUF || body.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    let refuse =
        |error: ProtobufError| ApiError::bad_request(format!("couldn't read the protobuf body: {error}"));
    let envelope = protobuf::open(body).map_err(refuse)?;
    let (group, version) = envelope.api_version.split_once('/').unwrap_or(("", &envelope.api_version));
    let known = schema::lookup(group, version, &envelope.kind).ok_or_else(|| {
        let (kind, version) = (quote(&envelope.kind), quote(&envelope.api_version));
        ApiError::bad_request(format!("no kind {kind} is registered for version {version}"))
    })?;
    let mut object = protobuf::decode(envelope.raw, &known).map_err(refuse)?;
    if let Value::Object(members) = &mut object {
        members.insert("apiVersion".into(), envelope.api_version.into());
        members.insert("kind".into(), envelope.kind.into());
    }
    Ok(Cow::Owned(object.to_string().into_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    fn headers(content_type: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        headers
    }

    #[test]
    fn json_stays_as_it_is() {
        assert_eq!(as_json(&headers("application/json"), b"{}").unwrap().as_ref(), b"{}");
    }

    #[test]
    fn what_is_no_protobuf_is_refused_in_words() {
        let error = as_json(&headers(PROTOBUF), b"{}").unwrap_err();
        assert!(error.message.contains("expected prefix"), "{}", error.message);
    }

    #[test]
    fn an_object_says_the_same_in_json() {
        let field = |number: u8, content: &[u8]| {
            [vec![number << 3 | 2, u8::try_from(content.len()).unwrap()], content.to_vec()].concat()
        };
        let meta = [field(1, b"v1"), field(2, b"Namespace")].concat();
        let raw = field(1, &field(1, b"shop"));
        let body = [b"k8s\0".to_vec(), field(1, &meta), field(2, &raw)].concat();
        let json = as_json(&headers(PROTOBUF), &body).unwrap();
        let object: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(
            object,
            serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        );
    }
}
