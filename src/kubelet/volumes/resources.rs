//! All that a pod has on this node outside the runtime: its cgroup, its volumes, its containers' environment.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::{pods::Resources, quantity::Quantity};
use client::{Selector, Store};
use k8s_openapi::api::core::v1::{Container, Node, Pod, Service, Volume};
use lifecycle::{Scope, WorkError, Workers};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    mounts,
    objects::Watched,
    plan::{self, Medium, Shape},
    render,
    set_up::{self, Job, Work},
    sub_path,
    tokens::Tokens,
};
use crate::{
    agent::{Cluster, Seeds},
    cgroups::Cgroups,
    clock::Clock,
    config::KubeletConfig,
    env::{self, downward::Place, references},
    pods::{self, PodUid},
    worker::{
        NodeFacts,
        ports::{PodResources, PrepareError, PreparedContainer, PreparedPod, Waker},
    },
};

/// For all file systems of one pod together. What takes longer is left to end by itself, and found done or undone by
/// the next try.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a container waits for the node to learn of Services.
const SERVICES: Duration = Duration::from_secs(10);
/// Tokens live ten minutes at least, and are changed when a fifth of that is left.
const LOOK_AT_TOKENS: Duration = Duration::from_secs(30);

/// What it is made from.
#[derive(Clone)]
pub struct Parts {
    pub config: Arc<KubeletConfig>,
    /// Where cgroups are mounted: `/sys/fs/cgroup`.
    pub cgroup_mounts: PathBuf,
    /// `None`: static pods only, which refer to nothing.
    pub client: Option<kube::Client>,
    pub services: Option<Store<Service>>,
    pub node: Option<Store<Node>>,
    pub facts: watch::Receiver<NodeFacts>,
    pub waker: Waker,
    pub clock: Clock,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl Parts {
    /// Of an agent. Watches all Services, unless the process has them in `services` already.
    pub fn of(seeds: &Seeds, services: Option<Store<Service>>) -> Parts {
        let cluster = seeds.cluster.as_ref();
        let own = |cluster: &Cluster| client::reflect(&cluster.client, Selector::default(), &seeds.scope);
        let services = services.or_else(|| cluster.map(own));
        Parts {
            config: seeds.config.clone(),
            cgroup_mounts: "/sys/fs/cgroup".into(),
            client: cluster.map(|cluster| cluster.client.clone()),
            services,
            node: cluster.map(|cluster| cluster.node.clone()),
            facts: seeds.facts.clone(),
            waker: seeds.waker.clone(),
            clock: Clock::system(),
        }
    }
}

/// The node's own [`PodResources`].
#[derive(Debug)]
pub struct NodeResources {
    parts: Parts,
    cgroups: Mutex<Option<Arc<Cgroups>>>,
    watched: Watched,
    tokens: Tokens,
    /// One thread each: a pod whose file system hangs waits for itself alone.
    workers: Mutex<HashMap<PodUid, Workers>>,
}

impl NodeResources {
    pub fn new(parts: Parts, scope: &Scope) -> Arc<NodeResources> {
        let tokens = Tokens::new(parts.client.clone(), parts.clock.clone());
        let (refresh, waker, clock) = (tokens.clone(), parts.waker.clone(), parts.clock.clone());
        let token = scope.token();
        scope.spawn("tokens", async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = wake_for_tokens(&refresh, &waker, &clock) => {}
            }
        });
        Arc::new(NodeResources {
            watched: Watched::new(parts.client.clone(), parts.waker.clone(), scope),
            tokens,
            cgroups: Mutex::default(),
            workers: Mutex::default(),
            parts,
        })
    }

    /// Looked for when it is needed first: a host may mount them late.
    fn cgroups(&self) -> Result<Arc<Cgroups>, PrepareError> {
        let mut found = self.cgroups.lock();
        if let Some(cgroups) = &*found {
            return Ok(cgroups.clone());
        }
        let Parts { config, cgroup_mounts, .. } = &self.parts;
        let detected = Cgroups::of_node(cgroup_mounts, config);
        let cgroups =
            Arc::new(detected.map_err(|source| PrepareError::Host { operation: "find cgroups", source })?);
        *found = Some(cgroups.clone());
        Ok(cgroups)
    }

    async fn run<T: Send + 'static>(
        &self,
        uid: &PodUid,
        operation: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PrepareError> {
        let workers = self.workers.lock().entry(uid.clone()).or_insert_with(|| Workers::new(1)).clone();
        workers.run(operation, DEADLINE, work).await.map_err(|error| match error {
            WorkError::Busy { .. } | WorkError::Abandoned { .. } => PrepareError::TimedOut { operation },
            WorkError::Panicked { .. } => {
                PrepareError::Host { operation, source: io::Error::other(error.to_string()) }
            }
        })
    }

    fn pod_dir(&self, uid: &PodUid) -> Result<PathBuf, PrepareError> {
        let mut parts = Path::new(uid.as_str()).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(_)), None) => Ok(self.parts.config.pod_dir(uid)),
            // It names directories: one that is a path would name somebody else's.
            _ => Err(PrepareError::Host {
                operation: "find the pod's directory",
                source: io::Error::new(io::ErrorKind::InvalidInput, "the UID is no file name"),
            }),
        }
    }

    fn place(&self, pod_ips: &[IpAddr]) -> Place {
        Place {
            host_ips: self.parts.facts.borrow().addresses.clone(),
            pod_ips: pod_ips.to_vec(),
            allocatable: self.allocatable(),
        }
    }

    fn allocatable(&self) -> Option<Resources> {
        if let Some(node) = &self.parts.node {
            let node = node.get(&client::ObjectKey::cluster(&self.parts.config.node_name))?;
            return Some(api::pods::read_list(&node.status.as_ref()?.allocatable));
        }
        let memory = u64::try_from(self.parts.facts.borrow().memory_bytes).unwrap_or(0);
        let cpus = std::thread::available_parallelism().map_or(1, |it| i64::try_from(it.get()).unwrap_or(1));
        let cpu = Quantity::new(cpus, Default::default());
        Some(Resources::from([("cpu".into(), cpu), ("memory".into(), Quantity::from_bytes(memory))]))
    }

    /// Everything decided, nothing done.
    async fn job(&self, pod: &Pod, volume: &Volume, place: &Place) -> Result<Job, String> {
        let uid = PodUid::of(pod);
        let shape = plan::shape(volume).map_err(|error| error.to_string())?;
        let pod_dir = self.parts.config.pod_dir(&uid);
        let memory = place.allocatable.as_ref().and_then(|it| it.get("memory")).map(Quantity::value);
        let work = match &shape {
            Shape::Host { check, .. } => Work::Host(*check),
            Shape::Empty(medium) => {
                let bytes = match medium {
                    Medium::Disk => None,
                    Medium::Memory { size_limit } => plan::tmpfs_bytes(pod, *size_limit, memory),
                    Medium::HugePages { page_bytes } => {
                        Some(plan::page_bytes(pod, *page_bytes).map_err(|error| error.to_string())?)
                    }
                };
                let ready = plan::ready_file(&pod_dir, &volume.name);
                Work::Empty { medium: medium.clone(), bytes, ready }
            }
            Shape::Files { in_memory, .. } => Work::Files {
                payload: self.payload(pod, volume, place).await?,
                tmpfs: in_memory.then(|| plan::tmpfs_bytes(pod, None, memory)),
                nested: plan::nested(pod, &volume.name).into_iter().collect(),
            },
        };
        let dir = plan::directory(&pod_dir, &shape, &volume.name);
        Ok(Job { name: volume.name.clone(), dir, work, fs_group: plan::fs_group(pod) })
    }

    async fn payload(&self, pod: &Pod, volume: &Volume, place: &Place) -> Result<render::Payload, String> {
        let wanted = references::of_volume(volume);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let objects = self.watched.look_up(&PodUid::of(pod), namespace, &wanted).await;
        let objects = objects.map_err(|error| error.to_string())?;
        let mut tokens = BTreeMap::new();
        for spec in render::tokens(volume) {
            let token = self.tokens.token(pod, &spec).await;
            tokens.insert(spec, token);
        }
        let inputs = render::Inputs { pod, place, objects: &objects, tokens: &tokens };
        render::payload(&inputs, volume).map_err(|error| error.to_string())
    }

    async fn service_links(&self, pod: &Pod) -> Result<BTreeMap<String, String>, PrepareError> {
        let Some(services) = &self.parts.services else { return Ok(BTreeMap::new()) };
        let spec = pod.spec.as_ref();
        if !pods::is_static(pod) && tokio::time::timeout(SERVICES, services.wait_synced()).await.is_err() {
            let message = "services have not yet been read at least once, cannot construct envvars".into();
            return Err(PrepareError::Config { message });
        }
        let enabled = spec.and_then(|spec| spec.enable_service_links).unwrap_or(true);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        Ok(env::service_links(&services.list(), namespace, enabled))
    }

    async fn environment(
        &self,
        pod: &Pod,
        container: &Container,
        pod_ips: &[IpAddr],
    ) -> Result<Vec<(String, String)>, PrepareError> {
        let config = |message: String| PrepareError::Config { message };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let wanted = references::of_container(container);
        let objects = self.watched.look_up(&PodUid::of(pod), namespace, &wanted).await;
        let objects = objects.map_err(|error| config(error.to_string()))?;
        let services = self.service_links(pod).await?;
        let place = self.place(pod_ips);
        let inputs = env::Inputs { pod, container, place: &place, objects: &objects, services: &services };
        env::environment(&inputs).map_err(|error| config(error.to_string()))
    }
}

