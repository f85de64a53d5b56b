//! A node's resources against an API server in memory, real mounts in a mount namespace of their own, and cgroups that
//! are plain directories.

use std::{fs, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tower::BoxError;

use super::*;
use crate::volumes::in_private_mounts;

const SECOND: Duration = Duration::from_secs(1);

/// Knows ConfigMaps and Secrets by resource and name, and issues tokens.
struct Api {
    objects: Mutex<BTreeMap<(String, String), Value>>,
    events: broadcast::Sender<(String, String, Value)>,
    version: AtomicUsize,
    watches: Arc<AtomicUsize>,
    tokens: AtomicUsize,
}

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

fn answer(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).map_err(BoxError::from).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

/// Counts one watch for as long as its body lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Api {
    fn start() -> (Arc<Api>, kube::Client) {
        let api = Arc::new(Api {
            objects: Mutex::default(),
            events: broadcast::Sender::new(64),
            version: AtomicUsize::new(1),
            watches: Arc::default(),
            tokens: AtomicUsize::new(0),
        });
        let own = api.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = own.clone();
            async move { Ok::<_, BoxError>(api.serve(&request)) }
        });
        (api, client::from_service(service))
    }

    fn put(&self, resource: &str, name: &str, data: Value) {
        let version = self.version.fetch_add(1, Ordering::SeqCst).to_string();
        let meta = json!({"name": name, "namespace": "shop", "resourceVersion": version});
        let object = json!({"metadata": meta, "data": data});
        let key = (resource.to_string(), name.to_string());
        let known = self.objects.lock().insert(key, object.clone()).is_some();
        let event = json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object});
        drop(self.events.send((resource.into(), name.into(), event)));
    }

    fn serve(&self, request: &Request<Body>) -> Answer {
        let path: Vec<&str> = request.uri().path().split('/').collect();
        let query = request.uri().query().unwrap_or_default().to_string();
        if request.method() == Method::POST {
            assert_eq!(path[5..], ["serviceaccounts", "builder", "token"]);
            let count = self.tokens.fetch_add(1, Ordering::SeqCst);
            let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(600);
            let status =
                json!({"token": format!("token-{count}"), "expirationTimestamp": expires.to_string()});
            return answer(
                201,
                &json!({"spec": {"audiences": [], "expirationSeconds": 600}, "status": status}),
            );
        }
        let resource = path[5].to_string();
        let name = query.split('&').find_map(|it| it.strip_prefix("fieldSelector=metadata.name%3D"));
        let name = name.unwrap_or_else(|| panic!("a node may read single objects only: {query}")).to_string();
        if query.contains("watch=") {
            self.watches.fetch_add(1, Ordering::SeqCst);
            let counted = Counted(self.watches.clone());
            let events = BroadcastStream::new(self.events.subscribe()).filter_map(move |event| {
                let _counted = &counted;
                let (of_resource, of_name, event) = event.unwrap();
                let mine = of_resource == resource && of_name == name;
                futures_util::future::ready(mine.then(|| Ok(Frame::data(Bytes::from(format!("{event}\n"))))))
            });
            return Response::new(StreamBody::new(events).boxed_unsync());
        }
        let found = self.objects.lock().get(&(resource, name)).cloned();
        let version = self.version.load(Ordering::SeqCst).to_string();
        answer(200, &json!({"metadata": {"resourceVersion": version}, "items": Vec::from_iter(found)}))
    }
}

struct Stage {
    dir: tempfile::TempDir,
    api: Arc<Api>,
    resources: Arc<NodeResources>,
    woken: watch::Receiver<u32>,
    scope: Scope,
    _facts: watch::Sender<NodeFacts>,
}

impl Stage {
    fn new() -> Stage {
        let dir = tempfile::tempdir().unwrap();
        let cgroups = dir.path().join("cgroup");
        // A tree without controllers: its directories hold no files, which only a kernel could remove.
        fs::create_dir_all(cgroups.join("systemd")).unwrap();
        fs::write(cgroups.join("systemd/cgroup.procs"), "").unwrap();
        let mut config = KubeletConfig::new("n1");
        config.root_dir = dir.path().join("kubelet");
        let (api, client) = Api::start();
        let facts = NodeFacts { memory_bytes: 1 << 30, ..NodeFacts::default() };
        let (facts_out, facts) = watch::channel(facts);
        let (wake, woken) = watch::channel(0);
        let parts = Parts {
            config: Arc::new(config),
            cgroup_mounts: cgroups,
            client: Some(client),
            services: None,
            node: None,
            facts,
            waker: Waker::new(move |_| wake.send_modify(|count| *count += 1)),
            clock: Clock::system(),
        };
        let scope = Scope::root("test");
        Stage { resources: NodeResources::new(parts, &scope), dir, api, woken, scope, _facts: facts_out }
    }

    fn volume(&self, kind: &str, path: &str) -> Option<String> {
        let volumes = self.dir.path().join("kubelet/pods/u1/volumes");
        fs::read_to_string(volumes.join(format!("kubernetes.io~{kind}")).join(path)).ok()
    }

    async fn is_woken(&mut self) {
        tokio::time::timeout(SECOND, self.woken.changed()).await.expect("within a second").unwrap();
    }
}

fn pod(spec: Value) -> Arc<Pod> {
    let mut spec = spec;
    spec["serviceAccountName"] = json!("builder");
    let meta = json!({"name": "web", "namespace": "shop", "uid": "u1", "labels": {"a": "1"}});
    Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
}

