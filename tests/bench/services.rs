//! How soon a new Service, or a new endpoint of one, is reachable on a node that has 1,000 others.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use client::Client;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use serde_json::json;

use crate::{
    Report,
    hosts::Host,
    inside::{DEADLINE, connect, eventually, inside, milliseconds, object},
    pods, progress, ready,
    report::results::{Aim, Title, Unit},
};

const SERVICES: usize = 1000;
const ROUNDS: usize = 20;
const SERVICE_PORT: u16 = 80;
const POD_PORT: u16 = 8080;

const SERVICE_ADDED: Title = Title {
    name: "service-added-to-first-connection",
    what: "Service added, with 1,000 present: to first connection",
    how: "The Service's EndpointSlice is there and names a pod that listens. From before the POST of the Service until a \
          TCP connection to its ClusterIP from the node is established, tried anew every 2 ms. The 1,000 other Services \
          have an endpoint each.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMost(50.0)),
};

const ENDPOINT_READY: Title = Title {
    name: "endpoint-ready-to-first-connection",
    what: "endpoint ready, with 1,000 Services present: to first connection",
    how: "The Service is there without endpoints, and refuses. From before the POST of its first EndpointSlice with a \
          ready endpoint until a TCP connection to its ClusterIP from the node is established.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMost(50.0)),
};

#[derive(Default)]
struct Samples {
    service_added: Vec<f64>,
    endpoint_ready: Vec<f64>,
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let mut host = Host::new("benchservices");
    ready::start(&mut host)?;
    let outcome = inside(&host, async || rounds(&host, &mut samples).await);
    report.extend(SERVICE_ADDED.measured(&samples.service_added, None));
    report.extend(ENDPOINT_READY.measured(&samples.endpoint_ready, None));
    outcome
}

async fn rounds(host: &Host, samples: &mut Samples) -> anyhow::Result<()> {
    let cluster = Cluster::new(connect(host, &Scope::root("bench"))?).await?;
    let others = cluster.fill().await?;
    for round in 0..ROUNDS {
        let service_added = cluster.service_added(&format!("service-{round}")).await?;
        let endpoint_ready = cluster.endpoint_ready(&format!("endpoint-{round}")).await?;
        progress(&format!(
            "Service {} of {ROUNDS}: reachable after {service_added:.1} ms, its endpoint after {endpoint_ready:.1} ms",
            round + 1
        ));
        samples.service_added.push(service_added);
        samples.endpoint_ready.push(endpoint_ready);
    }
    // The number that the table names was really there.
    let services = cluster.services.list(&kube::api::ListParams::default()).await?;
    if services.items.len() < others {
        bail!("{} Services are there of {others}", services.items.len());
    }
    Ok(())
}

struct Cluster {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
    endpoint: IpAddr,
}

impl Cluster {
    /// With one pod that listens.
    async fn new(client: Client) -> anyhow::Result<Self> {
        pods::prepare(&client).await?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let pod = object(json!({
            "metadata": {"name": "listener"},
            "spec": {"containers": [{
                "name": "main",
                "image": "coracle.dev/demo:1",
                "readinessProbe": {"tcpSocket": {"port": POD_PORT}, "periodSeconds": 1},
            }]},
        }))?;
        pods.create(&PostParams::default(), &pod).await?;
        let endpoint = eventually("the pod that listens is Ready", async || {
            let pod = pods.get("listener").await?;
            if !pods::is_ready(&pod) {
                return Ok(None);
            }
            Ok(pod.status.and_then(|status| status.pod_ip))
        })
        .await?;
        Ok(Self {
            services: Api::namespaced(client.clone(), "default"),
            slices: Api::namespaced(client, "default"),
            endpoint: endpoint.parse().context("the pod's address")?,
        })
    }

    /// Makes the Services that are only there, and waits until they work. Returns their number.
    async fn fill(&self) -> anyhow::Result<usize> {
        let started = Instant::now();
        let addresses: Vec<SocketAddr> = stream::iter(0..SERVICES)
            .map(|number| async move {
                let name = format!("other-{number}");
                self.add_slice(&name).await?;
                self.add_service(&name).await
            })
            .buffer_unordered(8)
            .try_collect()
            .await?;
        for address in &addresses {
            connected(*address).await?;
        }
        progress(&format!(
            "{SERVICES} Services are there and work after {:.1} s",
            started.elapsed().as_secs_f64()
        ));
        Ok(addresses.len())
    }

    async fn service_added(&self, name: &str) -> anyhow::Result<f64> {
        self.add_slice(name).await?;
        let started = Instant::now();
        let address = self.add_service(name).await?;
        let established = connected(address).await?;
        Ok(milliseconds(established - started))
    }

    async fn endpoint_ready(&self, name: &str) -> anyhow::Result<f64> {
        let address = self.add_service(name).await?;
        refused(address).await?;
        let started = Instant::now();
        let (_, established) = tokio::try_join!(self.add_slice(name), connected(address))?;
        Ok(milliseconds(established - started))
    }

    /// Without a selector: its endpoints are ours to write.
    async fn add_service(&self, name: &str) -> anyhow::Result<SocketAddr> {
        let service = object(json!({
            "metadata": {"name": name},
            "spec": {"ports": [{"port": SERVICE_PORT, "targetPort": POD_PORT}]},
        }))?;
        let made: Service = self.services.create(&PostParams::default(), &service).await?;
        let address = made.spec.and_then(|spec| spec.cluster_ip);
        let address = address.ok_or_else(|| anyhow!("Service {name} got no address"))?;
        Ok(SocketAddr::new(address.parse()?, SERVICE_PORT))
    }

    async fn add_slice(&self, name: &str) -> anyhow::Result<()> {
        let slice = object(json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/service-name": name,
                "endpointslice.kubernetes.io/managed-by": "bench.coracle.dev",
            }},
            "addressType": "IPv4",
            "ports": [{"port": POD_PORT, "protocol": "TCP", "name": ""}],
            "endpoints": [{"addresses": [self.endpoint.to_string()], "conditions": {"ready": true}}],
        }))?;
        self.slices.create(&PostParams::default(), &slice).await?;
        Ok(())
    }
}

/// When a connection was established; tries until then.
async fn connected(address: SocketAddr) -> anyhow::Result<Instant> {
    try_until(address, "takes connections", |attempt| attempt.is_ok()).await
}

/// When a connection was refused: the node knows the Service and that it has no endpoint.
async fn refused(address: SocketAddr) -> anyhow::Result<Instant> {
    let is_refused = |attempt: &std::io::Result<TcpStream>| {
        attempt.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    };
    try_until(address, "refuses connections", is_refused).await
}

/// Tries on a thread of its own (which is in the host's network namespace, as all of the runtime's).
/// An attempt is given up after 2 ms: without rules its SYN leaves to nobody, and the kernel would
/// send it again only after a second.
async fn try_until(
    address: SocketAddr,
    what: &str,
    is: impl Fn(&std::io::Result<TcpStream>) -> bool + Send + 'static,
) -> anyhow::Result<Instant> {
    let attempts = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if is(&TcpStream::connect_timeout(&address, Duration::from_millis(2))) {
                return Some(Instant::now());
            }
            thread::sleep(Duration::from_micros(500));
        }
        None
    });
    let seen = attempts.await?;
    seen.ok_or_else(|| anyhow!("not within {} s: {address} {what}", DEADLINE.as_secs()))
}
