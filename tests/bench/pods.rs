//! One pod from create to Ready and from delete to gone, in turns with the same work asked of the runtime directly.

use std::time::Instant;

use client::Client;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::{
    Api,
    api::{
        DeleteParams, PostParams,
        WatchEvent::{Added, Deleted, Modified},
    },
};
use lifecycle::Scope;
use serde_json::json;

use crate::{
    Report,
    floor::{self, Floor},
    hosts::Host,
    inside::{Watcher, connect, eventually, inside, milliseconds, object},
    progress, ready,
    report::results::{Aim, Title, Unit},
};

const WARM_UP: usize = 2;
const ROUNDS: usize = 20;
pub(crate) const IMAGE: &str = "coracle.dev/pause:1";

const CREATE: Title = Title {
    name: "pod-create-to-ready",
    what: "pod: create to Ready",
    how: "One at a time: from before the POST of a pod with one pause container (no node named, service-account token \
          mounted as by default) until a watcher sees its Ready condition be True. In turns with the floor: \
          RunPodSandbox, CreateContainer and StartContainer of the same image on the same containerd and pod network.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMostTimes(1.2)),
};

const DELETE: Title = Title {
    name: "pod-delete-to-gone",
    what: "pod: delete to gone",
    how: "From before the DELETE with a grace of 1 s (the pause process ends at SIGTERM) until a watcher sees the pod be \
          deleted. In turns with the floor: StopPodSandbox and RemovePodSandbox.",
    unit: Unit::Milliseconds,
    aim: None,
};

#[derive(Default)]
struct Samples {
    create: Vec<f64>,
    create_floor: Vec<f64>,
    delete: Vec<f64>,
    delete_floor: Vec<f64>,
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    // Declared first, so dropped last: a cgroup can be removed when its host has ended all that was in it.
    let _cgroups;
    let mut host = Host::new("benchpods");
    _cgroups = floor::Cgroups::of(&host)?;
    ready::start(&mut host)?;
    let outcome = inside(&host, async || rounds(&host, &mut samples).await);
    report.extend(CREATE.measured(&samples.create, Some(("CRI", &samples.create_floor))));
    report.extend(DELETE.measured(&samples.delete, Some(("CRI", &samples.delete_floor))));
    outcome
}

async fn rounds(host: &Host, samples: &mut Samples) -> anyhow::Result<()> {
    let client = connect(host, &Scope::root("bench"))?;
    prepare(&client).await?;
    let api: Api<Pod> = Api::namespaced(client, "default");
    let mut floor = Floor::new(host).await?;
    for round in 0..WARM_UP + ROUNDS {
        let [create, delete] = through_the_api(&api, &format!("one-{round}")).await?;
        let [create_floor, delete_floor] = on_the_floor(&mut floor, round).await?;
        if round < WARM_UP {
            continue;
        }
        progress(&format!(
            "pod {} of {ROUNDS}: Ready after {create:.0} ms (CRI: {create_floor:.0}), gone after {delete:.0} ms (CRI: {delete_floor:.0})",
            round + 1 - WARM_UP
        ));
        samples.create.push(create);
        samples.create_floor.push(create_floor);
        samples.delete.push(delete);
        samples.delete_floor.push(delete_floor);
    }
    Ok(())
}

async fn through_the_api(api: &Api<Pod>, name: &str) -> anyhow::Result<[f64; 2]> {
    let mut watcher = Watcher::start(api).await?;
    let pod = pause(name)?;
    let is_this = |pod: &Pod| pod.metadata.name.as_deref() == Some(name);

    let created = Instant::now();
    api.create(&PostParams::default(), &pod).await?;
    let is_there = |event: &_| matches!(event, Added(pod) | Modified(pod) if is_this(pod) && is_ready(pod));
    watcher.until("the pod is Ready", is_there).await?;
    let create = milliseconds(created.elapsed());

    let deleted = Instant::now();
    api.delete(name, &DeleteParams::default().grace_period(1)).await?;
    watcher.until("the pod is gone", |event| matches!(event, Deleted(pod) if is_this(pod))).await?;
    Ok([create, milliseconds(deleted.elapsed())])
}

async fn on_the_floor(floor: &mut Floor, round: usize) -> anyhow::Result<[f64; 2]> {
    let created = Instant::now();
    let sandbox = floor.create(round).await?;
    let create = milliseconds(created.elapsed());
    let deleted = Instant::now();
    floor.delete(sandbox).await?;
    Ok([create, milliseconds(deleted.elapsed())])
}

/// Waits for what controllers make and every pod needs.
pub(crate) async fn prepare(client: &Client) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let authorities: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    eventually("the service account of pods is there", async || {
        let (account, authority) =
            (accounts.get_opt("default").await?, authorities.get_opt("kube-root-ca.crt").await?);
        Ok(account.and(authority).map(drop))
    })
    .await
}

/// The least pod.
pub(crate) fn pause(name: &str) -> anyhow::Result<Pod> {
    object(json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": IMAGE}]},
    }))
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().filter_map(|status| status.conditions.as_ref()).flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
