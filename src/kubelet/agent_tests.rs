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
    shutdown::{Period, testing::FakeLogind},
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

/// What the API is told of pods: while it is shut, it does not say whether it took how one has ended.
#[derive(Default)]
struct Statuses {
    patches: Mutex<Vec<Value>>,
    shut: watch::Sender<bool>,
}

impl Statuses {
    fn has_phase(&self, phase: &str) -> bool {
        self.patches.lock().iter().any(|patch| patch["status"]["phase"] == phase)
    }
}

/// An API that has one node and no pods but those that come over the watch. It never answers whoever creates one.
fn api(pods: &broadcast::Sender<Value>, statuses: &Arc<Statuses>) -> kube::Client {
    type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;
    let (pods, statuses) = (pods.clone(), statuses.clone());
    client::from_service(tower::service_fn(move |request: Request<Body>| {
        let events = tokio_stream::wrappers::BroadcastStream::new(pods.subscribe());
        let statuses = statuses.clone();
        let answer =
            |body: String| Response::new(Full::new(Bytes::from(body)).map_err(BoxError::from).boxed_unsync());
        async move {
            if request.method() == Method::PATCH {
                let patch = request.into_body().collect().await?.to_bytes();
                let patch: Value = serde_json::from_slice(&patch)?;
                let uid = patch["metadata"]["uid"].clone();
                let is_end = patch["status"]["phase"] == "Failed";
                statuses.patches.lock().push(patch);
                statuses.shut.subscribe().wait_for(|shut| !(is_end && *shut)).await?;
                let metadata = json!({"name": uid, "namespace": "d", "uid": uid, "resourceVersion": "9"});
                return Ok(answer(json!({"metadata": metadata}).to_string()));
            }
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
            Ok::<Answer, BoxError>(answer(body))
        }
    }))
}

struct Stage {
    scope: Scope,
    runtime: Arc<FakeRuntime>,
    resources: Arc<Left>,
    /// What the API's watch of pods tells.
    pods: broadcast::Sender<Value>,
    statuses: Arc<Statuses>,
    going: Going,
    dir: tempfile::TempDir,
    _facts: watch::Sender<NodeFacts>,
}

impl Stage {
    fn start(fail_percent: u64, left: &[&str], with_static_pod: bool) -> Stage {
        Stage::with(shutdown::Settings::default(), fail_percent, left, with_static_pod)
    }

    fn with(shutdown: shutdown::Settings, fail_percent: u64, left: &[&str], with_static_pod: bool) -> Stage {
        let scope = Scope::root("agent");
        let dir = tempfile::tempdir().unwrap();
        let mut config = KubeletConfig::new("n");
        config.shutdown = shutdown;
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
        let (statuses, going) = (Arc::new(Statuses::default()), Going::default());
        let facts = NodeFacts { memory_bytes: 1 << 30, ..NodeFacts::default() };
        let (_facts, facts) = watch::channel(facts);
        let parts = Parts {
            cluster: Some(Cluster::watch(&api(&pods, &statuses), "n", &scope)),
            config: Arc::new(config),
            runtime: runtime.clone(),
            resources: resources.clone(),
            probes: Arc::new(NoProbes),
            credentials: Arc::new(images::NoCredentials),
            events: Arc::new(NoEvents),
            bells: Bells::default(),
            outbox: Outbox::default(),
            facts,
            going: going.clone(),
        };
        let own = scope.clone();
        scope.spawn("pods", async move { run_pods(parts, &own).await });
        Stage { scope, runtime, resources, pods, statuses, going, dir, _facts }
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

    /// What is told of pods from here on is heard.
    async fn watched(&self) {
        self.until("both watches are there", |stage| stage.pods.receiver_count() > 1).await;
    }

    /// A pod of this name comes over the watch.
    fn add(&self, name: &str) {
        let containers = json!([{"name": "c", "image": "busybox:1"}]);
        let spec = json!({"nodeName": "n", "terminationGracePeriodSeconds": 1, "containers": containers});
        let metadata = json!({"name": name, "namespace": "d", "uid": name, "resourceVersion": "2"});
        let pod = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}});
        self.pods.send(json!({"type": "ADDED", "object": pod})).unwrap();
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
    stage.watched().await;
    stage.add("late");
    stage.until("the late pod runs", started("late")).await;
    stage.close().await;
}

#[tokio::test]
async fn the_machine_goes_once_the_api_knows_how_its_pods_have_ended() {
    let fake = FakeLogind::start();
    let second = Duration::from_secs;
    let stage = Stage::with(fake.settings(Period::by_class(second(30), second(10))), 0, &[], false);
    stage.watched().await;
    stage.add("p");
    stage.until("it is told that the pod runs", |stage| stage.statuses.has_phase("Running")).await;
    fake.until("a lock is held", |fake| fake.locks() == [true]).await;
    // The node's status is not of this stage.
    stage.going.told(true);
    stage.statuses.shut.send_replace(true);
    fake.prepare(true).await;
    stage.until("the API is told how it ended", |stage| stage.statuses.has_phase("Failed")).await;
    assert_eq!(fake.locks(), [true], "it may not have written that yet");
    assert!(stage.going.is_down());
    stage.statuses.shut.send_replace(false);
    fake.until("the machine may go", |fake| fake.locks() == [false]).await;
    stage.add("late");
    let refused = |stage: &Stage| {
        stage.statuses.patches.lock().iter().any(|patch| patch["status"]["reason"] == "NodeShutdown")
    };
    stage.until("nobody is admitted any more", refused).await;
    fake.prepare(false).await;
    stage.until("the machine stays after all", |stage| !stage.going.is_down()).await;
    assert_eq!(fake.locks(), [false, true]);
    stage.add("later");
    stage.until("pods are admitted again", |stage| stage.runtime.started("later")).await;
    stage.close().await;
    fake.close().await;
}
