//! How long a pod waits for its network, beside upstream's plugins, and what its packets lose on the way to another node.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::ListParams};
use lifecycle::Scope;
use network::cni::{Attachment, AttachmentId, Cache, Chain, NetworkList, Processes};
use serde_json::json;

use crate::{
    Report,
    blast::blast,
    hosts::{Host, Link, text},
    inside::{connect, eventually, inside, milliseconds, namespace},
    progress, ready,
    report::results::{Aim, Title, Unit},
};

const PODS: usize = 20;
const BLASTS: usize = 5;
const BLAST: Duration = Duration::from_secs(2);
/// Where Debian has upstream's plugins.
const PLUGINS: &str = "/usr/lib/cni";

const ADD: Title = Title {
    name: "network-add",
    what: "pod network: ADD",
    how: "What a container runtime does for a new pod with one host port: the plugins of a network started one after the \
          other, from before the first to the result of the last. Ours is the plugin that `coracle up` puts into the \
          runtime's folder, with the agent at work behind it; in turns with upstream's bridge, host-local and portmap, for \
          the same network namespace, by the same engine.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMostTimes(0.1)),
};

const DEL: Title = Title {
    name: "network-del",
    what: "pod network: DEL",
    how: "The same pods' networks taken away, one after the other, in turns with upstream's plugins.",
    unit: Unit::Milliseconds,
    aim: Some(Aim::AtMostTimes(0.1)),
};

const ACROSS: Title = Title {
    name: "network-throughput-across-nodes",
    what: "throughput between pods of two nodes on one link",
    how: "One TCP connection for 2 s, from a pod of one node to a pod of the other; counted where it arrives. In turns with \
          the same from node to node: the veth link between them, without pods. Both ends are on the same cores.",
    unit: Unit::GigabitsPerSecond,
    aim: None,
};

#[derive(Default)]
struct Samples {
    add: [Vec<f64>; 2],
    del: [Vec<f64>; 2],
    across: [Vec<f64>; 2],
}

pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let mut samples = Samples::default();
    let link = Link::new("benchnetwork");
    let mut a = Host::on(&link, "a", 1);
    ready::start(&mut a)?;
    let outcome = plugins(&a, &mut samples).and_then(|()| {
        let mut b = Host::on(&link, "b", 2);
        join(&a, &mut b)?;
        across(&a, &b, &mut samples)
    });
    let theirs = "bridge, host-local, portmap";
    report.extend(ADD.measured(&samples.add[0], Some((theirs, &samples.add[1]))));
    report.extend(DEL.measured(&samples.del[0], Some((theirs, &samples.del[1]))));
    report.extend(ACROSS.measured(&samples.across[0], Some(("node to node", &samples.across[1]))));
    outcome
}

fn plugins(host: &Host, samples: &mut Samples) -> anyhow::Result<()> {
    let pods: Vec<Place> =
        (0..PODS).map(|number| Place::new(&format!("pod{number}"))).collect::<Result<_, _>>()?;
    let chains = [ours(host)?, upstreams(host)?];
    inside(host, async || {
        for (number, pod) in pods.iter().enumerate() {
            let attachment = pod.attachment(9000 + number);
            for (side, chain) in chains.iter().enumerate() {
                let started = Instant::now();
                chain.add(&attachment).await?;
                let added = Instant::now();
                chain.del(&attachment).await?;
                samples.add[side].push(milliseconds(added - started));
                samples.del[side].push(milliseconds(added.elapsed()));
            }
        }
        Ok(())
    })?;
    progress(&format!("{PODS} networks were made and taken away on either side"));
    Ok(())
}

/// The network that the runtime of this host is offered.
fn ours(host: &Host) -> anyhow::Result<Chain<Processes>> {
    let folder = PathBuf::from(host.run()).join("cni");
    let list = NetworkList::load(&folder.join("net.d/99-coracle.conflist"))?;
    Ok(chain(host, list, folder.join("bin")))
}

