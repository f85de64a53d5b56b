//! How many requests the API server answers in a second, over TLS and one HTTP/2 connection.

use std::time::Instant;

use client::Client;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use serde_json::json;

use crate::{
    Report,
    hosts::Host,
    inside::{connect, inside, object},
    progress, ready,
    report::results::{Title, Unit},
    upstream::Upstream,
};

const OBJECTS: usize = 500;
const LISTS: usize = 40;
const CONCURRENCY: usize = 8;
const WARM_UP: usize = 1;
const ROUNDS: usize = 5;

const CREATE: Title = Title {
    name: "api-create",
    what: "API: create",
    how: "500 ConfigMaps of 1 KB, 8 requests at a time over one TLS connection (HTTP/2), as JSON, by the administrator. \
          Each is on the disk before its answer. The client runs on the same cores, on both sides. Upstream's \
          API server runs beside an etcd on the same disk, without controllers; Coracle's with all of Coracle.",
    unit: Unit::PerSecond,
    aim: None,
};

const GET: Title =
    Title { name: "api-get", what: "API: get", how: "The same 500, one by one, 8 at a time.", ..CREATE };

const LIST: Title = Title {
    name: "api-list",
    what: "API: list of 500 objects",
    how: "The same 500 in one answer, 40 times, 8 at a time; the client reads the answers and does not parse them.",
    ..CREATE
};

/// Requests per second, for each round.
#[derive(Default)]
struct Rates {
    create: Vec<f64>,
    get: Vec<f64>,
    list: Vec<f64>,
}

#[derive(Default)]
struct Samples {
    ours: Rates,
    upstream: Rates,
    /// Who upstream was, if it was there.
    who: String,
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let mut host = Host::new("benchapi");
    ready::start(&mut host)?;
    let outcome = both(&host, &mut samples);
    let Samples { ours, upstream, who } = &samples;
    report.extend(CREATE.measured(&ours.create, Some((who, &upstream.create))));
    report.extend(GET.measured(&ours.get, Some((who, &upstream.get))));
    report.extend(LIST.measured(&ours.list, Some((who, &upstream.list))));
    outcome
}

fn both(host: &Host, samples: &mut Samples) -> anyhow::Result<()> {
    let upstream = Upstream::start(host)?;
    match &upstream {
        Some(upstream) => samples.who = upstream.version.clone(),
        None => progress("UPSTREAM_BIN is not set: no upstream to hold the API server against"),
    }
    inside(host, async || {
        let scope = Scope::root("bench");
        let ours = connect(host, &scope)?;
        let theirs = match &upstream {
            Some(upstream) => Some(upstream.connect(&scope).await?),
            None => None,
        };
        for round in 0..WARM_UP + ROUNDS {
            one(&ours, round, "ours", &mut samples.ours).await?;
            if let Some(theirs) = &theirs {
                one(theirs, round, "upstream's", &mut samples.upstream).await?;
            }
        }
        Ok(())
    })
}

async fn one(client: &Client, round: usize, whose: &str, rates: &mut Rates) -> anyhow::Result<()> {
    let [create, get, list] = requests(client, &format!("bench-{round}")).await?;
    if round < WARM_UP {
        return Ok(());
    }
    progress(&format!("{whose}: {create:.0} creates, {get:.0} gets, {list:.0} lists per second"));
    rates.create.push(create);
    rates.get.push(get);
    rates.list.push(list);
    Ok(())
}

async fn requests(client: &Client, namespace: &str) -> anyhow::Result<[f64; 3]> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": namespace}}))?).await?;
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let create = rate(OBJECTS, async |number| {
        let text = "x".repeat(1024);
        let object = object(json!({"metadata": {"name": name(number)}, "data": {"text": text}}))?;
        api.create(&PostParams::default(), &object).await?;
        Ok(())
    })
    .await?;
    let get = rate(OBJECTS, async |number| {
        api.get(&name(number)).await?;
        Ok(())
    })
    .await?;
    let path = format!("/api/v1/namespaces/{namespace}/configmaps");
    let list = rate(LISTS, async |_| {
        let answer = client.request_text(http::Request::get(&path).body(Vec::new())?).await?;
        anyhow::ensure!(answer.len() > OBJECTS * 1024, "a list of {} bytes lacks objects", answer.len());
        Ok(())
    })
    .await?;
    Ok([create, get, list])
}

fn name(number: usize) -> String {
    format!("object-{number:03}")
}

/// How many of `number` requests end in a second.
async fn rate(number: usize, request: impl AsyncFn(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let started = Instant::now();
    stream::iter(0..number)
        .map(|number| request(number))
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(number as f64 / started.elapsed().as_secs_f64())
}
