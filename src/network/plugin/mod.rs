//! `coracle-cni`: what the runtime starts for each CNI command. A thin client of the agent.
//!
//! - VERSION is answered by itself.
//! - Everything else goes to the agent's socket.
//! - Without the agent, DEL is carried out here (a pod can always be torn down); ADD answers "try again
//!   later" (11), STATUS "not available" (50).
//!
//! Called as `loopback`, it is upstream's plugin of that name: runtimes want one beside any network, and
//! not every host has it.

mod client;
mod loopback;
mod request;

use std::{
    io::{Read, Write},
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};

use crate::{
    cni::{CniError, Code, Command, Version},
    protocol::MAX_MESSAGE_BYTES,
};

pub(crate) const NAME: &str = "coracle-cni";
pub(crate) const LOOPBACK: &str = "loopback";

/// Whether a process called by this name (`argv[0]`) is to run [`main`].
#[must_use]
pub fn is_plugin(called: &str) -> bool {
    Path::new(called).file_name().is_some_and(|name| name == NAME || name == LOOPBACK)
}

/// Runs one CNI command from the environment and stdin, and prints the result or the error. Needs no runtime
/// and no TLS: call it first thing in `main`.
#[must_use]
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let as_loopback = Path::new(&called).file_name().is_some_and(|name| name == LOOPBACK);
    let environment = request::Environment::read();
    let mut input = Vec::new();
    let read = std::io::stdin().take(MAX_MESSAGE_BYTES).read_to_end(&mut input);
    let answer = read
        .map_err(|error| CniError::caused(Code::IO_FAILURE, "read stdin", &error))
        .and_then(|_| run(&environment, &input, as_loopback));
    let (text, code) = match answer {
        Ok(Value::Null) => (String::new(), ExitCode::SUCCESS),
        Ok(value) => (value.to_string(), ExitCode::SUCCESS),
        Err(error) => (error_text(&error, &input), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(environment: &request::Environment, input: &[u8], as_loopback: bool) -> Result<Value, CniError> {
    if environment.command()? == Command::Version {
        return Ok(versions(input));
    }
    let asked = request::read(environment, input)?;
    if as_loopback { loopback::answer(&asked) } else { client::answer(&asked) }
}

fn versions(input: &[u8]) -> Value {
    let asked: Option<Value> = serde_json::from_slice(input).ok();
    let version = asked.as_ref().and_then(|value| value.get("cniVersion")).and_then(Value::as_str);
    json!({
        "cniVersion": version.unwrap_or(Version::NEWEST.as_str()),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}

fn error_text(error: &CniError, input: &[u8]) -> String {
    let mut value = json!(error);
    value["cniVersion"] = versions(input)["cniVersion"].clone();
    value.to_string()
}
