//! What the workers of one node share.

use std::{net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use super::{
    bells::Bells,
    ports::{PodResources, Probes},
};
use crate::{
    clock::Clock, config::KubeletConfig, events::EventSink, images::Images, pods::PodUid, runtime::Runtime,
    runtime_class::RuntimeClasses, shutdown::Going,
};

pub struct Tools<R: Runtime, P: PodResources> {
    pub runtime: Arc<R>,
    pub resources: Arc<P>,
    pub probes: Arc<dyn Probes>,
    pub images: Arc<Images<R>>,
    pub runtime_classes: Arc<dyn RuntimeClasses>,
    pub statuses: Arc<dyn StatusSink>,
    pub events: Arc<dyn EventSink>,
    pub config: Arc<KubeletConfig>,
    pub node: watch::Receiver<NodeFacts>,
    pub going: Going,
    pub clock: Clock,
    pub bells: Bells,
}

impl<R: Runtime, P: PodResources> std::fmt::Debug for Tools<R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tools")
    }
}

/// What workers know of their node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub addresses: Vec<IpAddr>,
    pub memory_bytes: i64,
    /// `containerd`, `cri-o`: the scheme of container ids in the API.
    pub runtime_name: String,
    /// Why pods on the pod network cannot start now.
    pub network_error: Option<String>,
    /// The host's resolv.conf and hosts file, as they were when the agent looked last.
    pub resolv_conf: String,
    pub hosts_file: String,
}

/// Where statuses go. Never blocks.
pub trait StatusSink: Send + Sync + 'static {
    /// The newest status of this pod; those before it that were not sent are forgotten.
    fn publish(&self, pod: &Arc<Pod>, status: &PodStatus);
    /// Nothing of the pod is left on the node: its API object may go, once its last status is there.
    fn delete(&self, pod: &Arc<Pod>);
    /// The node has no more to say of it.
    fn forget(&self, uid: &PodUid);
}