impl PodResources for NodeResources {
    async fn prepare(&self, pod: &Arc<Pod>) -> Result<PreparedPod, PrepareError> {
        let uid = PodUid::of(pod);
        let pod_dir = self.pod_dir(&uid)?;
        let cgroups = self.cgroups()?;
        let cgroup_parent = cgroups.parent(pod);
        let (for_cgroup, dir) = (pod.clone(), pod_dir.clone());
        let made = self.run(&uid, "make the pod's cgroup", move || {
            cgroups.prepare(&for_cgroup)?;
            set_up::pod_dirs(&dir)
        });
        made.await?.map_err(|source| PrepareError::Host { operation: "make the pod's cgroup", source })?;
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        self.watched.hold(&uid, namespace, &references::of_pod(pod));
        let place = self.place(&[]);
        let mut jobs = Vec::new();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let job = self.job(pod, volume, &place).await;
            let failed = |message| PrepareError::Volume { volume: volume.name.clone(), message };
            jobs.push(job.map_err(failed)?);
        }
        let volumes = jobs.iter().map(|job| (job.name.clone(), job.dir.clone())).collect();
        let set_up = self.run(&uid, "set up volumes", move || {
            jobs.iter().try_for_each(|job| match set_up::set_up(job) {
                Ok(_) => Ok(()),
                Err(error) => {
                    Err(PrepareError::Volume { volume: job.name.clone(), message: error.to_string() })
                }
            })
        });
        set_up.await??;
        let supplemental_groups = plan::fs_group(pod).map(i64::from).into_iter().collect();
        Ok(PreparedPod { cgroup_parent, volumes, supplemental_groups })
    }

    async fn container(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        prepared: &PreparedPod,
        pod_ips: &[IpAddr],
    ) -> Result<PreparedContainer, PrepareError> {
        let uid = PodUid::of(pod);
        let env = self.environment(pod, container, pod_ips).await?;
        let pod_dir = self.pod_dir(&uid)?;
        let planned = super::container_mounts::plan(pod, container, &prepared.volumes, &env, &pod_dir);
        let planned = planned.map_err(|error| PrepareError::Config { message: error.to_string() })?;
        let mut mounts = Vec::new();
        for (mut mount, sub_path) in planned {
            if let Some(part) = sub_path {
                let name = part.volume.clone();
                let prepared = self.run(&uid, "set up a sub path", move || sub_path::prepare(&part)).await?;
                // The reason could tell the pod about the host: it is for the log.
                mount.host_path = prepared.map_err(|error| {
                    tracing::warn!(%uid, volume = name, error = &error as &dyn std::error::Error, "cannot set up a sub path");
                    let container = &container.name;
                    let message = format!(
                        "failed to prepare subPath for volumeMount \"{name}\" of container \"{container}\""
                    );
                    PrepareError::Config { message }
                })?;
            }
            mounts.push(mount);
        }
        Ok(PreparedContainer { env, mounts, devices: Vec::new() })
    }

    async fn teardown(&self, uid: &PodUid) -> Result<(), PrepareError> {
        self.watched.release(uid);
        self.tokens.forget(uid);
        let (pod_dir, cgroups, own) = (self.pod_dir(uid)?, self.cgroups()?, uid.clone());
        let removed = self.run(uid, "tear down the pod", move || {
            let volumes = mounts::remove(&pod_dir);
            // Also after a failure: what still runs there may be why.
            let cgroup = cgroups.remove(&own);
            volumes.and(cgroup)
        });
        let removed = removed.await?;
        removed.map_err(|source| PrepareError::Host { operation: "tear down the pod", source })?;
        self.workers.lock().remove(uid);
        Ok(())
    }

    async fn leftovers(&self) -> Vec<PodUid> {
        let mut found = BTreeSet::new();
        let pods_dir = self.parts.config.root_dir.join("pods");
        if let Ok(mut entries) = tokio::fs::read_dir(pods_dir).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                found.insert(PodUid::from(&*entry.file_name().to_string_lossy()));
            }
        }
        if let Ok(cgroups) = self.cgroups() {
            match cgroups.list() {
                Ok(pods) => found.extend(pods),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot list cgroups");
                }
            }
        }
        found.into_iter().collect()
    }
}

/// The pods whose tokens grow old prepare again.
async fn wake_for_tokens(tokens: &Tokens, waker: &Waker, clock: &Clock) {
    loop {
        tokio::time::sleep(LOOK_AT_TOKENS).await;
        let now = clock.now();
        for (uid, due) in tokens.due() {
            if due <= now {
                waker.wake(&uid);
            }
        }
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
