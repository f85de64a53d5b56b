//! Asks the agent; without one, does what can be done without it.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use lifecycle::Workers;
use serde_json::Value;

use super::request::Asked;
use crate::{
    builtin::Settings,
    cni::{CniError, Code, Command},
    protocol::{Answer, MAX_MESSAGE_BYTES, Request},
    provider::{Provider, Saved},
    turns::Turn,
};

/// A little longer than the agent takes to give up by itself.
const ANSWER_DEADLINE: Duration = Duration::from_secs(115);
const SEND_DEADLINE: Duration = Duration::from_secs(5);

pub(super) fn answer(asked: &Asked) -> Result<Value, CniError> {
    match ask(&asked.socket, &asked.request) {
        Ok(Answer::Result(value)) => Ok(value),
        Ok(Answer::Error(error)) => Err(error),
        Err(error) => without_agent(asked, &error),
    }
}

fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(SEND_DEADLINE))?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.write_all(&serde_json::to_vec(request)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut bytes = Vec::new();
    stream.take(MAX_MESSAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn without_agent(asked: &Asked, cause: &io::Error) -> Result<Value, CniError> {
    match asked.request.command {
        Command::Del => del(asked),
        Command::Status => Err(CniError::caused(Code::NOT_AVAILABLE, "the agent is not running", cause)),
        // What is garbage stays garbage until the agent is back.
        Command::Add | Command::Check | Command::Gc | Command::Version => {
            Err(CniError::caused(Code::TRY_AGAIN_LATER, "the agent is not running, try again later", cause))
        }
    }
}

/// The agent's own code, in this process.
fn del(asked: &Asked) -> Result<Value, CniError> {
    let failed = |what: &str, error: &dyn std::error::Error| CniError::caused(Code::IO_FAILURE, what, error);
    let saved = Saved::load(&asked.state_dir)
        .map_err(|error| failed("the network's settings", &error))?
        // Nothing was ever attached, or only by an agent that kept no settings: the records will tell.
        .unwrap_or_else(|| Saved::BuiltIn(Settings::default()));
    let provider = Provider::open(&saved, &asked.state_dir).map_err(|error| failed("the network", &error))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed("start a runtime", &error))?;
    runtime.block_on(provider.answer(asked.request.clone(), &Workers::new(1), Turn::free()))
}