/// On a runtime whose every thread has the test's own mounts.
fn on_private_mounts<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    in_private_mounts(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    });
}

#[test]
fn a_changed_config_map_is_written_within_a_second_and_watched_no_longer_than_its_pod() {
    on_private_mounts(|| async {
        let mut stage = Stage::new();
        stage.api.put("configmaps", "cm", json!({"key": "one"}));
        let pod = pod(json!({
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "s", "optional": true}}]}],
            "volumes": [{"name": "v", "configMap": {"name": "cm"}}, {"name": "d", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
        }));
        let prepared = stage.resources.prepare(&pod).await.unwrap();
        assert_eq!(prepared.cgroup_parent, "/kubepods/besteffort/podu1");
        assert_eq!(stage.volume("configmap", "v/key").as_deref(), Some("one"));
        assert_eq!(stage.volume("downward-api", "d/l").as_deref(), Some("a=\"1\""));
        stage.woken.mark_unchanged();
        stage.api.put("configmaps", "cm", json!({"key": "two"}));
        stage.is_woken().await;
        stage.resources.prepare(&pod).await.unwrap();
        assert_eq!(stage.volume("configmap", "v/key").as_deref(), Some("two"));
        assert_eq!(stage.api.watches.load(Ordering::SeqCst), 2, "the ConfigMap and the Secret");

        assert_eq!(stage.resources.leftovers().await, [PodUid::from("u1")]);
        stage.resources.teardown(&PodUid::from("u1")).await.unwrap();
        assert_eq!(stage.resources.leftovers().await, []);
        let gone = async {
            while stage.api.watches.load(Ordering::SeqCst) > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SECOND, gone).await.expect("the watches end");
        stage.resources.teardown(&PodUid::from("u1")).await.unwrap();
        assert!(stage.scope.close(SECOND).await);
    });
}

#[test]
fn what_is_missing_is_told_and_the_pod_woken_when_it_comes() {
    on_private_mounts(|| async {
        let mut stage = Stage::new();
        let key = json!({"name": "V", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}});
        let pod = pod(json!({
            "containers": [{"name": "c", "env": [key]}], "volumes": [{"name": "v", "configMap": {"name": "cm"}}],
        }));
        let error = stage.resources.prepare(&pod).await.unwrap_err().to_string();
        assert_eq!(error, "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found");
        stage.woken.mark_unchanged();
        stage.api.put("configmaps", "cm", json!({}));
        stage.is_woken().await;
        let prepared = stage.resources.prepare(&pod).await.unwrap();
        let container = &pods::containers(&pod)[0];
        let error = stage.resources.container(&pod, container, &prepared, &[]).await.unwrap_err();
        assert!(
            matches!(&error, PrepareError::Config { message } if message == "secret \"s\" not found"),
            "{error}"
        );
        stage.woken.mark_unchanged();
        stage.api.put("secrets", "s", json!({"k": "eA=="}));
        stage.is_woken().await;
        let made = stage.resources.container(&pod, container, &prepared, &[]).await.unwrap();
        assert_eq!(made.env, [("V".to_string(), "x".to_string())]);
    });
}

#[test]
fn the_token_of_a_pod_is_asked_for_once_and_stands_in_memory() {
    on_private_mounts(|| async {
        let stage = Stage::new();
        stage.api.put("configmaps", "kube-root-ca.crt", json!({"ca.crt": "PEM"}));
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]);
        let mounts = json!([
            {"name": "t", "mountPath": "/token"}, {"name": "e", "mountPath": "/e", "subPath": "a/b"},
        ]);
        let pod = pod(json!({
            "securityContext": {"fsGroup": 4242},
            "containers": [{"name": "c", "volumeMounts": mounts}],
            "volumes": [{"name": "t", "projected": {"sources": sources}}, {"name": "e", "emptyDir": {}}],
        }));
        let prepared = stage.resources.prepare(&pod).await.unwrap();
        stage.resources.prepare(&pod).await.unwrap();
        assert_eq!(stage.volume("projected", "t/token").as_deref(), Some("token-0"));
        assert_eq!(stage.volume("projected", "t/ca.crt").as_deref(), Some("PEM"));
        assert_eq!(stage.api.tokens.load(Ordering::SeqCst), 1);
        assert_eq!(prepared.supplemental_groups, [4242]);
        assert!(mounts::is_mount_point(&prepared.volumes["t"]).unwrap(), "secret files are in memory");

        let made = stage.resources.container(&pod, &pods::containers(&pod)[0], &prepared, &[]).await.unwrap();
        assert!(made.mounts[0].read_only && made.mounts[0].host_path == prepared.volumes["t"]);
        let part = &made.mounts[1].host_path;
        assert!(part.ends_with("volume-subpaths/e/c/1"), "{}", part.display());
        fs::write(part.join("f"), "x").unwrap();
        assert_eq!(stage.volume("empty-dir", "e/a/b/f").as_deref(), Some("x"));
        stage.resources.teardown(&PodUid::from("u1")).await.unwrap();
        assert_eq!(stage.resources.leftovers().await, []);
    });
}

#[tokio::test]
async fn a_uid_that_is_a_path_is_refused() {
    let stage = Stage::new();
    for uid in ["", "..", "a/b", "/etc"] {
        assert!(stage.resources.teardown(&PodUid::from(uid)).await.is_err(), "{uid}");
    }
}
