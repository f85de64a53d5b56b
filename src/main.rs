//! The command line: which command, with which configuration, and the exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.

mod addresses;
mod allocator;
mod certificates;
mod command;
mod control_plane;
mod health;
mod identity;
mod joining;
mod logging;
mod membership;
mod node;
mod person;
mod renewals;
mod reset;
mod service_manager;
mod upstream;
mod wiring;

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use command::{Command, CommandLine, Common};
use config::{Config, ConfigError};
use join::Paths;
use person::Role;
use tokio::signal::unix::{SignalKind, signal};
use upstream::Program;

const DEFAULT_CONFIG: &str = "/etc/coracle/config.yaml";

fn main() -> ExitCode {
    // The container runtime starts this binary by another name for each pod's network: as little as possible first.
    let called = std::env::args().next().unwrap_or_default();
    if network::plugin::is_plugin(&called) {
        return network::plugin::main();
    }
    // Every TLS user in the process takes its algorithms from here; a second provider would make them panic.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("coracle: the TLS provider was installed twice");
        return ExitCode::FAILURE;
    }
    let command = match Program::called(&called) {
        Some(program) => Typed::Upstream(program, std::env::args().skip(1).collect()),
        None => Typed::Own(CommandLine::parse().command),
    };
    let name = command.name();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{name}: cannot start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        match command {
            // Large: it holds the configuration more than once.
            Typed::Own(command) => Box::pin(run(command)).await,
            Typed::Upstream(program, arguments) => upstream::run(program, &arguments).await,
        }
    });
    // A thread that hangs in the kernel (a dead mount) must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", told(name, &error));
            if error.downcast_ref::<ConfigError>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// For the terminal. Of several mistakes of a configuration, each stands for itself; other errors are one, on however many lines.
fn told(name: &str, error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    match error.downcast_ref() {
        Some(ConfigError::Mistakes(_)) => text.lines().map(|line| format!("{name}: {line}\n")).collect(),
        _ => format!("{name}: {text}\n"),
    }
}

/// What was typed.
enum Typed {
    Own(Command),
    /// Upstream's program, with its arguments.
    Upstream(Program, Vec<String>),
}

impl Typed {
    fn name(&self) -> &'static str {
        match self {
            Self::Own(_) => "coracle",
            Self::Upstream(program, _) => program.name(),
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(common) => {
            let config = load(&common)?;
            if !person::machine_is_ready(&config, Role::Up, true) {
                return Ok(ExitCode::FAILURE);
            }
            logging::start(&config.logging)?;
            wiring::up(config, stop_signal()?).await?;
        }
        Command::Server(common) => {
            let config = load(&common)?;
            if !person::machine_is_ready(&config, Role::Server, true) {
                return Ok(ExitCode::FAILURE);
            }
            logging::start(&config.logging)?;
            wiring::server(config, stop_signal()?).await?;
        }
        Command::Node(common) => return run_node(&common).await,
        Command::Kubelet(asked) => return upstream::run(Program::Kubelet, &asked.flags).await,
        Command::KubeProxy(asked) => return upstream::run(Program::KubeProxy, &asked.flags).await,
        Command::Join(asked) => {
            return match joining::join(&asked, &load(&asked.common)?).await? {
                joining::Next::Nothing => Ok(ExitCode::SUCCESS),
                joining::Next::Run => run_node(&asked.common).await,
                joining::Next::Mend => Ok(ExitCode::FAILURE),
            };
        }
        Command::Token(asked) => joining::token(&asked).await?,
        Command::Status(asked) => return person::status(asked).await,
        Command::Why(asked) => person::why(asked).await?,
        Command::Doctor(asked) => return person::doctor(&asked).await,
        Command::Apply(asked) => person::apply(asked).await?,
        Command::Kubeconfig(common) => person::kubeconfig(&common)?,
        Command::Reset(asked) => reset::reset(&load(&asked.common)?, &asked).await?,
        Command::Completion { shell } => person::completion(shell),
        Command::Version => person::version(),
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_node(common: &Common) -> anyhow::Result<ExitCode> {
    let config = load(common)?;
    if !person::machine_is_ready(&config, Role::Node, true) {
        return Ok(ExitCode::FAILURE);
    }
    logging::start(&config.logging)?;
    wiring::node(config, stop_signal()?).await?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that was named, or the machine's, or the defaults; below it, on a machine that has joined a
/// cluster, what that cluster says.
fn load(common: &Common) -> Result<Config, ConfigError> {
    let default = Path::new(DEFAULT_CONFIG);
    let file = common.config.as_deref().or_else(|| default.exists().then_some(default));
    let own = match file {
        Some(file) => Config::load(file)?,
        None => Config::default(),
    };
    let paths = Paths::of(&own.state_dir);
    // A file of a cluster that was not joined in the end says nothing of this machine.
    if !paths.is_member() || !paths.joined.exists() {
        return Ok(own);
    }
    let below = Config::load(&paths.joined)?;
    match file {
        Some(file) => below.load_over(file),
        None => Ok(below),
    }
}

/// Resolves when somebody asks the process to end: systemd's SIGTERM, or Ctrl-C.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_of_a_configuration_is_told_on_a_line_that_stands_for_itself() {
        let wrong =
            Config::parse("a.yaml", "kind: CoracleConfiguration\nnode: {naem: a}\nserver: {port: 0}\n");
        let error = ConfigError::Mistakes(wrong.unwrap_err()).into();
        let text = told("coracle", &error);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 2 && lines.iter().all(|line| line.starts_with("coracle: a.yaml:")), "{text}");
        let other = anyhow::anyhow!("a\n  b").context("c");
        assert_eq!(told("coracle", &other), "coracle: c: a\n  b\n");
    }

    #[test]
    fn what_a_cluster_says_counts_only_on_a_member_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, format!("kind: CoracleConfiguration\nstateDir: {}\n", dir.path().display()))
            .unwrap();
        let paths = Paths::of(dir.path());
        std::fs::write(&paths.joined, "kind: CoracleConfiguration\nnetwork: {podCIDR: 10.1.0.0/16}\n")
            .unwrap();
        let pods = || load(&Common { config: Some(file.clone()) }).unwrap().network.pod_cidr;
        assert_eq!(pods(), Config::default().network.pod_cidr, "a join that did not end");
        std::fs::write(&paths.kubeconfig, "").unwrap();
        assert_eq!(pods(), "10.1.0.0/16".parse().unwrap());
    }
}
