//! Bytes from outside become an object: the media type decides how, the schema what is in it.
#![deny(clippy::disallowed_methods)]

use api::schema::{self, DecodeError, Decoded, Encoding, FieldValidation, TypeRef};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use super::patch::Patch;
use crate::status::{ApiError, FieldError, GroupKind, quote};

const ACCEPTED: [&str; 2] = ["application/json", "application/yaml"];

/// What a body must be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) group: &'a str,
    pub(crate) version: &'a str,
    pub(crate) kind: &'a str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TypeMeta {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

impl Expected<'_> {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `None` where nothing is known of its fields.
    pub(crate) fn r#type(&self) -> Option<TypeRef> {
        schema::lookup(self.group, self.version, self.kind)
    }

    /// Decodes a body that is such an object, with its warnings. An object that does not say what it is, is what
    /// is expected.
    pub(crate) fn decode(
        &self,
        headers: &HeaderMap,
        body: &[u8],
        validation: FieldValidation,
    ) -> Result<Decoded, ApiError> {
        let encoding = encoding(headers)?;
        let body = &*super::protobuf::as_json(headers, body)?;
        self.check_type(body, encoding)?;
        let decoded = match self.r#type() {
            Some(known) => schema::decode(body, encoding, &known, validation),
            None => schema::decode::decode_untyped(body, encoding, validation),
        };
        let mut decoded = decoded.map_err(|error| self.refuse(&error, body))?;
        self.name_type(&mut decoded.value);
        Ok(decoded)
    }

    /// Judges the outcome of a patch as if it had been sent; a mistake in it is the patch's, which is shown.
    pub(crate) fn conform_patched(
        &self,
        object: Value,
        patch: &Patch,
        validation: FieldValidation,
    ) -> Result<Decoded, ApiError> {
        let Some(known) = self.r#type() else { return Ok(Decoded { value: object, warnings: Vec::new() }) };
        let mut decoded = schema::conform(object, &known, validation).map_err(|error| {
            let mistake = FieldError::invalid("patch", patch.shown(), error.to_string());
            ApiError::invalid(&GroupKind::default(), "", &[mistake])
        })?;
        self.name_type(&mut decoded.value);
        Ok(decoded)
    }

    fn name_type(&self, object: &mut Value) {
        if let Some(members) = object.as_object_mut() {
            members.insert("apiVersion".into(), self.api_version().into());
            members.insert("kind".into(), self.kind.into());
        }
    }

    fn refuse(&self, error: &DecodeError, body: &[u8]) -> ApiError {
        if let DecodeError::Type(said) = error
            && said.starts_with("couldn't get version/kind")
        {
            return self.refuse(&DecodeError::Syntax(said.clone()), body);
        }
        ApiError::bad_request(error.message(self.kind, self.version, body))
    }

    /// The kind is told before the fields: those of another kind would all be unknown.
    fn check_type(&self, body: &[u8], encoding: Encoding) -> Result<(), ApiError> {
        let sent: Option<TypeMeta> = match encoding {
            Encoding::Json => serde_json::from_slice(body).ok(),
            Encoding::Yaml => serde_saphyr::from_slice(body).ok(),
        };
        let Some(sent) = sent else { return Ok(()) }; // decoding will tell what is wrong
        let kind = self.kind;
        let sent_version = sent.api_version.filter(|text| !text.is_empty());
        let sent_kind = sent.kind.filter(|other| !other.is_empty()).unwrap_or_else(|| kind.to_string());
        let sent_version = sent_version.unwrap_or_else(|| self.api_version());
        let (sent_group, version) = sent_version.rsplit_once('/').unwrap_or(("", &sent_version));
        let expected = self.api_version();
        if sent_kind == kind && sent_version == expected {
            return Ok(());
        }
        let why = if schema::lookup(sent_group, version, &sent_kind).is_some() {
            let package =
                if self.group.is_empty() { "core" } else { self.group.split('.').next().unwrap_or("") };
            format!("converting ({version}.{sent_kind}) to ({package}.{kind}): unknown conversion")
        } else {
            let quoted = quote(&sent_version);
            format!(
                "no kind {} is registered for version {quoted} in scheme \"pkg/runtime/scheme.go:111\"",
                quote(&sent_kind)
            )
        };
        if sent_kind == kind && sent_group == self.group && !sent_group.is_empty() {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({sent_version}) does not match the expected API version ({expected})"
            )));
        }
        let version = quote(version);
        Err(ApiError::bad_request(format!(
            "{sent_kind} in version {version} cannot be handled as a {kind}: {why}"
        )))
    }
}

