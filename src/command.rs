//! The command line: what there is to type, and its help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  coracle up                                    a cluster on this machine
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

#[derive(Args, Debug)]
pub(crate) struct Connection {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Another kubeconfig than this machine's own
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
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
}

/// `90s`, `2m`, `1m30s`: Go's durations, as everywhere in Kubernetes.
fn duration(text: &str) -> Result<Duration, String> {
    api::duration::parse(text).map_err(|error| error.to_string())
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
