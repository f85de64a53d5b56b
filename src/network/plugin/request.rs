//! Reads what the runtime says: environment and stdin.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    cni::{Attachment, AttachmentId, CniError, Code, Command},
    protocol::{PROTOCOL, Request, validate},
};

/// The variables of the spec; empty where unset.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) command: String,
    pub(super) container_id: String,
    pub(super) netns: String,
    pub(super) ifname: String,
    pub(super) args: String,
}

impl Environment {
    pub(super) fn read() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: variable("CNI_COMMAND"),
            container_id: variable("CNI_CONTAINERID"),
            netns: variable("CNI_NETNS"),
            ifname: variable("CNI_IFNAME"),
            args: variable("CNI_ARGS"),
        }
    }

    pub(super) fn command(&self) -> Result<Command, CniError> {
        Command::parse(&self.command).ok_or_else(|| {
            CniError::new(Code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {}", self.command))
        })
    }
}

/// The configuration that `offer.rs` wrote, as the runtime passes it on.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PluginConfig {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    socket: PathBuf,
    #[serde(default)]
    state_dir: PathBuf,
    #[serde(default)]
    runtime_config: Map<String, Value>,
    #[serde(default, rename = "cni.dev/valid-attachments", alias = "cni.dev/attachments")]
    valid_attachments: Vec<AttachmentId>,
}

/// A command, and who is to carry it out.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) socket: PathBuf,
    pub(super) state_dir: PathBuf,
}

pub(super) fn read(environment: &Environment, input: &[u8]) -> Result<Asked, CniError> {
    let command = environment.command()?;
    let config: PluginConfig = serde_json::from_slice(input).map_err(|error| {
        CniError::caused(Code::DECODING_FAILURE, "the configuration does not parse", &error)
    })?;
    let attachment = match command {
        Command::Add | Command::Del | Command::Check => {
            let required = |name: &str, value: &str| match value {
                "" => Err(CniError::new(
                    Code::INVALID_ENVIRONMENT,
                    format!("required env variables [{name}] missing"),
                )),
                value => Ok(value.to_string()),
            };
            let id = AttachmentId {
                container_id: required("CNI_CONTAINERID", &environment.container_id)?,
                ifname: required("CNI_IFNAME", &environment.ifname)?,
            };
            validate(&id)?;
            if command != Command::Del {
                required("CNI_NETNS", &environment.netns)?;
            }
            Some(Attachment {
                id,
                netns: environment.netns.clone(),
                args: environment.args.clone(),
                capabilities: config.runtime_config,
            })
        }
        Command::Gc | Command::Status | Command::Version => None,
    };
    let request = Request {
        protocol: PROTOCOL,
        command,
        cni_version: config.cni_version,
        attachment,
        valid: config.valid_attachments,
    };
    Ok(Asked { request, socket: config.socket, state_dir: config.state_dir })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment(command: &str) -> Environment {
        Environment {
            command: command.into(),
            container_id: "c1".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: String::new(),
        }
    }

    #[test]
    fn what_would_leave_the_folder_of_records_is_refused() {
        for container_id in ["../x", "", "a/b", ".x", "a b"] {
            let environment = Environment { container_id: container_id.into(), ..environment("DEL") };
            let error = read(&environment, b"{}").unwrap_err();
            assert_eq!(error.code, Code::INVALID_ENVIRONMENT, "{container_id}");
        }
    }

    #[test]
    fn del_does_without_a_namespace_and_add_does_not() {
        let without = |command| Environment { netns: String::new(), ..environment(command) };
        assert!(read(&without("DEL"), b"{}").is_ok());
        assert_eq!(read(&without("ADD"), b"{}").unwrap_err().code, Code::INVALID_ENVIRONMENT);
    }

    proptest! {
        #[test]
        fn no_input_makes_the_reader_panic(command in "(ADD|DEL|GC|STATUS|X)", id in ".{0,8}", input in ".{0,80}") {
            let environment = Environment { container_id: id, ..environment(&command) };
            drop(read(&environment, input.as_bytes()));
        }
    }
}
