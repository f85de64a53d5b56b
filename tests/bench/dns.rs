//! How many questions about Services the cluster DNS answers, and how late the latest of them, beside CoreDNS.

use std::{
    env,
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::{StreamExt, TryStreamExt, future, stream};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use serde_json::json;
use tokio::net::UdpSocket;

use crate::{
    Report,
    hosts::Host,
    inside::{DEADLINE, connect, inside, milliseconds, object},
    progress, ready,
    report::results::{Aim, Title, Unit},
};

const SERVICES: usize = 500;
/// Questions in a round, and how many of them wait for an answer at a time.
const QUESTIONS: usize = 20_000;
const AT_A_TIME: usize = 16;
const ROUNDS: usize = 5;
/// Where `coracle up` answers when nobody says otherwise, and where CoreDNS is put.
const OURS: u16 = 10053;
const THEIRS: u16 = 5354;

const RATE: Title = Title {
    name: "dns-queries",
    what: "DNS: questions answered",
    how: "20,000 questions in a round for the address of one of 500 Services, 16 at a time, each from a socket that waits for \
          its answer; UDP on the node itself, the client on the same cores. In turns with CoreDNS, which reads the same API \
          server, with the plugins errors and kubernetes alone (no cache, no log).",
    unit: Unit::PerSecond,
    aim: Some(Aim::AtLeastTimes(1.0)),
};

const LATE: Title = Title {
    name: "dns-p99",
    what: "DNS: 99 of 100 answers are there within",
    how: "From before a question of the same rounds is sent until its answer has been read.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMostTimes(1.0)),
};

#[derive(Default)]
struct Samples {
    rate: [Vec<f64>; 2],
    late: [Vec<f64>; 2],
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let mut host = Host::new("benchdns");
    ready::start(&mut host)?;
    let outcome =
        inside(&host, async || fill(&host).await).and_then(|()| CoreDns::start(&host)).and_then(|coredns| {
            inside(&host, async || rounds(coredns.is_some(), &mut samples).await)?;
            Ok(coredns.map(|coredns| coredns.version.clone()))
        });
    let who = outcome.as_ref().ok().and_then(Clone::clone).unwrap_or_else(|| "CoreDNS".to_string());
    report.extend(RATE.measured(&samples.rate[0], Some((&who, &samples.rate[1]))));
    report.extend(LATE.measured(&samples.late[0], Some((&who, &samples.late[1]))));
    outcome.map(drop)
}

async fn fill(host: &Host) -> anyhow::Result<()> {
    let services: Api<Service> = Api::namespaced(connect(host, &Scope::root("bench"))?, "default");
    let services = &services;
    stream::iter(0..SERVICES)
        .map(|number| async move {
            let service = object(
                json!({"metadata": {"name": format!("s{number}")}, "spec": {"ports": [{"port": 80}]}}),
            )?;
            services.create(&PostParams::default(), &service).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(8)
        .try_collect()
        .await
}

async fn rounds(against: bool, samples: &mut Samples) -> anyhow::Result<()> {
    let host: IpAddr = Host::ADDRESS.parse()?;
    let mut servers = vec![SocketAddr::new(host, OURS)];
    servers.extend(against.then_some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), THEIRS)));
    for server in &servers {
        knows_all(*server).await?;
    }
    for round in 0..ROUNDS {
        for (side, server) in servers.iter().enumerate() {
            let (rate, late) = ask(*server, QUESTIONS / AT_A_TIME).await?;
            progress(&format!(
                "DNS {} of {ROUNDS}: {server} answers {rate:.0} /s, 99 of 100 within {late:.2} ms",
                round + 1
            ));
            samples.rate[side].push(rate);
            samples.late[side].push(late);
        }
    }
    Ok(())
}

/// Waits until the last Service is known, and asks for each once.
async fn knows_all(server: SocketAddr) -> anyhow::Result<()> {
    let socket = open(server).await?;
    let until = Instant::now() + DEADLINE;
    for number in 0..SERVICES {
        while let Err(error) = answered(&socket, number).await {
            if Instant::now() > until {
                return Err(error.context(format!("{server} does not know all Services")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Answers in a second, and the time within which 99 of 100 came.
async fn ask(server: SocketAddr, each: usize) -> anyhow::Result<(f64, f64)> {
    let started = Instant::now();
    let askers = (0..AT_A_TIME).map(|asker| {
        tokio::spawn(async move {
            let socket = open(server).await?;
            let mut times = Vec::with_capacity(each);
            for number in 0..each {
                let asked = Instant::now();
                answered(&socket, (number * AT_A_TIME + asker) % SERVICES).await?;
                times.push(milliseconds(asked.elapsed()));
            }
            anyhow::Ok(times)
        })
    });
    let mut times = Vec::new();
    for asker in future::join_all(askers).await {
        times.extend(asker??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "twenty thousand")]
    let rate = times.len() as f64 / elapsed;
    let late = times.get(times.len() * 99 / 100).copied().context("no question was asked")?;
    Ok((rate, late))
}

async fn open(server: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

/// One question and its answer, which must have an address.
async fn answered(socket: &UdpSocket, service: usize) -> anyhow::Result<()> {
    let id = u16::try_from(service)?;
    socket.send(&question(id, &format!("s{service}.default.svc.cluster.local"))?).await?;
    let mut answer = [0; 512];
    let length = tokio::time::timeout(Duration::from_secs(2), socket.recv(&mut answer))
        .await
        .context("no answer")??;
    let word = |at: usize| answer.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    ensure!(length > 12 && word(0) == Some(id), "an answer to another question");
    ensure!(answer[3] & 0x0f == 0, "s{service}: response code {}", answer[3] & 0x0f);
    ensure!(word(6) >= Some(1), "s{service}: no address");
    Ok(())
}

/// For the IPv4 address of a name (RFC 1035, section 4).
fn question(id: u16, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len())?);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    Ok(bytes)
}

/// CoreDNS in the host's network namespace. `COREDNS_BIN` names the program; without it there is no comparison.
struct CoreDns {
    version: String,
    process: Child,
}

impl CoreDns {
    fn start(host: &Host) -> anyhow::Result<Option<Self>> {
        let Some(program) = env::var_os("COREDNS_BIN") else { return Ok(None) };
        let output = host.inside(&program).arg("-version").output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some(version) = said.lines().next() else { bail!("COREDNS_BIN is no CoreDNS") };
        progress(&format!("starting {version}"));
        let state = PathBuf::from(host.state());
        let corefile = format!(
            ".:{THEIRS} {{\n  bind 127.0.0.1\n  errors\n  kubernetes cluster.local {{\n    kubeconfig {}\n    ttl 30\n  }}\n}}\n",
            state.join("admin.kubeconfig").display()
        );
        let file = state.join("Corefile");
        fs::write(&file, corefile)?;
        let log = File::create(state.join("coredns.log"))?;
        let mut command = host.inside(&program);
        command.arg("-conf").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Some(Self { version: version.to_string(), process: command.spawn().context("start CoreDNS")? }))
    }
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        // One that has ended by itself is as good.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
