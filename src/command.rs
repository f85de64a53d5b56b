//! The command line: what there is to type, and its help.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use join::ServerAddress;
use pki::{BootstrapToken, KeyHash};

use crate::person::Role;

const EXAMPLES: &str = "\
Examples:
  coracle up                                    a cluster on this machine
  coracle token create                          the line that makes another machine a node of it
  coracle status                                what runs, what is unhealthy and why
  coracle why pod/web -n shop                   what happened to a pod, in plain words
  export KUBECONFIG=/var/lib/coracle/admin.kubeconfig; kubectl get pods -A

Files:
  /etc/coracle/config.yaml                      the configuration (all of it optional)
  /var/lib/coracle                              the store, certificates, admin.kubeconfig";

/// A Kubernetes node in one small binary, with a control plane in the box.
#[derive(Debug, Parser)]
#[command(name = "coracle", version, after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a control plane and a node in one process, until told to stop
    #[command(after_help = "Example:\n  coracle up --config ./config.yaml")]
    Up(Common),
    /// Run a control plane alone, until told to stop
    #[command(after_help = "Example:\n  coracle server --config ./config.yaml")]
    Server(Common),
    /// Run a node alone, against the control plane that this machine has joined
    #[command(after_help = "Example:\n  coracle node     after `coracle join`")]
    Node(Common),
    /// Run what upstream's kubelet runs, with its flags and configuration file; also when called as `kubelet`
    #[command(
        disable_help_flag = true,
        after_help = "Example:\n  coracle kubelet --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml"
    )]
    Kubelet(Upstream),
    /// Run what upstream's kube-proxy runs, with its flags and configuration file; also when called as `kube-proxy`
    #[command(
        disable_help_flag = true,
        after_help = "Example:\n  coracle kube-proxy --kubeconfig=/var/lib/kube-proxy/kubeconfig.conf --proxy-mode=nftables"
    )]
    KubeProxy(Upstream),
    /// Make this machine a node of a cluster, with the line that `coracle token create` prints there
    #[command(
        after_help = "Example:\n  coracle join 192.0.2.1:6443 --token abcdef.0123456789abcdef --ca-cert-hash sha256:1234…"
    )]
    Join(Join),
    /// Make, list and delete the tokens by which machines join
    #[command(
        after_help = "Examples:\n  coracle token create                    prints the line to type on the other machine\n  coracle token create --ttl 1h\n  coracle token list\n  coracle token delete abcdef"
    )]
    #[command(subcommand)]
    Token(Token),
    /// The cluster on one screen, and what is unhealthy in it
    #[command(
        after_help = "Examples:\n  coracle status\n  coracle status --wait 60s     wait until every node is Ready"
    )]
    Status(Status),
    /// Why an object is as it is: conditions, containers and events, told in order
    #[command(
        after_help = "Examples:\n  coracle why pod/web-6c5f9 -n shop\n  coracle why pod/coredns-x -n kube-system"
    )]
    Why(Why),
    /// Whether this machine is ready for Coracle, and which command mends what is not
    #[command(after_help = "Example:\n  coracle doctor || echo 'not ready'")]
    Doctor(Doctor),
    /// Create or update the objects of a manifest, for machines without kubectl
    #[command(after_help = "Example:\n  coracle apply -f deploy/demo.yaml --wait 90s")]
    Apply(Apply),
    /// Print a kubeconfig with every right
    #[command(after_help = "Example:\n  coracle kubeconfig > ~/.kube/config && chmod 600 ~/.kube/config")]
    Kubeconfig(Common),
    /// Remove the pods, rules, links, cgroups and files that Coracle made on this machine
    #[command(after_help = "Example:\n  coracle reset --yes     the process must be stopped first")]
    Reset(Reset),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  source <(coracle completion bash)")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// The configuration file; without it, /etc/coracle/config.yaml if that exists
    #[arg(long, value_name = "FILE", env = "CORACLE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
}

impl Common {
    /// What a command that a person is told to type must end with, to mean the same: ` --config FILE`, or nothing.
    pub(crate) fn repeated(&self) -> String {
        self.config.as_ref().map(|file| format!(" --config {}", file.display())).unwrap_or_default()
    }
}

#[derive(Args, Debug)]
pub(crate) struct Upstream {
    /// Upstream's flags; --help lists them
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) flags: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Connection {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Another kubeconfig than this machine's own
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Join {
    /// Where the API server is
    #[arg(value_name = "HOST:PORT")]
    pub(crate) server: ServerAddress,
    /// The token by which this machine is let in
    #[arg(long, value_name = "ID.SECRET", env = "CORACLE_TOKEN", hide_env_values = true)]
    pub(crate) token: BootstrapToken,
    /// The hash of the cluster's authority, by which this machine knows that it is the right cluster
    #[arg(long, value_name = "sha256:HEX", required = true, alias = "discovery-token-ca-cert-hash")]
    pub(crate) ca_cert_hash: Vec<KeyHash>,
    /// The node's name; the host name without it
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    pub(crate) node_name: Option<String>,
    /// The node's address; without it, the one that routes to the API server
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// Only write the files: do not start the node
    #[arg(long)]
    pub(crate) no_start: bool,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token, and print the line that joins a machine
    #[command(after_help = "Example:\n  coracle token create --ttl 1h --description 'rack 2'")]
    Create {
        #[command(flatten)]
        connection: Connection,
        /// How long it may be used (such as 24h); 0 is for ever
        #[arg(long, value_name = "TIME", value_parser = life, default_value = "24h")]
        ttl: Duration,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List the tokens, without their secrets
    #[command(after_help = "Example:\n  coracle token list")]
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// End tokens; nodes that have joined with them stay
    #[command(after_help = "Example:\n  coracle token delete abcdef")]
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// A token, or its first half
        #[arg(value_name = "TOKEN", required = true)]
        tokens: Vec<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Wait this long (such as 60s) until every node is Ready
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
    /// Stop waiting when this process has ended
    #[arg(long, value_name = "PID", requires = "wait")]
    pub(crate) while_pid: Option<u32>,
}

#[derive(Args, Debug)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// The object, such as pod/web
    #[arg(value_name = "KIND/NAME")]
    pub(crate) object: String,
    /// The object's namespace
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
}

#[derive(Args, Debug)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Say only what is not well
    #[arg(long)]
    pub(crate) quiet: bool,
    /// What the machine is to be; without it, what was installed or joined, or else `up`
    #[arg(long, value_enum)]
    pub(crate) role: Option<Role>,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// The manifest
    #[arg(short, long, value_name = "FILE")]
    pub(crate) filename: PathBuf,
    /// Wait this long (such as 90s) until the manifest's Deployments are available
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Reset {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Do it; without this, only say what would be removed
    #[arg(long)]
    pub(crate) yes: bool,
    /// Keep the cluster: its store, certificates and kubeconfigs
    #[arg(long)]
    pub(crate) keep_state: bool,
}

/// `90s`, `2m`, `1m30s`: Go's durations, as everywhere in Kubernetes.
fn duration(text: &str) -> Result<Duration, String> {
    api::duration::parse(text).map_err(|error| error.to_string())
}

/// As [`duration`], and `0`.
fn life(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration(text) }
}

/// Node names are those of DNS subdomains (RFC 1123).
fn node_name(text: &str) -> Result<String, String> {
    let mistakes = api::names::dns1123_subdomain(text);
    if mistakes.is_empty() { Ok(text.to_string()) } else { Err(mistakes.join("; ")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in CommandLine::command().get_subcommands() {
            if command.get_name() != "version" {
                assert!(command.get_after_help().is_some(), "{}", command.get_name());
            }
        }
    }
}
