//! `coracle join` and `coracle token`: what is typed at both ends of a join.
#![expect(clippy::print_stdout, reason = "printing is what these commands are for")]

use std::{path::Path, process::Command};

use anyhow::{Context, bail};
use config::Config;
use ipnet::IpNet;
use jiff::Timestamp;
use join::{ClusterFacts, Discovered, Member, Paths, ServerAddress, tokens};
use lifecycle::Scope;
use serde_json::json;

use crate::{
    addresses,
    command::{Join, Token},
    identity, person,
};

const UNIT: &str = "coracle-node.service";
const UNIT_DIRS: [&str; 3] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"];

/// What is left to do after a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The service manager runs the node, or nobody was to start it.
    Nothing,
    /// Go on as `coracle node`.
    Run,
}

/// # Errors
/// Why this machine is not a member now; nothing was written then.
pub(crate) async fn join(asked: &Join, config: &Config) -> anyhow::Result<Next> {
    let paths = Paths::of(&config.state_dir);
    let name = match &asked.node_name {
        Some(name) => name.clone(),
        None => identity::node_name(config)?,
    };
    if is_member(asked, &paths, &name)? {
        return start(asked);
    }
    if config.state_dir.join("store").exists() {
        bail!(
            "this machine runs a control plane of its own ({} is there); `coracle reset --yes` removes it, or give the node \
             another stateDir",
            config.state_dir.join("store").display()
        );
    }
    let scope = Scope::root("join");
    let cluster = join::discover(&asked.server, &asked.token, &asked.ca_cert_hash, &scope).await?;
    println!("{} is the cluster that was meant: its authority and the token agree", cluster.server);
    check_ranges(config, &cluster)?;
    let life = config.node.certificate_life.map(|life| i32::try_from(life.as_secs()).unwrap_or(i32::MAX));
    let issued = join::enroll(&cluster, &name, life, |request| {
        println!("waiting for somebody to approve: kubectl certificate approve {request}");
    })
    .await?;
    let joined = joined_yaml(&name, asked, &cluster.facts);
    paths.write(&cluster.server, &cluster.authority_pem, &issued, &joined)?;
    let ip = asked.node_ip.or(config.node.ip).unwrap_or(cluster.own_ip);
    println!(
        "joined as node {name} with address {ip}; certificate until {}",
        issued.certificate.not_after.strftime("%Y-%m-%d %H:%M")
    );
    scope.close(std::time::Duration::from_secs(1)).await;
    start(asked)
}

/// Whether there is nothing to do: this machine is that node of that cluster, and may be for longer.
fn is_member(asked: &Join, paths: &Paths, name: &str) -> anyhow::Result<bool> {
    let Some(Member { node_name, not_after }) = paths.member()? else { return Ok(false) };
    if not_after <= Timestamp::now() {
        println!("the certificate of node {node_name} expired at {not_after}: joining again");
        return Ok(false);
    }
    let server = client::Kubeconfig::load(&paths.kubeconfig)?.endpoint(None)?.server;
    let server: ServerAddress = server.to_string().parse()?;
    if node_name != name || server != asked.server {
        bail!(
            "this machine is node {node_name:?} of {server} already; `coracle reset --yes` leaves that cluster, then join {} \
             as {name:?}",
            asked.server
        );
    }
    println!("this machine is node {node_name} of {server} already; nothing was changed");
    Ok(true)
}

fn check_ranges(config: &Config, cluster: &Discovered) -> anyhow::Result<()> {
    let mut told = config.clone();
    if let Some(net) = first_v4(&cluster.facts.pod_cidrs) {
        told.network.pod_cidr = net;
    }
    if let Some(net) = first_v4(&cluster.facts.service_cidrs) {
        told.network.service_cidr = net;
    }
    told.node.ip.get_or_insert(cluster.own_ip);
    let taken = addresses::taken(&told)?;
    if taken.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = taken.iter().map(|overlap| format!("  {overlap}")).collect();
    bail!(
        "the cluster's addresses are used on this machine already, so pods or this machine would not be reached:\n{}\n\
         take that network off this machine, or make the cluster with other ranges (network.podCIDR and \
         network.serviceCIDR of the control plane)",
        lines.join("\n")
    );
}

fn first_v4(nets: &[IpNet]) -> Option<IpNet> {
    nets.iter().copied().find(|net| net.addr().is_ipv4())
}

