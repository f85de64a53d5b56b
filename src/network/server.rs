//! The agent's end of `coracle-cni`: a unix socket for root, a bounded number of requests at a time.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lifecycle::{Scope, Workers};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tracing::{debug, warn};

use crate::{
    cni::{CniError, Code},
    files::{self, FileError},
    protocol::{Answer, MAX_MESSAGE_BYTES, Request},
    provider::Provider,
    turns::{Turn, Turns},
};

/// A runtime that starts many pods at once waits its turn in the socket's queue.
const MAX_REQUESTS: usize = 32;
/// A client sends its request at once.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than what a chain of plugins may take, shorter than the runtime's patience.
const ANSWER_DEADLINE: Duration = Duration::from_secs(110);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Folder(#[from] FileError),
    #[error("another agent answers on {}", .path.display())]
    Taken { path: PathBuf },
    #[error("listen on {}", .path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Listens, for root alone. A socket that nobody answers on is of an earlier run, and replaced.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    files::make_folder(path.parent().unwrap_or(Path::new("/")), 0o755)?;
    let failed = |source| ServerError::Listen { path: path.to_path_buf(), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServerError::Taken { path: path.to_path_buf() });
    }
    files::remove(path)?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Who connects before this is still told apart by its credentials.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until the scope ends.
pub(crate) async fn serve(
    listener: UnixListener,
    provider: watch::Receiver<Arc<Provider>>,
    workers: Workers,
    scope: Scope,
) {
    let free = Arc::new(Semaphore::new(MAX_REQUESTS));
    let turns = Turns::default();
    loop {
        let accepted = tokio::select! {
            () = scope.cancelled() => return,
            accepted = async {
                let permit = Arc::clone(&free).acquire_owned().await;
                listener.accept().await.map(|(stream, _)| (stream, permit))
            } => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, mostly: give others time to close some.
                warn!(error = &error as &dyn std::error::Error, "network: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let provider = Arc::clone(&provider.borrow());
        let (workers, turns) = (workers.clone(), turns.clone());
        // Its panic is this request's failure: the client sees the connection close, and a runtime asks again.
        drop(scope.spawn_guarded("cni request", async move {
            if let Err(error) = converse(stream, &provider, &workers, &turns).await {
                debug!(error = &error as &dyn std::error::Error, "network: client went away");
            }
            drop(permit);
        }));
    }
}

async fn converse(
    mut stream: UnixStream,
    provider: &Provider,
    workers: &Workers,
    turns: &Turns,
) -> io::Result<()> {
    if stream.peer_cred()?.uid() != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "a client that is not root"));
    }
    let mut bytes = Vec::new();
    timeout(READ_DEADLINE, (&mut stream).take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes)).await??;
    let started = tokio::time::Instant::now();
    let answer: Answer = match serde_json::from_slice::<Request>(&bytes) {
        Ok(request) => {
            let container = request.attachment.as_ref().map(|attachment| attachment.id.container_id.clone());
            let command = request.command;
            let answer = async {
                let turn = match &request.attachment {
                    Some(attachment) => turns.take(&attachment.id).await,
                    None => Turn::free(),
                };
                provider.answer(request, workers, turn).await
            };
            let result = timeout(ANSWER_DEADLINE, answer).await.unwrap_or_else(|_| {
                Err(CniError::new(Code::TRY_AGAIN_LATER, "the network did not answer in time"))
            });
            log(command.as_str(), container, &result, started.elapsed());
            result.into()
        }
        Err(error) => {
            Answer::Error(CniError::caused(Code::DECODING_FAILURE, "the request does not parse", &error))
        }
    };
    stream.write_all(&serde_json::to_vec(&answer)?).await?;
    stream.shutdown().await
}

fn log(command: &str, container: Option<String>, result: &Result<Value, CniError>, elapsed: Duration) {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match result {
        Ok(_) => debug!(command, container, elapsed_ms, "network: request done"),
        Err(error) => warn!(
            command,
            container,
            elapsed_ms,
            error = error as &dyn std::error::Error,
            "network: request failed"
        ),
    }
}
