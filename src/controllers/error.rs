//! What can go wrong while working on one object.

use api::selector::SelectorObjectError;
use client::{ErrorKind, kind_of};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    #[error("{verb} {what}")]
    Api {
        verb: &'static str,
        what: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("selector of {what}")]
    Selector {
        what: String,
        #[source]
        source: SelectorObjectError,
    },
    #[error("{what} is not the one that was observed")]
    Replaced { what: String },
    #[error("pod template hash of {what} collides")]
    HashCollision { what: String },
    #[error("sign {what}")]
    Sign {
        what: String,
        #[source]
        source: pki::IssueError,
    },
    #[error("certificate usages of {what}")]
    Usages {
        what: String,
        #[source]
        source: pki::UnknownUsage,
    },
    #[error("{what} cannot be deleted yet: {count} resources failed")]
    Incomplete { what: String, count: usize },
    #[error("no range is left for {what}")]
    NoRange { what: String },
}

impl PassError {
    /// What the API meant, if it was the API.
    pub(crate) fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Api { source, .. } => Some(kind_of(source)),
            _ => None,
        }
    }
}

/// Names the operation that an API error belongs to.
pub(crate) trait During<T> {
    fn during(self, verb: &'static str, what: impl ToString) -> Result<T, PassError>;
}

impl<T> During<T> for Result<T, kube::Error> {
    fn during(self, verb: &'static str, what: impl ToString) -> Result<T, PassError> {
        self.map_err(|source| PassError::Api { verb, what: what.to_string(), source: Box::new(source) })
    }
}

/// The sentence that the API answered with: what conditions and events show.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
