//! Patches: JSON patch, merge patch, strategic merge patch.
#![deny(clippy::disallowed_methods)]

use api::{
    patch::{PatchError, json_merge, strategic_merge},
    schema::{Encoding, FieldValidation, decode::decode_untyped},
};
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::decode::{Expected, content_type};
use crate::status::{ApiError, Reason};

/// Upstream's `maxJSONPatchOperations`.
const MAX_OPERATIONS: usize = 10_000;
const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const ACCEPTED: [&str; 3] = [JSON, MERGE, STRATEGIC];

/// A patch, read.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value, Vec<String>),
    Strategic(Value, Vec<String>),
}

impl Patch {
    pub(crate) fn read(
        headers: &HeaderMap,
        body: &[u8],
        validation: FieldValidation,
    ) -> Result<Self, ApiError> {
        match content_type(headers) {
            JSON => read_json(body),
            MERGE => object(body, validation).map(|(patch, warnings)| Self::Merge(patch, warnings)),
            STRATEGIC => object(body, validation).map(|(patch, warnings)| Self::Strategic(patch, warnings)),
            _ => Err(ApiError::unsupported_media_type(&ACCEPTED)),
        }
    }

    /// Fields that are there twice.
    pub(crate) fn warnings(&self) -> Vec<String> {
        match self {
            Self::Json(_) => Vec::new(),
            Self::Merge(_, warnings) | Self::Strategic(_, warnings) => warnings.clone(),
        }
    }

    /// The patch in a complaint about it, as upstream prints it: Go's `%+v`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Json(patch) => serde_json::to_string(patch).unwrap_or_default(),
            Self::Merge(patch, _) | Self::Strategic(patch, _) => api::patch::go_text(patch),
        }
    }

    pub(crate) fn apply(&self, expected: &Expected<'_>, mut object: Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut object, patch).map_err(|_| unprocessable())?;
                Ok(object)
            }
            Self::Merge(patch, _) => {
                json_merge(&mut object, patch.clone());
                Ok(object)
            }
            Self::Strategic(patch, _) => match expected.r#type() {
                Some(known) => {
                    strategic_merge(&known, object, patch.clone()).map_err(|error| refused(&error))
                }
                // As upstream for custom resources: without a type there are no merge keys.
                None => Err(ApiError::unsupported_media_type(&[JSON, MERGE])),
            },
        }
    }
}

fn read_json(body: &[u8]) -> Result<Patch, ApiError> {
    let patch: json_patch::Patch = serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    if patch.len() > MAX_OPERATIONS {
        return Err(ApiError::request_entity_too_large(format!(
            "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            patch.len()
        )));
    }
    Ok(Patch::Json(patch))
}

fn object(body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), ApiError> {
    let undecodable = |why: &str| ApiError::bad_request(format!("error decoding patch: {why}"));
    let decoded =
        decode_untyped(body, Encoding::Json, validation).map_err(|error| undecodable(&error.to_string()))?;
    if !decoded.value.is_object() {
        let found = match decoded.value {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Bool(_) => "bool",
            _ => "number",
        };
        let why = format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}");
        return Err(undecodable(&why));
    }
    Ok((decoded.value, decoded.warnings))
}

fn unprocessable() -> ApiError {
    let message = "the server rejected our request due to an error in our request";
    let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, Reason::Invalid, message);
    error.details = Some(Box::default());
    error
}

fn refused(error: &PatchError) -> ApiError {
    match error.code() {
        400 => ApiError::bad_request(error.to_string()),
        422 => unprocessable(),
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, error.to_string()),
    }
}
