//! What the server asks of the node it runs on.

use std::sync::Arc;

use client::{ObjectKey, Store};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;

use crate::{
    pods::{self, PodUid},
    runtime::{ContainerId, CriRuntime, PodObservation, Runtime, RuntimeError, SandboxId},
};

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A stream that the runtime is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    Exec { container: ContainerId, command: Vec<String>, streams: Streams },
    Attach { container: ContainerId, streams: Streams },
    PortForward { sandbox: SandboxId, ports: Vec<i32> },
}

/// The node's pods and its runtime, to be read.
pub trait Host: Send + Sync + 'static {
    fn pods(&self) -> Vec<Arc<Pod>>;
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
    fn observe<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<PodObservation, RuntimeError>>;
    /// Where the runtime serves a stream, once.
    fn stream_url<'a>(&'a self, request: &'a StreamRequest) -> BoxFuture<'a, Result<String, RuntimeError>>;
}

/// [`Host`] with the API's pods of this node.
#[derive(Clone)]
pub struct NodeHost {
    pub runtime: Arc<CriRuntime>,
    pub pods: Store<Pod>,
}

impl std::fmt::Debug for NodeHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeHost")
    }
}

impl Host for NodeHost {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.list()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectKey::namespaced(namespace, name))
    }

    fn observe<'a>(&'a self, uid: &'a PodUid) -> BoxFuture<'a, Result<PodObservation, RuntimeError>> {
        Box::pin(self.runtime.observe(uid))
    }

    fn stream_url<'a>(&'a self, request: &'a StreamRequest) -> BoxFuture<'a, Result<String, RuntimeError>> {
        Box::pin(self.runtime.stream_url(request))
    }
}

/// The uid under which the runtime knows a pod: a static pod's is in its mirror.
pub(super) fn runtime_uid(pod: &Pod) -> PodUid {
    let hash = pods::annotation(pod, pods::annotations::CONFIG_HASH);
    match hash.filter(|_| pods::is_mirror(pod)) {
        Some(hash) => PodUid::from(hash),
        None => PodUid::of(pod),
    }
}
