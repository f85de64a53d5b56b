//! The loop: look at the node, tell workers and the API.

use std::{net::IpAddr, sync::Arc, time::Duration};

use client::Store;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use lifecycle::Workers;
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tracing::{info, warn};

use super::{
    object::{self, Facts},
    observe::{self, Machine, Observed},
};
use crate::{
    agent::address_towards,
    config::KubeletConfig,
    events::{self, EventSink, EventType},
    runtime::Runtime,
    shutdown::Going,
    worker::NodeFacts,
};

/// While the node is not ready, it is looked at this often: nothing announces that CNI has come.
const UNREADY: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);

/// What the node is looked at and told through.
pub struct Host<R> {
    pub config: Arc<KubeletConfig>,
    pub runtime: Arc<R>,
    pub events: Arc<dyn EventSink>,
    /// `None`: standalone, nobody to tell.
    pub cluster: Option<(Client, Store<Node>)>,
    pub facts: watch::Sender<NodeFacts>,
    pub going: Going,
}

impl<R> std::fmt::Debug for Host<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Host")
    }
}

/// Runs until dropped.
pub async fn run<R: Runtime>(host: Host<R>) {
    let mut task = Task {
        machine: observe::machine(),
        addresses: addresses(&host.config),
        workers: Workers::new(4),
        changes: host.going.changes(),
        host,
        registered: false,
        published: None,
        was_ready: None,
    };
    loop {
        let going_down = *task.changes.borrow_and_update();
        let observed = observe::observe(&task.host.runtime, &task.workers, &task.host.config.root_dir).await;
        task.tell_workers(&observed);
        let published = task.publish(&observed, going_down).await;
        if published {
            task.host.going.told(going_down);
        }
        let ready = observed.health.as_ref().is_some_and(|health| health.runtime.ok && health.network.ok);
        let wait = match (published, ready) {
            (false, _) => RETRY,
            (true, false) => UNREADY,
            (true, true) => task.host.config.node_status_update,
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = task.changes.changed() => {}
        }
    }
}

struct Task<R> {
    host: Host<R>,
    changes: watch::Receiver<bool>,
    machine: Machine,
    addresses: Vec<IpAddr>,
    workers: Workers,
    registered: bool,
    published: Option<(Instant, NodeStatus)>,
    was_ready: Option<bool>,
}

impl<R: Runtime> Task<R> {
    fn tell_workers(&self, observed: &Observed) {
        let version = observed.version.as_ref();
        let known = self.host.facts.borrow().runtime_name.clone();
        let resolv = self.host.config.resolv_conf.as_ref();
        let facts = NodeFacts {
            addresses: self.addresses.clone(),
            memory_bytes: self.machine.memory_bytes,
            runtime_name: version.map_or(known, |version| version.name.clone()),
            network_error: object::network_error(observed),
            resolv_conf: resolv.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default(),
            hosts_file: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        };
        self.host.facts.send_if_modified(|told| {
            let new = *told != facts;
            *told = facts;
            new
        });
    }

