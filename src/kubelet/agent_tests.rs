//! The agent over a runtime and an API that the test plays.

use std::{collections::BTreeSet, time::Duration};

use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::core::v1::Container;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tower::BoxError;

use super::*;
use crate::{
    events::NoEvents,
    pods::PodUid,
    runtime::fake::{FakeRuntime, Temper},
    worker::ports::{PrepareError, PreparedContainer, PreparedPod, Probed, Reading},
};

/// Has something left of these pods, until it is torn down.
#[derive(Default)]
struct Left(Mutex<BTreeSet<PodUid>>);

impl PodResources for Left {
    async fn prepare(&self, pod: &Arc<Pod>) -> Result<PreparedPod, PrepareError> {
        self.0.lock().insert(PodUid::of(pod));
        Ok(PreparedPod::default())
    }

    async fn container(
        &self,
        _: &Arc<Pod>,
        _: &Container,
        _: &PreparedPod,
        _: &[IpAddr],
    ) -> Result<PreparedContainer, PrepareError> {
        Ok(PreparedContainer::default())
    }

    async fn teardown(&self, uid: &PodUid) -> Result<(), PrepareError> {
        self.0.lock().remove(uid);
        Ok(())
    }

    async fn leftovers(&self) -> Vec<PodUid> {
        self.0.lock().iter().cloned().collect()
    }
}

struct NoProbes;

impl Probes for NoProbes {
    fn update(&self, _: &Arc<Pod>, _: &[Probed], _: bool) {}
    fn readings(&self, _: &PodUid) -> Vec<Reading> {
        Vec::new()
    }
    fn forget(&self, _: &PodUid) {}
}

/// An API that has one node and no pods but those that come over the watch. It never answers whoever creates one.
fn api(pods: &broadcast::Sender<Value>) -> kube::Client {
    type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
    let pods = pods.clone();
    client::from_service(tower::service_fn(move |request: Request<Body>| {
        let events = tokio_stream::wrappers::BroadcastStream::new(pods.subscribe());
        async move {
            if request.method() == Method::POST {
                return std::future::pending().await;
            }
            let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
            let pods = path.ends_with("/pods");
            if query.contains("watch=") {
                use futures_util::StreamExt;
                let events = events.take_while(move |_| std::future::ready(pods));
                let lines =
                    events.map(|event| Ok::<_, BoxError>(Frame::data(Bytes::from(format!("{}\n", event?)))));
                return Ok(Response::new(StreamBody::new(lines.chain(stream::pending())).boxed_unsync()));
            }
            let node = json!({
                "metadata": {"name": "n", "uid": "n", "resourceVersion": "1"},
                "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}},
            });
            let items = if path.ends_with("/nodes") { vec![node] } else { Vec::new() };
            let body = json!({"metadata": {"resourceVersion": "1"}, "items": items}).to_string();
            let body = Full::new(Bytes::from(body)).map_err(BoxError::from).boxed_unsync();
            Ok::<Answer, BoxError>(Response::new(body))
        }
    }))
}

struct Stage {
    scope: Scope,
    runtime: Arc<FakeRuntime>,
    resources: Arc<Left>,
    /// What the API's watch of pods tells.
    pods: broadcast::Sender<Value>,
    dir: tempfile::TempDir,
    _facts: watch::Sender<NodeFacts>,
}

impl Stage {
    fn start(fail_percent: u64, left: &[&str], with_static_pod: bool) -> Stage {
        let scope = Scope::root("agent");
        let dir = tempfile::tempdir().unwrap();
        let mut config = KubeletConfig::new("n");
        config.root_dir = dir.path().join("root");
        config.pod_logs_dir = dir.path().join("logs");
        if with_static_pod {
            let manifests = dir.path().join("manifests");
            std::fs::create_dir(&manifests).unwrap();
            let spec = json!({"containers": [{"name": "c", "image": "busybox:1"}]});
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "s"}, "spec": spec});
            std::fs::write(manifests.join("s.yaml"), pod.to_string()).unwrap();
            config.static_pod_path = Some(manifests);
        }
        let temper =
            Temper { seed: 1, longest_delay_ms: 0, fail_percent, forget_percent: 0, longest_life_ms: 0 };
        let runtime = Arc::new(FakeRuntime::new(temper, Clock::system()));
        let resources = Arc::new(Left(Mutex::new(left.iter().map(|uid| PodUid::from(*uid)).collect())));
        let pods = broadcast::Sender::new(16);
        let facts = NodeFacts { memory_bytes: 1 << 30, ..NodeFacts::default() };
        let (_facts, facts) = watch::channel(facts);
        let parts = Parts {
            cluster: Some(Cluster::watch(&api(&pods), "n", &scope)),
            config: Arc::new(config),
            runtime: runtime.clone(),
            resources: resources.clone(),
            probes: Arc::new(NoProbes),
            credentials: Arc::new(images::NoCredentials),
            events: Arc::new(NoEvents),
            bells: Bells::default(),
            outbox: Outbox::default(),
            facts,
        };
        let own = scope.clone();
        scope.spawn("pods", async move { run_pods(parts, &own).await });
        Stage { scope, runtime, resources, pods, dir, _facts }
    }

    async fn until(&self, what: &str, is: impl Fn(&Stage) -> bool) {
        let level = async {
            while !is(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), level)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn close(self) {
        assert!(self.scope.close(Duration::from_secs(60)).await);
        drop(self.dir);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_swept_away_before_the_runtime_has_said_what_runs() {
    let stage = Stage::start(100, &["may-run"], false);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(stage.resources.0.lock().len(), 1, "an unknown is not an absence");
    stage.runtime.calm_down();
    stage.until("what nobody runs is removed", |stage| stage.resources.0.lock().is_empty()).await;
    stage.close().await;
}

#[tokio::test]
async fn an_api_that_takes_no_mirror_pod_holds_up_no_other_pod() {
    let stage = Stage::start(0, &[], true);
    let started = |name: &str| {
        let name = name.to_string();
        move |stage: &Stage| stage.runtime.started(&name)
    };
    stage.until("the static pod runs", started("s-n")).await;
    let spec = json!({"nodeName": "n", "containers": [{"name": "c", "image": "busybox:1"}]});
    let metadata = json!({"name": "late", "namespace": "d", "uid": "late", "resourceVersion": "2"});
    let pod = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}});
    stage.until("both watches are there", |stage| stage.pods.receiver_count() > 1).await;
    stage.pods.send(json!({"type": "ADDED", "object": pod})).unwrap();
    stage.until("the late pod runs", started("late")).await;
    stage.close().await;
}