/// DeleteOptions, which are in every group.
pub(crate) fn delete_options(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    let encoding = encoding(headers)?;
    let body = &*super::protobuf::as_json(headers, body)?;
    let decoded = match schema::lookup("", "v1", "DeleteOptions") {
        Some(known) => schema::decode(body, encoding, &known, FieldValidation::Warn),
        None => schema::decode::decode_untyped(body, encoding, FieldValidation::Warn),
    };
    let decoded =
        decoded.map_err(|error| ApiError::bad_request(error.message("DeleteOptions", "v1", body)))?;
    match decoded.value["kind"].as_str() {
        None | Some("" | "DeleteOptions") => Ok(decoded.value),
        Some(_) => Err(ApiError::bad_request("decoded object cannot be converted to DeleteOptions")),
    }
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, ApiError> {
    match content_type(headers) {
        // Protobuf has become JSON by then.
        "" | "application/json" | super::protobuf::PROTOBUF => Ok(Encoding::Json),
        "application/yaml" => Ok(Encoding::Yaml),
        _ => Err(ApiError::unsupported_media_type(&ACCEPTED)),
    }
}

/// The media type of the body, without parameters.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: Expected<'_> = Expected { group: "", version: "v1", kind: "Pod" };

    fn decode(content_type: &str, body: &[u8], validation: FieldValidation) -> Result<Decoded, ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        POD.decode(&headers, body, validation)
    }

    #[track_caller]
    fn refuses(body: &str, message: &str) {
        let error = decode("application/json", body.as_bytes(), FieldValidation::Strict).unwrap_err();
        assert_eq!((error.code.as_u16(), error.message.as_str()), (400, message));
    }

    #[test]
    fn another_kind_or_version_is_refused_before_its_fields_are_looked_at() {
        refuses(
            r#"{"kind":"Service","apiVersion":"v1","spec":{"ports":[]}}"#,
            "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion",
        );
        refuses(
            r#"{"kind":"Pod","apiVersion":"v2"}"#,
            "Pod in version \"v2\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"v2\" in scheme \"pkg/runtime/scheme.go:111\"",
        );
    }

    #[test]
    fn unknown_and_repeated_fields_fail_strictly_and_warn_otherwise() {
        let body = r#"{"spec":{"nodename":"a"},"metadata":{"name":"a","name":"b"}}"#;
        let warned = decode("application/json", body.as_bytes(), FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings.len(), 2, "{:?}", warned.warnings);
        assert_eq!((&warned.value["kind"], &warned.value["apiVersion"]), (&"Pod".into(), &"v1".into()));
        let error = decode("application/json", body.as_bytes(), FieldValidation::Strict).unwrap_err();
        assert!(error.message.contains("strict decoding error: "), "{}", error.message);
        assert!(error.message.contains("unknown field \"spec.nodename\""), "{}", error.message);
    }

    #[test]
    fn other_formats_are_refused() {
        let error = decode("application/cbor", b"", FieldValidation::Warn).unwrap_err();
        assert_eq!(error.code, 415);
        assert_eq!(
            error.message,
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml"
        );
    }

    #[test]
    fn delete_options_of_a_wrong_type_are_refused_not_passed_over() {
        let read = |body: &str| delete_options(&HeaderMap::new(), body.as_bytes());
        for body in [
            r#"{"dryRun":"All"}"#,
            r#"{"preconditions":"x"}"#,
            r#"{"preconditions":{"resourceVersion":5}}"#,
            r#"{"propagationPolicy":7}"#,
            r#"{"gracePeriodSeconds":"x"}"#,
            r#"{"orphanDependents":"yes"}"#,
        ] {
            let error = read(body).unwrap_err();
            assert_eq!(error.code, http::StatusCode::BAD_REQUEST, "{body}");
        }
        let whole = r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"],"gracePeriodSeconds":0,
            "propagationPolicy":"Orphan","preconditions":{"uid":"u"}}"#;
        assert_eq!(read(whole).unwrap()["preconditions"]["uid"], "u");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            drop(decode("application/json", &body, FieldValidation::Strict));
            drop(decode("application/yaml", &body, FieldValidation::Strict));
        }
    }
}
