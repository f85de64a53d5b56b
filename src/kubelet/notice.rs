//! Notices what happens in the runtime: its events wake single pods, a slow list catches what they missed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    pods::PodUid,
    runtime::{PodSummary, Runtime, RuntimeEvent},
    worker::Bells,
};

/// Before the runtime is asked again for a stream that broke.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// Events about containers that nobody here made are looked up together.
const LOOK_UP: Duration = Duration::from_millis(500);

/// The newest list, for those who look for what nobody wants.
pub(crate) type Listed = watch::Sender<Arc<Vec<PodSummary>>>;

/// Runs until dropped.
pub(crate) async fn run<R: Runtime>(runtime: Arc<R>, bells: Bells, listed: Listed, relist: Duration) {
    let mut notice = Notice { runtime, bells, listed, relist, last: HashMap::new() };
    loop {
        // Subscribed first, listed then: nothing falls in between.
        match notice.runtime.events().await {
            Ok(events) => {
                info!("runtime events: subscribed");
                notice.list(true).await;
                notice.follow(events).await;
                warn!("runtime events: the stream ended");
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "runtime events: cannot subscribe"),
        }
        tokio::time::sleep(RESUBSCRIBE).await;
        notice.list(false).await;
    }
}

struct Notice<R> {
    runtime: Arc<R>,
    bells: Bells,
    listed: Listed,
    relist: Duration,
    last: HashMap<PodUid, PodSummary>,
}

impl<R: Runtime> Notice<R> {
    async fn follow(&mut self, mut events: futures_util::stream::BoxStream<'static, RuntimeEvent>) {
        let mut next_list = tokio::time::Instant::now() + self.relist;
        loop {
            let event = tokio::select! {
                event = events.next() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
                () = tokio::time::sleep_until(next_list) => None,
            };
            match event {
                Some(event) if self.tell(&event) => {}
                Some(_) => next_list = next_list.min(tokio::time::Instant::now() + LOOK_UP),
                None => {
                    self.list(false).await;
                    next_list = tokio::time::Instant::now() + self.relist;
                }
            }
        }
    }

    fn tell(&self, event: &RuntimeEvent) -> bool {
        debug!(?event, "runtime event");
        match event.pod.clone().or_else(|| self.bells.owner(&event.container)) {
            Some(uid) => {
                if event.exited {
                    self.bells.exited(&uid, &event.container);
                }
                self.bells.look(&uid)
            }
            None => false,
        }
    }

    /// Wakes the pods whose summary changed, or all of them: after a gap, anything may have happened.
    async fn list(&mut self, all: bool) {
        let pods = match self.runtime.list().await {
            Ok(pods) => pods,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot list pods of the runtime");
                return;
            }
        };
        for pod in &pods {
            let ids = pod.containers.iter().map(|(id, _)| id.as_str());
            let ids = ids.chain(pod.sandboxes.iter().map(|(id, _)| id.as_str()));
            self.bells.own(&pod.uid, ids);
        }
        let now: HashMap<PodUid, PodSummary> =
            pods.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
        if all {
            self.bells.look_all();
        } else {
            for uid in now.keys().chain(self.last.keys()) {
                if now.get(uid) != self.last.get(uid) {
                    self.bells.look(uid);
                }
            }
        }
        self.last = now;
        self.listed.send_replace(Arc::new(pods));
    }
}
