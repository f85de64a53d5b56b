//! What a person types: `coracle status`, `why`, `doctor`, `apply`.
//!
//! Each command is a folder with the stages of every component: `observe.rs` asks the API or the machine,
//! `plan.rs` decides what is worth saying (pure), `render.rs` says it (pure). Commands know only the API
//! and the machine, like kubectl; they work against any cluster.

pub mod apply;
pub mod doctor;
pub mod status;
pub mod why;

mod events;
mod words;

/// Why a command could not answer.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("cannot ask the API server to {operation}")]
    Api {
        operation: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// Without kube's own wrapper, which tells its cause twice.
    #[error(
        "cannot ask the API server to {operation}: nobody answers; see that it runs (`systemctl status coracle`, or its log), and \
         that the kubeconfig names it"
    )]
    Silent {
        operation: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot read {file}")]
    Read {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{file}: document {document}: {reason}")]
    Manifest { file: String, document: usize, reason: String },
    #[error("this cluster has no kind {kind} in {api_version}")]
    NoKind { kind: String, api_version: String },
    #[error("{what} is not there; {mend}")]
    NotFound { what: String, mend: String },
    #[error("{what} did not happen within {} s: {state}", .after.as_secs())]
    Timeout { what: String, after: std::time::Duration, state: String },
    #[error("\"{text}\" does not name an object; write pod/NAME")]
    BadReference { text: String },
}

impl CommandError {
    /// For `map_err`: names what was asked.
    fn api(operation: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        move |source| match source {
            kube::Error::Service(source) => Self::Silent { operation: operation.into(), source },
            source => Self::Api { operation: operation.into(), source: Box::new(source) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_told_once_and_with_a_mend() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = CommandError::api("list nodes")(kube::Error::Service(refused.into()));
        let cause = std::error::Error::source(&error).unwrap();
        let told = format!("{error}: {cause}");
        assert!(cause.source().is_none());
        assert!(told.contains("list nodes: nobody answers; see that it runs"), "{told}");
        assert_eq!(told.matches("refused").count(), 1, "{told}");
        assert!(!told.contains("ServiceError"), "{told}");
    }
}