/// What the cluster says, as a configuration below this machine's own.
fn joined_yaml(name: &str, asked: &Join, facts: &ClusterFacts) -> String {
    let mut text = format!(
        "# Written by `coracle join`: what the cluster says. The machine's own configuration is put over it.\n\
         apiVersion: coracle.dev/v1alpha1\nkind: CoracleConfiguration\nnode:\n  name: {}\n",
        json!(name)
    );
    if let Some(ip) = asked.node_ip {
        text.push_str(&format!("  ip: {}\n", json!(ip)));
    }
    let (pods, services) = (first_v4(&facts.pod_cidrs), first_v4(&facts.service_cidrs));
    if pods.is_some() || services.is_some() {
        text.push_str("network:\n");
    }
    for (field, net) in [("podCIDR", pods), ("serviceCIDR", services)] {
        text.extend(net.map(|net| format!("  {field}: {net}\n")));
    }
    if facts.cluster_domain.is_some() || !facts.cluster_dns.is_empty() {
        text.push_str("kubelet:\n");
    }
    text.extend(facts.cluster_domain.iter().map(|domain| format!("  clusterDomain: {}\n", json!(domain))));
    if !facts.cluster_dns.is_empty() {
        text.push_str(&format!("  clusterDNS: {}\n", json!(facts.cluster_dns)));
    }
    text
}

/// Starts the unit where there is one.
fn start(asked: &Join) -> anyhow::Result<Next> {
    if asked.no_start {
        println!("`coracle node` starts it");
        return Ok(Next::Nothing);
    }
    let installed = UNIT_DIRS.iter().any(|dir| Path::new(dir).join(UNIT).exists());
    if !installed || !Path::new("/run/systemd/system").exists() {
        return Ok(Next::Run);
    }
    let run = Command::new("systemctl").args(["enable", "--now", UNIT]).output();
    let run = run.with_context(|| format!("run systemctl enable --now {UNIT}"))?;
    if !run.status.success() {
        bail!(
            "joined, but {UNIT} did not start: {}; see `journalctl -u {UNIT}`",
            String::from_utf8_lossy(&run.stderr).trim()
        );
    }
    println!("{UNIT} runs, and starts with the machine; `journalctl -u {UNIT} -f` shows its log");
    Ok(Next::Nothing)
}

/// # Errors
/// What the API answered.
pub(crate) async fn token(asked: &Token) -> anyhow::Result<()> {
    match asked {
        Token::Create { connection, ttl, description } => {
            let client = person::connect(connection)?;
            // As kubeadm: 0 is for ever.
            let life = (!ttl.is_zero()).then_some(*ttl);
            let token = tokens::create(&client, life, description.as_deref(), Timestamp::now()).await?;
            println!("{}", tokens::join_line(&client, &token).await?);
        }
        Token::List { connection } => {
            print!("{}", tokens::list(&person::connect(connection)?, Timestamp::now()).await?);
        }
        Token::Delete { connection, tokens: texts } => {
            let client = person::connect(connection)?;
            for text in texts {
                println!("token {} deleted", tokens::delete(&client, text).await?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(ip: Option<&str>) -> Join {
        Join {
            server: "192.0.2.1:6443".parse().unwrap(),
            token: "abcdef.0123456789abcdef".parse().unwrap(),
            ca_cert_hash: Vec::new(),
            node_name: None,
            node_ip: ip.map(|ip| ip.parse().unwrap()),
            no_start: false,
            common: crate::command::Common { config: None },
        }
    }

    #[test]
    fn what_the_cluster_says_is_a_configuration() {
        let facts = ClusterFacts {
            pod_cidrs: vec!["fd00::/56".parse().unwrap(), "10.1.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.2.0.0/16".parse().unwrap()],
            cluster_domain: Some("c.local".into()),
            cluster_dns: vec!["10.2.0.10".parse().unwrap()],
        };
        let text = joined_yaml("b", &asked(Some("192.0.2.2")), &facts);
        let config = Config::parse("joined.yaml", &text).unwrap();
        assert_eq!(config.node.name.as_deref(), Some("b"));
        assert_eq!(config.node.ip, Some("192.0.2.2".parse().unwrap()));
        assert_eq!(config.network.pod_cidr, "10.1.0.0/16".parse().unwrap());
        assert_eq!(config.network.service_cidr, "10.2.0.0/16".parse().unwrap());
        assert_eq!(config.kubelet.cluster_domain, "c.local");
        assert_eq!(config.kubelet.cluster_dns, facts.cluster_dns);
    }

    #[test]
    fn a_cluster_that_says_nothing_leaves_the_defaults() {
        let text = joined_yaml("b", &asked(None), &ClusterFacts::default());
        let mut config = Config::parse("joined.yaml", &text).unwrap();
        config.node.name = None;
        assert_eq!(config, Config::default());
    }
}
