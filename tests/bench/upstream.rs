//! Upstream's API server and its etcd beside coracle on the same host, to hold ours against.
//!
//! `UPSTREAM_BIN` names the directory that holds `kube-apiserver` and `etcd`; without it there is no comparison.

use std::{
    env,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use client::{Client, Credentials, Endpoint, Pem};
use jiff::Timestamp;
use lifecycle::Scope;
use pki::{Directory, Names, Profile};

use crate::{hosts::Host, inside::eventually, progress};

const PORT: u16 = 7443;

pub(crate) struct Upstream {
    /// `kube-apiserver v1.36.0, etcd 3.6.0`.
    pub(crate) version: String,
    directory: PathBuf,
    /// In the order in which they are ended.
    processes: Vec<Child>,
}

impl Upstream {
    /// `None` without `UPSTREAM_BIN`. Does not wait until it serves.
    pub(crate) fn start(host: &Host) -> anyhow::Result<Option<Self>> {
        let Some(binaries) = env::var_os("UPSTREAM_BIN").map(PathBuf::from) else { return Ok(None) };
        let (etcd, server) = (binaries.join("etcd"), binaries.join("kube-apiserver"));
        let version = format!("kube-apiserver {}, etcd {}", version(&server)?, version(&etcd)?);
        progress(&format!("starting {version}"));
        let directory = PathBuf::from(host.state()).join("upstream");
        let pki = directory.join("pki");
        certificates(&pki)?;
        let mut upstream = Self { version, directory, processes: Vec::new() };
        let data = upstream.directory.join("etcd");
        let mut command = host.inside(etcd);
        command.arg("--data-dir").arg(data).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
        ]);
        upstream.spawn("etcd", command)?;
        let mut command = host.inside(server);
        command.args(flags(&pki));
        upstream.spawn("kube-apiserver", command)?;
        Ok(Some(upstream))
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = File::create(self.directory.join(name).with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.processes.insert(0, command.spawn().with_context(|| format!("start {name}"))?);
        Ok(())
    }

    /// A client of it, once it is ready.
    pub(crate) async fn connect(&self, scope: &Scope) -> anyhow::Result<Client> {
        let file = |name: &str| Pem::File(self.directory.join("pki").join(name));
        let credentials = Credentials::Certificate { certificate: file("admin.crt"), key: file("admin.key") };
        let server = format!("https://{}:{PORT}", Host::ADDRESS).parse()?;
        let (client, _) = client::connect(Endpoint::new(server, Some(file("ca.crt")), credentials), scope)?;
        eventually("upstream's API server is ready", async || {
            client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
            Ok(Some(()))
        })
        .await?;
        Ok(client)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        for child in &mut self.processes {
            // One that has ended by itself is as good.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The same certificates that coracle makes for itself.
fn certificates(pki: &Path) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let directory = Directory::open(pki, now)?;
    let names = Names::api_server("cluster.local", &[Host::ADDRESS]);
    for profile in [Profile::ApiServer { names }, Profile::Admin] {
        directory.ensure(&profile, now)?;
    }
    Ok(())
}

fn flags(pki: &Path) -> Vec<String> {
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    vec![
        format!("--advertise-address={}", Host::ADDRESS),
        "--bind-address=0.0.0.0".into(),
        format!("--secure-port={PORT}"),
        "--etcd-servers=http://127.0.0.1:2379".into(),
        "--service-cluster-ip-range=10.97.0.0/16".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        file("client-ca-file", "ca.crt"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        file("service-account-key-file", "sa.pub"),
        file("service-account-signing-key-file", "sa.key"),
    ]
}

/// The last word of the first line that a program says about its version.
fn version(program: &Path) -> anyhow::Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(output.status.success(), "{} --version failed", program.display());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let word = said.lines().next().and_then(|line| line.split_whitespace().next_back());
    Ok(word.unwrap_or("of unknown version").to_string())
}