fn upstreams(host: &Host) -> anyhow::Result<Chain<Processes>> {
    let leases = PathBuf::from(host.state()).join("host-local");
    let list = json!({"cniVersion": "1.0.0", "name": "bridged", "plugins": [
        {"type": "bridge", "bridge": "br0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": leases, "ranges": [[{"subnet": "10.99.0.0/24"}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    Ok(chain(host, NetworkList::parse(&list.to_string(), Path::new("bridged"))?, PLUGINS.into()))
}

fn chain(host: &Host, list: NetworkList, binaries: PathBuf) -> Chain<Processes> {
    let results = PathBuf::from(host.state()).join("bench-results");
    Chain::new(
        list,
        Cache::new(results),
        Processes { dirs: vec![binaries], deadline: Duration::from_secs(30) },
    )
}

fn join(a: &Host, b: &mut Host) -> anyhow::Result<()> {
    let output = a.coracle(&["token", "create"]).output()?;
    ensure!(output.status.success(), "{}", text(&output));
    let line = String::from_utf8(output.stdout)?;
    b.start_as(&line.trim().split(' ').skip(1).collect::<Vec<_>>());
    inside(a, async || {
        let nodes: Api<Node> = Api::all(connect(a, &Scope::root("bench"))?);
        eventually("the second node has a range for pods", async || {
            let nodes = nodes.list(&ListParams::default()).await?;
            let ranges = nodes
                .items
                .iter()
                .filter(|node| node.spec.as_ref().is_some_and(|spec| spec.pod_cidr.is_some()));
            Ok((ranges.count() == 2).then_some(()))
        })
        .await
    })
}

fn across(a: &Host, b: &Host, samples: &mut Samples) -> anyhow::Result<()> {
    let (near, far) = (Place::new("near")?, Place::new("far")?);
    attach(a, &near)?;
    let pod = attach(b, &far)?;
    let (near_node, far_node, node) = (namespace(a)?, namespace(b)?, b.address().parse()?);
    for round in 0..BLASTS {
        let pods = blast(&near.path, &far.path, pod, BLAST)?;
        let nodes = blast(&near_node, &far_node, node, BLAST)?;
        progress(&format!(
            "throughput {} of {BLASTS}: {pods:.1} Gbit/s between pods, {nodes:.1} between nodes",
            round + 1
        ));
        samples.across[0].push(pods);
        samples.across[1].push(nodes);
    }
    Ok(())
}

/// Gives the place the host's pod network, once that is offered; the address.
fn attach(host: &Host, place: &Place) -> anyhow::Result<IpAddr> {
    inside(host, async || {
        eventually("the pod network takes pods", async || {
            let result = ours(host)?.add(&place.attachment(9100)).await?;
            let ip = result.ips.first().ok_or_else(|| anyhow!("a pod without an address"))?;
            Ok(Some(ip.address.addr()))
        })
        .await
    })
}

/// A network namespace such as a runtime makes for a pod.
struct Place {
    name: String,
    path: PathBuf,
}

impl Place {
    fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("coracle-bench-{}-{name}", std::process::id());
        let output = Command::new("ip").args(["netns", "add", &name]).output()?;
        ensure!(output.status.success(), "{}", text(&output));
        let path = Path::new("/run/netns").join(&name);
        fs::metadata(&path).context("a network namespace that was just made")?;
        Ok(Self { name, path })
    }

    fn attachment(&self, host_port: usize) -> Attachment {
        let ports = json!([{"hostPort": host_port, "containerPort": 80, "protocol": "tcp"}]);
        Attachment {
            id: AttachmentId { container_id: self.name.clone(), ifname: "eth0".into() },
            netns: self.path.display().to_string(),
            args: String::new(),
            capabilities: [("portMappings".to_string(), ports)].into_iter().collect(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(Command::new("ip").args(["netns", "del", &self.name]).output());
    }
}
