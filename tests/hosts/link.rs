//! What hosts are plugged into: a bridge in a namespace of its own, so that nothing of it is seen from outside.

use std::{process::Command, sync::Arc};

use crate::hosts::{
    host::{SHORT, check},
    interrupt::say,
    program::within,
};

/// One link-local network, 10.88.0.0/24. It goes when its last host has gone.
pub(crate) struct Link {
    namespace: String,
}

impl Link {
    /// Where packets to the outside go; nobody answers behind it.
    const GATEWAY: &str = "10.88.0.254";

    pub(crate) fn new(name: &str) -> Arc<Self> {
        let link = Self { namespace: format!("coracle-{name}-{}-link", std::process::id()) };
        check(Command::new("ip").args(["netns", "add", &link.namespace]));
        for command in [
            "ip link set lo up".to_string(),
            "ip link add br0 type bridge".to_string(),
            format!("ip addr add {}/24 dev br0", Self::GATEWAY),
            "ip link set br0 up".to_string(),
        ] {
            check(&mut link.inside(&command));
        }
        Arc::new(link)
    }

    /// A command inside the bridge's namespace, where traffic between hosts can be cut.
    pub(crate) fn inside(&self, command: &str) -> Command {
        inside(&self.namespace, command)
    }

    /// Gives the namespace of a host its end of a wire, with an address and a way out.
    pub(super) fn plug(&self, host: &str, number: u8) {
        check(
            Command::new("ip")
                .args(["link", "add", "eth0", "netns", host, "type", "veth", "peer", "name"])
                .args([&format!("host{number}"), "netns", &self.namespace]),
        );
        check(&mut self.inside(&format!("ip link set host{number} master br0 up")));
        for command in [
            "ip link set lo up".to_string(),
            format!("ip addr add {}/24 dev eth0", address(number)),
            "ip link set eth0 up".to_string(),
            format!("ip route add default via {}", Self::GATEWAY),
        ] {
            check(&mut inside(host, &command));
        }
    }
}

fn inside(namespace: &str, command: &str) -> Command {
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net=/run/netns/{namespace}")).args(["sh", "-c", command]);
    nsenter
}

/// The address of the host of this number.
pub(super) fn address(number: u8) -> String {
    format!("10.88.0.{number}")
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", &self.namespace]);
        if let Err(complaint) = within(SHORT, delete) {
            say(&complaint);
        }
    }
}
