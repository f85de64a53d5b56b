//! The configured network, built-in or a chain, behind the commands of the spec; and how it is kept on disk,
//! so that a plugin process can tear a pod down without the agent.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lifecycle::{WorkError, Workers};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use tracing::warn;

use crate::{
    builtin::{Builtin, Settings},
    cni::{
        Attachment, Cache, Chain, CniError, Code, Command, ListError, NetworkList, Processes, Version,
        to_json,
    },
    files::{self, FileError},
    protocol::{PROTOCOL, Request, validate},
    turns::Turn,
};

/// Kernel work of one command; more means that the kernel or the disk is stuck.
const BLOCKING_DEADLINE: Duration = Duration::from_secs(60);
/// As the runtime's own patience is two minutes for a whole chain.
const PLUGIN_DEADLINE: Duration = Duration::from_secs(60);

/// A network as a file says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Saved {
    BuiltIn(Settings),
    Chain { list: PathBuf, plugin_dirs: Vec<PathBuf> },
}

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not parse", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    List(#[from] ListError),
}

impl Saved {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("network/settings.json")
    }

    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, ProviderError> {
        let path = Self::path(state_dir);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| ProviderError::Parse { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProviderError::Read { path, source }),
        }
    }

    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), ProviderError> {
        let path = Self::path(state_dir);
        let bytes =
            serde_json::to_vec(self).map_err(|source| ProviderError::Parse { path: path.clone(), source })?;
        Ok(files::write(&path, &bytes, 0o600)?)
    }

    pub(crate) fn remove(state_dir: &Path) -> Result<bool, FileError> {
        files::remove(&Self::path(state_dir))
    }
}

/// The network that answers.
#[derive(Debug)]
pub(crate) enum Provider {
    BuiltIn(Builtin),
    Chain(Arc<Chain<Processes>>),
}

impl Provider {
    pub(crate) fn open(saved: &Saved, state_dir: &Path) -> Result<Self, ProviderError> {
        match saved {
            Saved::BuiltIn(settings) => Ok(Self::BuiltIn(Builtin::new(state_dir, settings.clone()))),
            Saved::Chain { list, plugin_dirs } => {
                let list = NetworkList::load(list)?;
                let exec = Processes { dirs: plugin_dirs.clone(), deadline: PLUGIN_DEADLINE };
                Ok(Self::Chain(Arc::new(Chain::new(list, Cache::new(state_dir.join("cni/results")), exec))))
            }
        }
    }

    /// What the runtime may send values for.
    pub(crate) fn capabilities(&self) -> Vec<String> {
        match self {
            Self::BuiltIn(_) => vec!["bandwidth".to_string(), "portMappings".to_string()],
            Self::Chain(chain) => chain.list().capabilities(),
        }
    }

    /// Carries out one command, and ends its `turn` with it.
    pub(crate) async fn answer(
        &self,
        request: Request,
        workers: &Workers,
        turn: Turn,
    ) -> Result<Value, CniError> {
        if request.protocol > PROTOCOL {
            let msg = format!("this agent speaks protocol {PROTOCOL}, not {}", request.protocol);
            return Err(CniError::new(Code::INCOMPATIBLE_VERSION, msg));
        }
        let version: Version = request
            .cni_version
            .parse()
            .map_err(|error| CniError::caused(Code::INCOMPATIBLE_VERSION, "the configuration", &error))?;
        if let Some(attachment) = &request.attachment {
            validate(&attachment.id)?;
        }
        match self {
            Self::BuiltIn(network) => {
                let network = network.clone();
                let (tell, mut told) = oneshot::channel();
                let work = move || {
                    on_builtin(&network, &request, version, tell);
                    drop(turn);
                };
                // The work may go on after its answer, also when nobody waits for it any more.
                let ended = tokio::select! {
                    biased;
                    Ok(result) = &mut told => return result,
                    ended = workers.run("cni", BLOCKING_DEADLINE, work) => ended,
                };
                // It may have told and ended since it was asked.
                told.try_recv().unwrap_or_else(|_| Err(unanswered(ended.err())))
            }
            Self::Chain(chain) => on_chain(chain, &request, version).await,
        }
    }
}

/// Tells the answer as soon as the runtime may have it, and finishes what it need not wait for.
fn on_builtin(
    network: &Builtin,
    request: &Request,
    version: Version,
    tell: oneshot::Sender<Result<Value, CniError>>,
) {
    let mut leaving = None;
    let mut carry_out = || {
        Ok(match request.command {
            Command::Add => to_json(&network.add(subject(request)?)?, version),
            Command::Del => {
                leaving = network.cut_off(&subject(request)?.id)?;
                Value::Null
            }
            Command::Check => network.check(&subject(request)?.id).map(|()| Value::Null)?,
            Command::Gc => network.gc(&request.valid).map(|_| Value::Null)?,
            Command::Status => network.status().map(|()| Value::Null)?,
            Command::Version => Value::Null,
        })
    };
    // Whoever asked may have gone away.
    drop(tell.send(carry_out()));
    if let Some(leaving) = leaving
        && let Err(error) = network.clear_away(&leaving)
    {
        warn!(
            error = &error as &dyn std::error::Error,
            "network: what is left of an attachment stays for now"
        );
    }
}

fn unanswered(error: Option<WorkError>) -> CniError {
    match error {
        Some(error) => CniError::caused(Code::TRY_AGAIN_LATER, "the network is busy", &error),
        None => CniError::new(Code::TRY_AGAIN_LATER, "the network did not answer"),
    }
}

async fn on_chain(chain: &Chain<Processes>, request: &Request, version: Version) -> Result<Value, CniError> {
    match request.command {
        Command::Add => chain.add(subject(request)?).await.map(|result| to_json(&result, version)),
        Command::Del => chain.del(subject(request)?).await.map(|()| Value::Null),
        Command::Check => chain.check(subject(request)?).await.map(|()| Value::Null),
        Command::Gc => chain.gc(&request.valid).await.map(|()| Value::Null),
        Command::Status => chain.status().await.map(|()| Value::Null),
        Command::Version => Ok(Value::Null),
    }
}

fn subject(request: &Request) -> Result<&Attachment, CniError> {
    request.attachment.as_ref().ok_or_else(|| {
        CniError::new(Code::INVALID_ENVIRONMENT, format!("{} without a container", request.command.as_str()))
    })
}
