//! `coracle reset`: takes away what a stopped `coracle up` left on the machine, and tells what it was.
#![expect(clippy::print_stdout, reason = "what was removed is told to the person who asked for it")]

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::bail;
use config::Config;
use lifecycle::Chain;

use crate::{
    command::Reset,
    identity::{self, NodePlace},
    node,
};

/// What a machine knows of its cluster, and a control plane of itself. The kubeconfig of a node first: without it, the
/// machine has left its cluster.
const CLUSTER: [&str; 6] =
    ["node.kubeconfig", "joined.yaml", "node-address", "store", "pki", "admin.kubeconfig"];

/// # Errors
/// When something could not be removed: each thing was named before.
pub(crate) async fn reset(config: &Config, asked: &Reset) -> anyhow::Result<()> {
    let again = asked.common.repeated();
    identity::check_not_running(config).map_err(|error| error.context("stop coracle first"))?;
    if !asked.yes {
        println!("This would remove from this machine:");
        println!("  every pod of the container runtime at {}", config.runtime.endpoint);
        println!("  the pod network, the rules of Services, and the sysctls that were changed for them");
        println!("  what logind was told of how long pods may hold up a shutdown");
        println!("  {}, {}", config.kubelet.root_dir.display(), config.kubelet.pod_logs_dir.display());
        if !asked.keep_state {
            println!(
                "  the cluster itself: the store, certificates and kubeconfig in {}",
                config.state_dir.display()
            );
        }
        println!("Say `coracle reset --yes{again}` to do it.");
        return Ok(());
    }
    // Nothing that is removed depends on the node's address, which a machine without network does not have.
    let ip = config.node.ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let place = NodePlace { name: identity::node_name(config)?, ip };
    let mut failed = Vec::new();
    // Pods first: taking their network down needs the network's own files.
    let pods = kubelet::reset::reset(&node::kubelet_config(config, &place)).await;
    println!("removed {} pods", pods.pods);
    failed.extend(pods.failed.iter().map(|error| Chain(error).to_string()));
    if pods.pods_stay() {
        for failure in &failed {
            println!("FAILED  {failure}");
        }
        bail!(
            "pods may still run, so their volumes, their network and the cluster's files are kept; see that the container \
             runtime at {} runs, mend what is named above and run `coracle reset --yes{again}` again",
            config.runtime.endpoint
        );
    }
    let network = network::reset(&node::network_config(config, &place)).await;
    for what in &network.removed {
        println!("removed {what}");
    }
    failed.extend(network.failed);
    let rules = proxy::cleanup(config.network.node_ports).await;
    if rules.is_empty() {
        println!("removed the rules of Services");
    }
    failed.extend(rules.iter().map(|error| Chain(error).to_string()));
    let cluster: &[&str] = if asked.keep_state { &[] } else { &CLUSTER };
    for name in cluster.iter().chain(&["network", "cni"]) {
        match remove(&config.state_dir.join(name)) {
            Ok(()) => {}
            Err(error) => failed.push(format!("remove {}: {error}", config.state_dir.join(name).display())),
        }
    }
    for failure in &failed {
        println!("FAILED  {failure}");
    }
    if !failed.is_empty() {
        bail!(
            "{} things could not be removed; mend what they name and run `coracle reset --yes{again}` again",
            failed.len()
        );
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
