//! From nothing to a node that is Ready; and, since the processes are there, how much memory they take.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use lifecycle::Scope;

use crate::{
    Report,
    hosts::Host,
    inside::{Watcher, connect, inside, milliseconds},
    memory, progress,
    report::results::{Aim, Title, Unit},
};

const RUNS: usize = 5;

const TITLE: Title = Title {
    name: "start-to-ready",
    what: "`coracle up` on an empty disk: start of the process to node Ready",
    how: "From before the process is started until a client has seen the node's Ready condition be True. The state \
          directory is empty (no certificates, no store); containerd runs and has its images. Each run is a host of its own.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMost(3000.0)),
};

#[derive(Default)]
pub(crate) struct Samples {
    ready: Vec<f64>,
    pub(crate) memory: memory::Samples,
}

/// Measures on a new host each time.
pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let outcome = (0..RUNS).try_for_each(|run| {
        let mut host = Host::new(&format!("bench{run}"));
        one(&mut host, run, &mut samples)
    });
    report.extend(TITLE.measured(&samples.ready, None));
    report.extend(samples.memory.measured());
    outcome
}

fn one(host: &mut Host, run: usize, samples: &mut Samples) -> anyhow::Result<()> {
    let time = start(host)?;
    samples.ready.push(milliseconds(time));
    progress(&format!("run {}: Ready after {:.2} s", run + 1, time.as_secs_f64()));
    memory::measure(host, run, &mut samples.memory)
}

/// Starts coracle and waits until its node is Ready.
pub(crate) fn start(host: &mut Host) -> anyhow::Result<Duration> {
    let started = Instant::now();
    host.start();
    inside(host, async || {
        let scope = Scope::root("bench");
        // No kubeconfig, nobody listens, no node yet: each is asked again at once, and costs next to nothing.
        let seen = async {
            while look(host, &scope).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), seen)
            .await
            .map_err(|_| anyhow::anyhow!("the node was not Ready within 60 s"))
    })?;
    Ok(started.elapsed())
}

/// Waits for the Ready condition; an error where there is no API to ask yet.
async fn look(host: &Host, scope: &Scope) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(connect(host, scope)?);
    // The watch begins where this list ends, so that nothing between the two is missed.
    let mut watcher = Watcher::start(&nodes).await?;
    if nodes.list(&ListParams::default()).await?.items.iter().any(is_ready) {
        return Ok(());
    }
    watcher
        .until("the node is Ready", |event| {
            use kube::api::WatchEvent::{Added, Modified};
            matches!(event, Added(node) | Modified(node) if is_ready(node))
        })
        .await?;
    Ok(())
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
