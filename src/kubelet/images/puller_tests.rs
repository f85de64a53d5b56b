//! Pulls whose pods go, and pulls that panic.

use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::runtime::fake::{FakeRuntime, Temper};

/// Panics while it tells of a pull, as often as it is told to.
struct Fragile(Mutex<u32>);

impl EventSink for Fragile {
    fn event(&self, _: &ObjectReference, _: EventType, reason: &'static str, _: String) {
        let mut left = self.0.lock();
        if reason == events::PULLING && *left > 0 {
            *left -= 1;
            drop(left);
            panic!("poisoned");
        }
    }
}

struct Stage {
    images: Arc<Images<FakeRuntime>>,
    woken: mpsc::Receiver<PodUid>,
    scope: Scope,
}

impl Stage {
    /// Whoever asked is woken: never to wait for it is the failure that this finds.
    async fn woken(&mut self) {
        tokio::time::timeout(Duration::from_secs(60), self.woken.recv()).await.unwrap().unwrap();
    }
}

fn stage(panics: u32) -> Stage {
    let temper =
        Temper { seed: 1, longest_delay_ms: 400, fail_percent: 0, forget_percent: 0, longest_life_ms: 0 };
    let clock = Clock::following_tokio(jiff::Timestamp::from_second(1_000_000).unwrap());
    let (wake, woken) = mpsc::channel(10);
    let scope = Scope::root("test");
    let parts = Parts {
        runtime: Arc::new(FakeRuntime::new(temper, clock.clone())),
        credentials: Arc::new(NoCredentials),
        events: Arc::new(Fragile(Mutex::new(panics))),
        clock,
        waker: Waker::new(move |uid| wake.try_send(uid.clone()).unwrap()),
        parallel: 1,
    };
    Stage { images: Images::new(parts, &scope), woken, scope }
}

fn pod(uid: &str) -> (Arc<Pod>, Container) {
    let spec = json!({"containers": [{"name": "c", "image": "far.away/x:1"}]});
    let pod = json!({"metadata": {"name": uid, "namespace": "d", "uid": uid}, "spec": spec});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let container = pod.spec.as_ref().unwrap().containers[0].clone();
    (Arc::new(pod), container)
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_panics_is_a_failed_pull_and_the_next_one_is_tried() {
    let mut stage = stage(1);
    let (pod, container) = pod("a");
    assert_eq!(stage.images.ensure(&pod, &container).await, Ensured::Pulling);
    stage.woken().await;
    let refused = stage.images.ensure(&pod, &container).await;
    assert!(matches!(&refused, Ensured::Refused { why, .. } if why.reason == "ErrImagePull"), "{refused:?}");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(stage.images.ensure(&pod, &container).await, Ensured::Pulling);
    stage.woken().await;
    assert!(matches!(stage.images.ensure(&pod, &container).await, Ensured::Present(_)));
    assert!(stage.scope.close(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_lands_leaves_nothing_of_a_pod_that_is_gone() {
    let mut stage = stage(0);
    let (gone, container) = pod("gone");
    assert_eq!(stage.images.ensure(&gone, &container).await, Ensured::Pulling);
    stage.images.forget(&PodUid::of(&gone));
    assert_eq!(stage.images.state.lock().flights.len(), 1, "it goes on, for whoever asks next");
    while !stage.images.state.lock().flights.is_empty() {
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert!(stage.images.state.lock().landed.is_empty());
    assert!(stage.woken.try_recv().is_err());
    assert!(stage.scope.close(Duration::from_secs(5)).await);
}
