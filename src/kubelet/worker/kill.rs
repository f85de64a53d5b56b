//! Ends containers: the hook first, then a signal, then force, within one grace period.

use std::{collections::HashSet, net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tracing::warn;

use super::{
    hooks,
    plan::{Kill, KillReason},
    ports::PodResources,
    tools::Tools,
};
use crate::{
    events::{self, EventType},
    pods,
    runtime::{ContainerId, ObservedContainer, PodObservation, Runtime, RuntimeError},
};

/// Every container gets at least this long, so that none is killed without a signal.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Containers whose preStop hook was begun: it runs once, however often the ending is begun anew.
pub type Hooked = Arc<Mutex<HashSet<ContainerId>>>;

/// One container to end.
#[derive(Debug)]
pub struct Target<'a> {
    pub pod: &'a Pod,
    /// `None` for a container that no spec knows any more: it has no hooks.
    pub container: Option<&'a Container>,
    pub id: &'a ContainerId,
    pub grace: Duration,
    pub message: String,
    pub pod_ip: Option<IpAddr>,
}

/// Ends every container of the pod that may be alive, all at once; sidecars wait for those they serve.
pub async fn kill_all<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    pod: &Pod,
    observed: &PodObservation,
    grace: Duration,
    hooked: &Hooked,
) -> Result<(), RuntimeError> {
    let alive: Vec<&ObservedContainer> = observed.containers.iter().filter(|it| it.may_run()).collect();
    let order = Order::new(pod, &alive);
    let pod_ip = observed.sandboxes.iter().find_map(|sandbox| sandbox.ips.first().copied());
    let kills = alive.iter().map(|container| {
        let order = &order;
        async move {
            let turn = order.wait_for_turn(&container.name, grace).await;
            let spec = pods::container(pod, &container.name);
            let target = Target {
                pod,
                container: spec.as_deref(),
                id: &container.id,
                grace: grace.saturating_sub(turn),
                message: format!("Stopping container {}", container.name),
                pod_ip,
            };
            let result = kill(tools, &target, hooked).await;
            order.ended(&container.name);
            result
        }
    });
    join_all(kills).await.into_iter().collect()
}

/// The grace of a single container that must go while its pod stays.
pub fn grace_of(pod: &Pod, kill: &Kill) -> Duration {
    let seconds = match kill.reason {
        KillReason::Probe(_, Some(own)) if pod.metadata.deletion_grace_period_seconds.is_none() => own,
        _ => pods::grace_seconds(pod),
    };
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

pub async fn kill<R: Runtime, P: PodResources>(
    tools: &Tools<R, P>,
    target: &Target<'_>,
    hooked: &Hooked,
) -> Result<(), RuntimeError> {
    let about = match target.container {
        Some(container) => events::of_container(target.pod, container),
        None => events::of_pod(target.pod),
    };
    let first = hooked.lock().insert(target.id.clone());
    let began = Instant::now();
    if first {
        tools.events.event(&about, EventType::Normal, events::KILLING, target.message.clone());
        let hook = target.container.and_then(|container| container.lifecycle.as_ref()?.pre_stop.as_ref());
        if let (Some(container), Some(hook)) = (target.container, hook)
            && !target.grace.is_zero()
        {
            let run = hooks::run(&*tools.runtime, target.id, container, hook, target.pod_ip);
            match tokio::time::timeout(target.grace, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(
                        container = container.name,
                        error = &error as &dyn std::error::Error,
                        "preStop hook failed"
                    );
                    let message = "PreStopHook failed".to_string();
                    tools.events.event(&about, EventType::Warning, events::FAILED_PRE_STOP, message);
                }
                Err(_) => {
                    warn!(container = container.name, "preStop hook did not end within the grace period")
                }
            }
        }
    }
    let left = target.grace.saturating_sub(began.elapsed()).max(LEAST_GRACE);
    tools.runtime.stop_container(target.id, left).await
}

/// Who ends before whom: main containers first, then sidecars, the last one of the spec first.
struct Order {
    main: Vec<String>,
    sidecars: Vec<String>,
    ended: watch::Sender<HashSet<String>>,
}

impl Order {
    fn new(pod: &Pod, alive: &[&ObservedContainer]) -> Order {
        let alive = |container: &&Container| alive.iter().any(|it| it.name == container.name);
        let name = |container: &Container| container.name.clone();
        let sidecars = pods::init_containers(pod).iter().filter(|it| pods::is_sidecar(it));
        Order {
            main: pods::containers(pod).iter().filter(alive).map(name).collect(),
            sidecars: sidecars.filter(alive).map(name).collect(),
            ended: watch::Sender::default(),
        }
    }

    /// Waits until everything that must end before `name` has; at most `grace`. Returns how long it took.
    async fn wait_for_turn(&self, name: &str, grace: Duration) -> Duration {
        let began = Instant::now();
        let Some(at) = self.sidecars.iter().position(|it| it == name) else { return Duration::ZERO };
        let later = &self.sidecars[at + 1..];
        let mut ended = self.ended.subscribe();
        let turn = ended.wait_for(|ended| self.main.iter().chain(later).all(|it| ended.contains(it)));
        // Out of time: everybody at once.
        drop(tokio::time::timeout(grace, turn).await);
        began.elapsed()
    }

    fn ended(&self, name: &str) {
        self.ended.send_modify(|ended| {
            ended.insert(name.to_string());
        });
    }
}
