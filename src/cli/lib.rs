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
    #[error("cannot read {file}")]
    Read {
        file: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{file}: document {document}: {reason}")]
    Manifest { file: String, document: usize, reason: String },
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
        move |source| Self::Api { operation: operation.into(), source: Box::new(source) }
    }
}
