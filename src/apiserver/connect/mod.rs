//! Connections through the API server to what runs on nodes: log, exec, attach, port-forward, and proxies to nodes, pods
//! and Services.
//!
//! The client's side is what kubectl speaks; the kubelet's side is HTTPS on its port, and SPDY/3.1 where it streams.
//! Clients that speak SPDY themselves are spliced through.

mod command;
mod dial;
mod forward;
mod location;
mod log;
mod proxy;
#[cfg(test)]
mod tests;
mod upgrade;

use std::sync::Arc;

pub use dial::Connector;

use crate::registry::{Action, table::Actions};

/// Puts the actions of this module into the rows' actions.
pub fn fill(actions: &mut Actions, connector: &Connector) {
    actions.log = Some(Arc::new(log::Log(connector.clone())));
    let command = |kind| command::Command { connector: connector.clone(), kind };
    actions.exec = Some(Arc::new(command(command::Kind::Exec)));
    actions.attach = Some(Arc::new(command(command::Kind::Attach)));
    let pages = proxy::pages();
    let proxy = |kind| {
        let proxy = proxy::Proxy { connector: connector.clone(), kind, pages: pages.clone() };
        Some(Arc::new(proxy) as Arc<dyn Action>)
    };
    actions.node_proxy = proxy(proxy::Kind::Node);
    actions.pod_proxy = proxy(proxy::Kind::Pod);
    actions.service_proxy = proxy(proxy::Kind::Service);
    actions.port_forward = Some(Arc::new(forward::PortForward(connector.clone())));
}
