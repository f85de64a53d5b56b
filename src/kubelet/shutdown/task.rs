//! The loop: waits for a shutdown, ends the pods, sees their statuses written, lets the machine go.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Node;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    FLUSH,
    logind::{self, Hold},
    plan::{self, Progress, Step},
};
use crate::{
    events::{self, EventType},
    pods::PodUid,
    runtime::Runtime,
    status::Outbox,
    worker::{Pool, Tools, ports::PodResources},
};

/// What a shutdown is carried out with.
pub(crate) struct Parts<R: Runtime, P: PodResources> {
    pub(crate) tools: Arc<Tools<R, P>>,
    pub(crate) pool: Pool<R, P>,
    /// `None`: there is no API to tell.
    pub(crate) outbox: Option<Outbox>,
}

/// Runs until dropped.
pub(crate) async fn run<R: Runtime, P: PodResources>(parts: Parts<R, P>) {
    let settings = &parts.tools.config.shutdown;
    if settings.periods.is_empty() {
        return std::future::pending().await;
    }
    let (hold, preparing) = (Hold::default(), watch::Sender::new(false));
    let seen = preparing.subscribe();
    tokio::join!(logind::attend(settings, hold.clone(), preparing), parts.follow(seen, &hold));
}

impl<R: Runtime, P: PodResources> Parts<R, P> {
    /// Does what the machine is about to: goes down with it, and comes back when that is cancelled.
    async fn follow(&self, mut preparing: watch::Receiver<bool>, hold: &Hold) {
        while preparing.wait_for(|preparing| *preparing).await.is_ok() {
            self.tools.going.announce(true);
            self.event("Shutdown manager detected shutdown event");
            tokio::select! {
                () = async { self.go_down(hold.available()).await; hold.release() } => {}
                // Those that were told end all the same.
                _ = preparing.wait_for(|preparing| !*preparing) => {}
            }
            if preparing.wait_for(|preparing| !*preparing).await.is_err() {
                return;
            }
            info!("the shutdown of the machine was cancelled");
            self.tools.going.announce(false);
            self.event("Shutdown manager detected shutdown cancellation");
            self.tools.bells.look_all();
        }
    }

    /// Resolves when the machine may go: in time, whatever pods and the API do.
    pub(crate) async fn go_down(&self, available: Duration) {
        let began = Instant::now();
        let periods = plan::fit(&self.tools.config.shutdown.periods, available);
        let (pods, total_s) = (self.pool.alive().len(), plan::total(&periods).as_secs());
        info!(pods, total_s, "the machine goes down: ending pods");
        let mut progress = Progress::new(periods);
        let mut told = BTreeSet::new();
        let mut changed = self.pool.progress();
        loop {
            changed.borrow_and_update();
            match progress.step(&self.pool.alive(), began.elapsed()) {
                Step::End { priority, pods } => {
                    info!(priority, pods = pods.len(), "ending pods from this priority on");
                    for (uid, grace_seconds) in pods {
                        self.pool.end(&uid, grace_seconds);
                        told.insert(uid);
                    }
                }
                Step::Wait { until } => tokio::select! {
                    _ = changed.changed() => {}
                    () = sleep_until(began + until) => {}
                },
                Step::Over => break,
            }
        }
        let all = timeout(FLUSH, self.settled(&told)).await.is_ok();
        let ended = told.iter().filter(|uid| !self.pool.is_alive(uid)).count();
        let written = told.iter().filter(|uid| self.is_written(uid)).count();
        let elapsed_ms = began.elapsed().as_millis();
        if all {
            info!(
                ended,
                written, elapsed_ms, "pods have ended and their statuses are written: the machine may go"
            );
        } else {
            let pods = told.len();
            warn!(
                pods,
                ended, written, elapsed_ms, "not all pods have ended with a written status: the machine goes"
            );
        }
    }

    /// Resolves once these have ended and the API knows how, and that the node is not ready.
    async fn settled(&self, told: &BTreeSet<PodUid>) {
        let mut changed = self.pool.progress();
        let landed = self.outbox.as_ref().map(Outbox::landings);
        while told.iter().any(|uid| self.pool.is_alive(uid)) {
            drop(changed.changed().await);
        }
        let (Some(_), Some(mut landed)) = (&self.outbox, landed) else { return };
        while !told.iter().all(|uid| self.is_written(uid)) {
            drop(landed.changed().await);
        }
        self.tools.going.wait_told(true).await;
    }

    fn is_written(&self, uid: &PodUid) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_written_end(uid))
    }

    fn event(&self, message: &str) {
        let mut node = Node::default();
        node.metadata.name = Some(self.tools.config.node_name.clone());
        let about = events::of_node(&node);
        self.tools.events.event(&about, EventType::Normal, events::NODE_SHUTDOWN, message.into());
    }
}
