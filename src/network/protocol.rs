//! What `coracle-cni` and the agent say to each other: one request and one answer, each a JSON object that
//! ends with the sender's half of the connection.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::{Attachment, AttachmentId, CniError, Code, Command};

/// Raised when a request or an answer changes its meaning. The agent speaks all up to its own.
pub(crate) const PROTOCOL: u32 = 1;
/// More than any pod's request, by far.
pub(crate) const MAX_MESSAGE_BYTES: u64 = 1 << 20;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) protocol: u32,
    pub(crate) command: Command,
    /// The version of the spec that results are wanted in.
    pub(crate) cni_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attachment: Option<Attachment>,
    /// For GC: what is still in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) valid: Vec<AttachmentId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// `null` for commands without a result.
    Result(Value),
    Error(CniError),
}

impl From<Result<Value, CniError>> for Answer {
    fn from(result: Result<Value, CniError>) -> Self {
        result.map_or_else(Self::Error, Self::Result)
    }
}

/// Checks what becomes part of a file's name or of an interface's, by the spec's rules.
pub(crate) fn validate(id: &AttachmentId) -> Result<(), CniError> {
    let invalid = |what: &str, value: &str| {
        Err(CniError::new(Code::INVALID_ENVIRONMENT, format!("invalid {what} {value:?}")))
    };
    let container = id.container_id.as_str();
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !container.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !container.chars().all(word)
        || container.len() > 200
    {
        return invalid("CNI_CONTAINERID", container);
    }
    let ifname = id.ifname.as_str();
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if ifname.is_empty() || ifname.len() > 15 || ifname == "." || ifname == ".." || ifname.contains(forbidden)
    {
        return invalid("CNI_IFNAME", ifname);
    }
    Ok(())
}
