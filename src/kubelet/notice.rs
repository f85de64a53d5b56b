//! Notices what happens in the runtime: its events wake single pods, a slow list catches what they missed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use lifecycle::Backoff;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    pods::PodUid,
    runtime::{PodSummary, Runtime, RuntimeError, RuntimeEvent},
    worker::Bells,
};

/// Before the runtime is asked again for a stream that broke.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// Events about containers that nobody here made are looked up together.
const LOOK_UP: Duration = Duration::from_millis(500);
/// After a list that failed: nothing is known of what runs until one succeeds.
const LIST_AGAIN: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(30));

/// The newest list, for those who look for what nobody wants; `None` before the first.
pub(crate) type Listed = watch::Sender<Option<Arc<Vec<PodSummary>>>>;

type Events = BoxStream<'static, RuntimeEvent>;
type List = Result<Vec<PodSummary>, RuntimeError>;

/// Runs until dropped. Subscribes and lists side by side: a runtime on which nothing happens may take for ever to
/// answer a subscription, and is listed all the same.
pub(crate) async fn run<R: Runtime>(runtime: Arc<R>, bells: Bells, listed: Listed, relist: Duration) {
    let mut notice = Notice {
        runtime,
        bells,
        listed,
        relist,
        last: HashMap::new(),
        next_list: Instant::now(),
        listing: FuturesUnordered::new(),
        list_again: false,
        look_all: false,
        failures: 0,
    };
    notice.list();
    let mut stream = Stream::Opening(notice.subscribe(Duration::ZERO));
    loop {
        let happened = tokio::select! {
            happened = stream.next() => happened,
            Some(list) = notice.listing.next() => Happened::Listed(list),
            () = tokio::time::sleep_until(notice.next_list) => Happened::Due,
        };
        match happened {
            Happened::Open(events) => {
                info!("runtime events: subscribed");
                // Listed from now on: nothing falls in between.
                notice.look_all = true;
                notice.list();
                stream = Stream::Open(events);
            }
            Happened::Broken(error) => {
                match error {
                    Some(error) => {
                        warn!(error = &error as &dyn std::error::Error, "runtime events: cannot subscribe");
                    }
                    None => warn!("runtime events: the stream ended"),
                }
                stream = Stream::Opening(notice.subscribe(RESUBSCRIBE));
                // In place of the events.
                notice.sooner(RESUBSCRIBE);
            }
            Happened::Event(event) => {
                if !notice.tell(&event) {
                    notice.sooner(LOOK_UP);
                }
            }
            Happened::Listed(list) => notice.listed(list),
            Happened::Due => notice.list(),
        }
    }
}

enum Stream {
    Opening(BoxFuture<'static, Result<Events, RuntimeError>>),
    Open(Events),
}

impl Stream {
    async fn next(&mut self) -> Happened {
        match self {
            Stream::Opening(opening) => match opening.await {
                Ok(events) => Happened::Open(events),
                Err(error) => Happened::Broken(Some(error)),
            },
            Stream::Open(events) => events.next().await.map_or(Happened::Broken(None), Happened::Event),
        }
    }
}

enum Happened {
    Open(Events),
    Broken(Option<RuntimeError>),
    Event(RuntimeEvent),
    Listed(List),
    Due,
}

struct Notice<R> {
    runtime: Arc<R>,
    bells: Bells,
    listed: Listed,
    relist: Duration,
    last: HashMap<PodUid, PodSummary>,
    next_list: Instant,
    /// At most one.
    listing: FuturesUnordered<BoxFuture<'static, List>>,
    /// What it was asked for came after it had begun.
    list_again: bool,
    /// The list to come wakes every pod: events before it are lost.
    look_all: bool,
    /// Of lists, in a row.
    failures: u32,
}

impl<R: Runtime> Notice<R> {
    fn subscribe(&self, after: Duration) -> BoxFuture<'static, Result<Events, RuntimeError>> {
        let runtime = self.runtime.clone();
        Box::pin(async move {
            tokio::time::sleep(after).await;
            runtime.events().await
        })
    }

    fn list(&mut self) {
        self.next_list = Instant::now() + self.relist;
        if !self.listing.is_empty() {
            self.list_again = true;
            return;
        }
        let runtime = self.runtime.clone();
        self.listing.push(Box::pin(async move { runtime.list().await }));
    }

    fn sooner(&mut self, wait: Duration) {
        self.next_list = self.next_list.min(Instant::now() + wait);
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
    fn listed(&mut self, list: List) {
        let again = std::mem::take(&mut self.list_again);
        if again {
            self.list();
        }
        let pods = match list {
            Ok(pods) => pods,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot list pods of the runtime");
                self.failures += 1;
                self.sooner(LIST_AGAIN.delay(self.failures));
                return;
            }
        };
        self.failures = 0;
        for pod in &pods {
            let ids = pod.containers.iter().map(|(id, _)| id.as_str());
            let ids = ids.chain(pod.sandboxes.iter().map(|(id, _)| id.as_str()));
            self.bells.own(&pod.uid, ids);
        }
        let now: HashMap<PodUid, PodSummary> =
            pods.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
        // One that is listed again was not asked for by the new stream.
        if self.look_all && !again {
            self.look_all = false;
            self.bells.look_all();
        } else {
            for uid in now.keys().chain(self.last.keys()) {
                if now.get(uid) != self.last.get(uid) {
                    self.bells.look(uid);
                }
            }
        }
        self.last = now;
        self.listed.send_replace(Some(Arc::new(pods)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        runtime::fake::{FakeRuntime, Temper},
    };

    const RELIST: Duration = Duration::from_secs(120);

    fn runtime() -> FakeRuntime {
        let temper =
            Temper { seed: 1, longest_delay_ms: 50, fail_percent: 0, forget_percent: 0, longest_life_ms: 0 };
        FakeRuntime::new(temper, Clock::following_tokio(jiff::Timestamp::UNIX_EPOCH))
    }

    /// How often there was a list, at each of these times.
    async fn lists(runtime: FakeRuntime, seconds: &[u64]) -> Vec<usize> {
        let listed = watch::Sender::new(None);
        let mut seen = listed.subscribe();
        let counts = async {
            let (began, mut count, mut counts) = (Instant::now(), 0, Vec::new());
            for after in seconds {
                let until = began + Duration::from_secs(*after);
                while tokio::time::timeout_at(until, seen.changed()).await.is_ok() {
                    count += 1;
                }
                counts.push(count);
            }
            counts
        };
        tokio::select! {
            () = run(Arc::new(runtime), Bells::default(), listed, RELIST) => panic!("it runs for ever"),
            counts = counts => counts,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_never_answers_the_subscription_is_listed_at_once_and_now_and_then() {
        let silent = runtime();
        silent.be_silent();
        assert_eq!(lists(silent, &[1, 119, 121, 241]).await, [1, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_began_before_the_subscription_is_done_again() {
        assert_eq!(lists(runtime(), &[1, 119]).await, [2, 2]);
    }
}
