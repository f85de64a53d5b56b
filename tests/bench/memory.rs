//! Resident memory of the one process: idle, and with pods.

use std::{fs, thread, time::Duration};

use anyhow::{Context, anyhow};
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use lifecycle::Scope;

use crate::{
    hosts::Host,
    inside::{connect, eventually, inside},
    interrupt, pods, progress,
    report::results::{Aim, Measurement, Title, Unit},
};

const PODS: usize = 50;
/// Runs in which pods are made too, which takes longer.
const RUNS_WITH_PODS: usize = 3;
/// Long enough for what a start leaves behind to be done.
const SETTLE: Duration = Duration::from_secs(10);

const IDLE: Title = Title {
    name: "memory-idle",
    what: "memory, idle (control plane and node in one process)",
    how: "Resident memory (VmRSS) of the process 10 s after its node was Ready, on each host of the first measurement.",
    unit: Unit::Megabytes,
    aim: Some(Aim::AtMost(60.0)),
};

const WITH_PODS: Title = Title {
    name: "memory-50-pods",
    what: "memory with 50 pods",
    how: "The same process, 10 s after 50 pods of one pause container, made at once, were all Ready.",
    unit: Unit::Megabytes,
    aim: None,
};

#[derive(Default)]
pub(crate) struct Samples {
    idle: Vec<f64>,
    with_pods: Vec<f64>,
}

impl Samples {
    pub(crate) fn measured(&self) -> impl Iterator<Item = Measurement> {
        [IDLE.measured(&self.idle, None), WITH_PODS.measured(&self.with_pods, None)].into_iter().flatten()
    }
}

/// The host's node was Ready just now.
pub(crate) fn measure(host: &Host, run: usize, samples: &mut Samples) -> anyhow::Result<()> {
    samples.idle.push(settled(host, "idle")?);
    if run < RUNS_WITH_PODS {
        inside(host, async || run_pods(host).await)?;
        samples.with_pods.push(settled(host, "with 50 pods")?);
    }
    Ok(())
}

/// In megabytes of 1,000,000 bytes.
fn settled(host: &Host, what: &str) -> anyhow::Result<f64> {
    thread::sleep(SETTLE);
    interrupt::check()?;
    let file = format!("/proc/{}/status", host.coracle_pid());
    let status = fs::read_to_string(&file).with_context(|| file.clone())?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = resident.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    let megabytes =
        kibibytes.ok_or_else(|| anyhow!("{file} names no VmRSS: the process has ended"))? * 1.024e-3;
    progress(&format!("memory {what}: {megabytes:.1} MB"));
    Ok(megabytes)
}

async fn run_pods(host: &Host) -> anyhow::Result<()> {
    let client = connect(host, &Scope::root("bench"))?;
    pods::prepare(&client).await?;
    let api: Api<Pod> = Api::namespaced(client, "default");
    stream::iter(0..PODS)
        .map(|number| {
            let api = &api;
            async move {
                api.create(&PostParams::default(), &pods::pause(&format!("many-{number}"))?)
                    .await
                    .map_err(anyhow::Error::from)
            }
        })
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await?;
    eventually("50 pods are Ready", async || {
        let pods = api.list(&ListParams::default()).await?;
        Ok((pods.items.iter().filter(|pod| pods::is_ready(pod)).count() == PODS).then_some(()))
    })
    .await
}
