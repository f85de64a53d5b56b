//! Upstream's `loopback` plugin: `lo` is up.

use std::path::Path;

use netlink::{RequestError, namespace::Namespace, route::Socket};
use serde_json::Value;

use super::request::Asked;
use crate::cni::{Attachment, CniError, Code, Command, Interface, Ip, NetworkResult, Version, to_json};

const LOOPBACK_INDEX: u32 = 1;

pub(super) fn answer(asked: &Asked) -> Result<Value, CniError> {
    let version: Version = asked
        .request
        .cni_version
        .parse()
        .map_err(|error| CniError::caused(Code::INCOMPATIBLE_VERSION, "the configuration", &error))?;
    match (asked.request.command, &asked.request.attachment) {
        (Command::Add, Some(attachment)) => {
            set_up(attachment).map_err(|error| CniError::caused(Code::IO_FAILURE, "set lo up", &error))?;
            Ok(to_json(&result(attachment), version))
        }
        // The interface goes with its namespace.
        _ => Ok(Value::Null),
    }
}

fn set_up(attachment: &Attachment) -> Result<(), RequestError> {
    let namespace = Namespace::open(Path::new(&attachment.netns))?;
    Socket::open_in(&namespace)?.set_up(LOOPBACK_INDEX)
}

fn result(attachment: &Attachment) -> NetworkResult {
    let interface = Interface {
        name: "lo".to_string(),
        mac: "00:00:00:00:00:00".to_string(),
        sandbox: attachment.netns.clone(),
        ..Interface::default()
    };
    let addresses = ["127.0.0.1/8", "::1/128"];
    let ip = |text: &str| text.parse().ok().map(|address| Ip { interface: Some(0), address, gateway: None });
    NetworkResult {
        interfaces: vec![interface],
        ips: addresses.into_iter().filter_map(ip).collect(),
        ..NetworkResult::default()
    }
}
