//! Connections through the API server to what runs on nodes: log, exec, attach, port-forward.
//!
//! The client's side is what kubectl speaks; the kubelet's side is HTTPS on its port, and SPDY/3.1 where it streams.
//! Clients that speak SPDY themselves are spliced through.
//!
//! Proxies (`pods/proxy`, `services/proxy`, `nodes/proxy`) are not here yet: their rows answer 501.

mod command;
mod dial;
mod forward;
mod location;
mod log;
#[cfg(test)]
mod tests;
mod upgrade;

use std::sync::Arc;

pub use dial::Connector;

use crate::registry::table::Actions;

/// Puts the actions of this module into the rows' actions.
pub fn fill(actions: &mut Actions, connector: &Connector) {
    actions.log = Some(Arc::new(log::Log(connector.clone())));
    let command = |kind| command::Command { connector: connector.clone(), kind };
    actions.exec = Some(Arc::new(command(command::Kind::Exec)));
    actions.attach = Some(Arc::new(command(command::Kind::Attach)));
    actions.port_forward = Some(Arc::new(forward::PortForward(connector.clone())));
}
