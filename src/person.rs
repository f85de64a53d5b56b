//! The commands that a person types: each asks, and prints.
#![expect(clippy::print_stdout, reason = "printing is what these commands are for")]

use std::{
    net::{IpAddr, Ipv4Addr},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{CommandFactory, ValueEnum};
use cli::{apply, doctor, status, why};
use client::{Client, Kubeconfig};
use config::{Config, NetworkProvider};
use jiff::Timestamp;
use kubelet::{
    CgroupDriver,
    runtime::{CriRuntime, Runtime as _, RuntimeError, SecurityDefaults},
};
use lifecycle::Scope;

use crate::{
    addresses,
    command::{Apply, CommandLine, Common, Connection, Doctor, Status, Why},
    joining::is_installed,
    load,
};

/// A runtime that is well answers from memory.
const RUNTIME_DEADLINE: Duration = Duration::from_secs(5);

/// A client of the cluster that the arguments name. Its tasks end with the process.
pub(crate) fn connect(connection: &Connection) -> anyhow::Result<Client> {
    let file = match (&connection.kubeconfig, &connection.common.config) {
        // A configuration that was named is meant, whatever the environment says.
        (Some(file), None) => file.clone(),
        (_, _) => load(&connection.common)?.admin_kubeconfig(),
    };
    let endpoint = Kubeconfig::load(&file)
        .context(
            "no way to the cluster; `coracle up` and `coracle server` write this file for root, and --kubeconfig or --config name \
             another",
        )?
        .endpoint(None)?;
    let (client, _reconnect) = client::connect(endpoint, &Scope::root("command"))?;
    Ok(client)
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

pub(crate) async fn status(asked: Status) -> anyhow::Result<ExitCode> {
    let Some(deadline) = asked.wait else {
        let report = status::report(&status::observe(&connect(&asked.connection)?).await?, Timestamp::now());
        print!("{}", status::render(&report));
        return Ok(if report.unhealthy.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    let client = async || connect(&asked.connection).map_err(|_| "the control plane to start".to_string());
    let alive = || asked.while_pid.is_none_or(is_alive);
    let report =
        status::wait_ready(client, deadline, alive, |state| println!("    waiting for {state}")).await?;
    // What was waited for is there. Pods that start anew just now are shown, and no failure of the wait.
    print!("{}", status::render(&report));
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn why(asked: Why) -> anyhow::Result<()> {
    let subject = asked.object.parse()?;
    let client = connect(&asked.connection)?;
    let observed = why::observe(&client, &asked.namespace, &subject).await?;
    print!("{}", why::tell(&observed, Timestamp::now()));
    Ok(())
}

/// What a machine is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A control plane and a node in one process
    Up,
    /// A control plane alone
    Server,
    /// A node alone
    Node,
}

impl Role {
    fn serves(self) -> bool {
        self != Self::Node
    }

    fn runs_pods(self, config: &Config) -> bool {
        self != Self::Server && config.components.kubelet
    }
}

/// What this machine is, by what was installed and joined on it.
fn role_of(config: &Config) -> Role {
    if join::Paths::of(&config.state_dir).kubeconfig.exists() || is_installed("coracle-node.service") {
        Role::Node
    } else if is_installed("coracle-server.service") {
        Role::Server
    } else {
        Role::Up
    }
}

pub(crate) async fn doctor(asked: &Doctor) -> anyhow::Result<ExitCode> {
    let config = load(&asked.common)?;
    let role = asked.role.unwrap_or_else(|| role_of(&config));
    let mut questions = questions(&config, role);
    questions.thorough = true;
    questions.starting = false;
    if role.runs_pods(&config) {
        questions.runtime = ask_runtime(&config).await;
    }
    let findings = doctor::examine(&doctor::observe(&questions));
    print!("{}", doctor::Screen { findings: &findings, quiet: asked.quiet });
    Ok(if doctor::is_broken(&findings) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `coracle doctor` would call broken, told on standard error: nothing is started on such a machine. Where one of
/// ours runs already, nothing may be `starting`.
pub(crate) fn machine_is_ready(config: &Config, role: Role, starting: bool) -> bool {
    let mut questions = questions(config, role);
    questions.starting = starting;
    if config.state_dir.join("store").exists() || role == Role::Node {
        // A cluster that is there already is not stopped by a route that came later.
        questions.overlaps.clear();
    }
    let findings = doctor::examine(&doctor::observe(&questions));
    let broken = doctor::is_broken(&findings);
    if broken {
        eprint!("{}", doctor::Screen { findings: &findings, quiet: true });
        eprintln!("coracle: this machine is not ready; `coracle doctor` looks again after the mend");
    }
    !broken
}

/// Who the container runtime is, and how it makes cgroups.
async fn ask_runtime(config: &Config) -> doctor::Runtime {
    let asked = async {
        let runtime = CriRuntime::new(&config.runtime.endpoint, SecurityDefaults::default())?;
        let version = runtime.version().await?;
        let driver = runtime.cgroup_driver().await?.map(|driver| match driver {
            CgroupDriver::Cgroupfs => doctor::Driver::Cgroupfs,
            CgroupDriver::Systemd => doctor::Driver::Systemd,
        });
        Ok(doctor::Runtime::Tells { version: format!("{} {}", version.name, version.version), driver })
    };
    match tokio::time::timeout(RUNTIME_DEADLINE, asked).await {
        Ok(Ok(told)) => told,
        // Nothing listens there: another finding says so.
        Ok(Err(_)) if UnixStream::connect(config.runtime.socket()).is_err() => doctor::Runtime::NotAsked,
        Ok(Err(error)) => {
            let error: RuntimeError = error;
            doctor::Runtime::Refuses { error: format!("{:#}", anyhow::Error::from(error)) }
        }
        Err(_) => {
            doctor::Runtime::Refuses { error: format!("no answer within {} s", RUNTIME_DEADLINE.as_secs()) }
        }
    }
}

fn questions(config: &Config, role: Role) -> doctor::Questions {
    let bind = config.server.bind_address;
    let mut ports = Vec::new();
    if role.serves() {
        ports.push((bind, config.server.port).into());
        if config.components.dns {
            ports.push((config.node.ip.unwrap_or(bind), config.dns.port).into());
        }
    }
    if role.runs_pods(config) {
        ports.push((IpAddr::V4(Ipv4Addr::UNSPECIFIED), config.kubelet.port).into());
    }
    let overlaps = addresses::taken(config).unwrap_or_default();
    doctor::Questions {
        runs_pods: role.runs_pods(config),
        runtime_socket: config.runtime.socket().to_path_buf(),
        state_dir: config.state_dir.clone(),
        ports,
        node_ip: config.node.ip,
        overlaps: overlaps.iter().map(ToString::to_string).collect(),
        runtime: doctor::Runtime::NotAsked,
        bridge: config.network.provider != NetworkProvider::BuiltIn,
        starting: true,
        thorough: false,
    }
}

pub(crate) async fn apply(asked: Apply) -> anyhow::Result<()> {
    let client = connect(&asked.connection)?;
    let objects = apply::apply(&client, &asked.filename, |applied| println!("{applied}")).await?;
    if let Some(deadline) = asked.wait {
        apply::wait_available(&client, &objects, deadline).await?;
    }
    for url in apply::addresses(&client, &objects).await? {
        println!("reachable at {url}");
    }
    Ok(())
}

pub(crate) fn kubeconfig(common: &Common) -> anyhow::Result<()> {
    let file = load(common)?.admin_kubeconfig();
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!("read {} (written by `coracle up` at its first start; needs root)", file.display())
    })?;
    print!("{text}");
    Ok(())
}

pub(crate) fn completion(shell: clap_complete::Shell) {
    clap_complete::generate(shell, &mut CommandLine::command(), "coracle", &mut std::io::stdout());
}

pub(crate) fn version() {
    println!("coracle {} (Kubernetes v1.36)", env!("CARGO_PKG_VERSION"));
}