    /// False: try again soon.
    async fn publish(&mut self, observed: &Observed, going_down: bool) -> bool {
        let Some((client, store)) = self.host.cluster.clone() else { return true };
        let api: Api<Node> = Api::all(client);
        let name = self.host.config.node_name.clone();
        if !self.registered {
            match self.register(&api, observed, going_down).await {
                Ok(()) => self.registered = true,
                Err(error) => {
                    warn!(node = name, error = &error as &dyn std::error::Error, "cannot register the node");
                    return false;
                }
            }
        }
        let shown = store.get(&client::ObjectKey::cluster(&name));
        let conditions = self.shown_conditions(shown.as_deref());
        let status = object::status(&self.facts(observed, going_down), &conditions);
        let due = match &self.published {
            None => true,
            Some((at, before)) => {
                at.elapsed() >= self.host.config.node_status_report
                    || without_heartbeats(before) != without_heartbeats(&status)
                    || shown.as_deref().is_some_and(|shown| object::contradicts(shown, &status))
            }
        };
        if !due {
            return true;
        }
        let patch = json!({"status": patch(&status, shown.as_deref())});
        match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
            Ok(_) => {
                self.tell_transition(&status);
                self.published = Some((Instant::now(), status));
                true
            }
            Err(kube::Error::Api(error)) if error.code == 404 => {
                // Somebody deleted the node: it comes back.
                self.registered = false;
                false
            }
            Err(error) => {
                warn!(
                    node = name,
                    error = &error as &dyn std::error::Error,
                    "cannot publish the node's status"
                );
                false
            }
        }
    }

    fn facts<'a>(&'a self, observed: &'a Observed, going_down: bool) -> Facts<'a> {
        Facts {
            config: &self.host.config,
            machine: &self.machine,
            observed,
            addresses: &self.addresses,
            going_down,
            now: Timestamp::now(),
        }
    }

    /// Those we published last, unless the API shows others (a node that was silent is marked Unknown).
    fn shown_conditions(&self, shown: Option<&Node>) -> Vec<NodeCondition> {
        let of_api = shown.and_then(|node| node.status.as_ref()?.conditions.clone()).unwrap_or_default();
        match self.published.as_ref().and_then(|(_, status)| status.conditions.clone()) {
            Some(ours) => object::newest_conditions(ours, &of_api),
            None => of_api,
        }
    }

    async fn register(
        &mut self,
        api: &Api<Node>,
        observed: &Observed,
        going_down: bool,
    ) -> Result<(), kube::Error> {
        let node = object::node(&self.facts(observed, going_down));
        let name = self.host.config.node_name.clone();
        self.published = None;
        if self.host.config.register_node {
            match api.create(&PostParams::default(), &node).await {
                Ok(_) => {
                    info!(node = name, "node registered");
                    self.event(EventType::Normal, events::STARTING, "Starting kubelet.".into());
                    return Ok(());
                }
                Err(kube::Error::Api(error)) if error.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
        let known = api.get(&name).await?;
        self.event(EventType::Normal, events::STARTING, "Starting kubelet.".into());
        let boot_id =
            known.status.as_ref().and_then(|status| status.node_info.as_ref()).map(|info| &info.boot_id);
        if boot_id.is_some_and(|boot_id| !boot_id.is_empty() && *boot_id != self.machine.boot_id) {
            let message = format!("Node {name} has been rebooted, boot id: {}", self.machine.boot_id);
            self.event(EventType::Warning, events::REBOOTED, message);
        }
        let labels = object::lost_labels(&self.host.config, &known.metadata.labels.unwrap_or_default());
        if !labels.is_empty() {
            let patch = json!({"metadata": {"labels": labels}});
            api.patch(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await?;
        }
        info!(node = name, "node was registered before");
        Ok(())
    }

    fn tell_transition(&mut self, status: &NodeStatus) {
        let ready = status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True");
        if self.was_ready.replace(ready) == Some(ready) {
            return;
        }
        let reason = if ready { events::NODE_READY } else { events::NODE_NOT_READY };
        let name = &self.host.config.node_name;
        self.event(EventType::Normal, reason, format!("Node {name} status is now: {reason}"));
    }

    fn event(&self, kind: EventType, reason: &'static str, message: String) {
        let mut node = Node::default();
        node.metadata.name = Some(self.host.config.node_name.clone());
        self.host.events.event(&events::of_node(&node), kind, reason, message);
    }
}

/// The addresses are merged by type: those that went must be named.
fn patch(status: &NodeStatus, shown: Option<&Node>) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    let types: Vec<&str> = status.addresses.iter().flatten().map(|address| address.type_.as_str()).collect();
    let shown = shown.and_then(|node| node.status.as_ref()?.addresses.clone()).unwrap_or_default();
    if let Some(addresses) = value.get_mut("addresses").and_then(|it| it.as_array_mut()) {
        for gone in shown.iter().filter(|shown| !types.contains(&shown.type_.as_str())) {
            addresses.push(json!({"$patch": "delete", "type": gone.type_}));
        }
    }
    value
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

fn addresses(config: &KubeletConfig) -> Vec<IpAddr> {
    if !config.node_ips.is_empty() {
        return config.node_ips.clone();
    }
    let found = config.api_server.map(address_towards);
    match found {
        Some(Ok(ip)) => vec![ip],
        Some(Err(error)) => {
            warn!(error = &error as &dyn std::error::Error, "no route to the API server");
            Vec::new()
        }
        None => Vec::new(),
    }
}
