//! The spec's error object.

use lifecycle::Chain;
use serde::{Deserialize, Serialize};

/// Well-known error codes (spec, "Error"); plugins use 100 and above for their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    pub const IO_FAILURE: Self = Self(5);
    pub const DECODING_FAILURE: Self = Self(6);
    pub const INVALID_CONFIG: Self = Self(7);
    pub const TRY_AGAIN_LATER: Self = Self(11);
    pub const NOT_AVAILABLE: Self = Self(50);
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// CHECK found something amiss.
    pub const CHECK_FAILED: Self = Self(100);
    /// What upstream's library answers for a plugin that fails without saying why.
    pub const INTERNAL: Self = Self(999);
}

/// What a plugin answers when it fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}{}{details} (code {})", if .details.is_empty() { "" } else { ": " }, .code.0)]
pub struct CniError {
    pub code: Code,
    pub msg: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl CniError {
    #[must_use]
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// With the chain of causes as details.
    #[must_use]
    pub fn caused(code: Code, msg: impl Into<String>, cause: &dyn std::error::Error) -> Self {
        let details = Chain(cause).to_string();
        Self { code, msg: msg.into(), details }
    }
}
