//! What the tests of this folder share.

pub(crate) mod containerd;
pub(crate) mod image;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod};
use kubelet::{
    events::{EventSink, EventType},
    pods::PodUid,
    worker::ports::{PodResources, PrepareError, PreparedContainer, PreparedPod, Probed, Probes, Reading},
};
use parking_lot::Mutex;

/// No volumes, no cgroups; plain environment values.
pub(crate) struct Bare;

impl PodResources for Bare {
    async fn prepare(&self, _: &Arc<Pod>) -> Result<PreparedPod, PrepareError> {
        Ok(PreparedPod::default())
    }

    async fn container(
        &self,
        _: &Arc<Pod>,
        container: &Container,
        _: &PreparedPod,
        _: &[IpAddr],
    ) -> Result<PreparedContainer, PrepareError> {
        let env = container.env.iter().flatten();
        let env = env.map(|it| (it.name.clone(), it.value.clone().unwrap_or_default())).collect();
        Ok(PreparedContainer { env, ..PreparedContainer::default() })
    }

    async fn teardown(&self, _: &PodUid) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn leftovers(&self) -> Vec<PodUid> {
        Vec::new()
    }
}

/// Measures nothing.
pub(crate) struct NoProbes;

impl Probes for NoProbes {
    fn update(&self, _: &Arc<Pod>, _: &[Probed], _: bool) {}

    fn readings(&self, _: &PodUid) -> Vec<Reading> {
        Vec::new()
    }

    fn forget(&self, _: &PodUid) {}
}

/// Keeps events for the test to look at.
#[derive(Default)]
pub(crate) struct Heard(pub(crate) Mutex<Vec<(String, String, String)>>);

impl EventSink for Heard {
    fn event(&self, about: &ObjectReference, _: EventType, reason: &'static str, message: String) {
        let name = about.name.clone().unwrap_or_default();
        self.0.lock().push((name, reason.to_string(), message));
    }
}

impl Heard {
    pub(crate) fn reasons(&self, pod: &str) -> Vec<String> {
        self.0.lock().iter().filter(|(name, ..)| name == pod).map(|(_, reason, _)| reason.clone()).collect()
    }
}

/// Waits for a state, up to a deadline; `None` is "not yet".
#[track_caller]
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = deadline();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
