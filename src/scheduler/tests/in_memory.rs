//! The whole loop against an API server that is played in memory, on paused time.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use client::{Cache, Recorder};
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use lifecycle::Scope;
use scheduler::Config;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What becomes of a binding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum OnBinding {
    #[default]
    Show,
    /// Take it, and never show it.
    Hide,
    Refuse(u16),
}

#[derive(Default)]
struct State {
    version: u64,
    /// By resource, namespace and name.
    objects: BTreeMap<(String, String, String), Value>,
    /// Every change so far, with its version and resource.
    changes: Vec<(u64, String, Value)>,
    watchers: Vec<(String, mpsc::Sender<Frame<Bytes>>)>,
    on_binding: OnBinding,
    /// `pod on node`, in the order in which they were asked for.
    bindings: Vec<String>,
    /// `pod: reason: message`
    events: Vec<String>,
}

impl State {
    fn change(&mut self, kind: &str, resource: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_string();
        let key = (resource.to_string(), text("namespace"), text("name"));
        let event = json!({"type": kind, "object": object});
        if kind == "DELETED" {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object);
        }
        let frame = || Frame::data(Bytes::from(format!("{event}\n")));
        self.watchers.retain(|(r, watcher)| r != resource || watcher.try_send(frame()).is_ok());
        self.changes.push((self.version, resource.to_string(), event));
    }

    fn pod(&self, name: &str) -> Option<Value> {
        self.objects.get(&("pods".into(), "default".into(), name.into())).cloned()
    }
}

#[derive(Clone, Default)]
struct Server(Arc<Mutex<State>>);

impl Server {
    async fn answer(self, request: Request<Body>) -> Result<Answer, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = head.uri.path().split('/').skip(1).collect();
        let query = head.uri.query().unwrap_or_default();
        let mut state = self.0.lock().unwrap();
        Ok(match (head.method, path.as_slice()) {
            (Method::GET, ["api", "v1", resource]) if query.contains("watch=true") => {
                watch(&mut state, resource, query)
            }
            (Method::GET, ["api", "v1", resource]) => list(&state, resource),
            (Method::POST, [.., "pods", name, "binding"]) => bind(&mut state, name, &body),
            (Method::PATCH, [.., "pods", name, "status"]) => explain(&mut state, name, &body),
            (Method::POST, [.., "events"]) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
                let (pod, reason) = (text(&body["involvedObject"]["name"]), text(&body["reason"]));
                state.events.push(format!("{pod}: {reason}: {}", text(&body["message"])));
                respond(201, &body)
            }
            (_, _) => respond(404, &json!({"kind": "Status", "code": 404, "reason": "NotFound"})),
        })
    }
}

fn list(state: &State, resource: &str) -> Answer {
    let items: Vec<&Value> =
        state.objects.iter().filter(|((r, ..), _)| r == resource).map(|(_, o)| o).collect();
    respond(200, &json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}))
}

fn watch(state: &mut State, resource: &str, query: &str) -> Answer {
    let since = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
    let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or_default();
    let (tell, mut told) = mpsc::channel(10_000);
    for (_, _, event) in state.changes.iter().filter(|(version, r, _)| *version > since && r == resource) {
        tell.try_send(Frame::data(Bytes::from(format!("{event}\n")))).unwrap();
    }
    state.watchers.push((resource.to_string(), tell));
    let stream = futures_util::stream::poll_fn(move |cx| told.poll_recv(cx).map(|frame| frame.map(Ok)));
    Response::new(StreamBody::new(stream).boxed_unsync())
}

fn bind(state: &mut State, name: &str, binding: &Value) -> Answer {
    let node = binding["target"]["name"].as_str().unwrap();
    state.bindings.push(format!("{name} on {node}"));
    if let OnBinding::Refuse(code) = state.on_binding {
        return respond(code, &json!({"kind": "Status", "status": "Failure", "code": code, "message": "no"}));
    }
    let mut pod = state.pod(name).unwrap();
    assert_eq!(binding["metadata"]["uid"], pod["metadata"]["uid"]);
    if state.on_binding == OnBinding::Show {
        pod["spec"]["nodeName"] = node.into();
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        state.change("MODIFIED", "pods", pod);
    }
    respond(201, &json!({"kind": "Status", "status": "Success", "code": 201}))
}

fn explain(state: &mut State, name: &str, patch: &Value) -> Answer {
    let Some(mut pod) = state.pod(name) else { return respond(404, &json!({"kind": "Status", "code": 404})) };
    pod["status"]["conditions"] = patch["status"]["conditions"].clone();
    state.change("MODIFIED", "pods", pod.clone());
    respond(200, &pod)
}

fn respond(code: u16, body: &Value) -> Answer {
    let body = Full::new(Bytes::from(body.to_string())).boxed_unsync();
    Response::builder().status(code).body(body).unwrap()
}

/// A server, and a scheduler that works on it.
struct World {
    server: Server,
    scope: Scope,
}

impl World {
    fn new() -> World {
        let (server, scope) = (Server::default(), Scope::root("test"));
        let service = server.clone();
        let client = client::from_service(tower::service_fn(move |request| service.clone().answer(request)));
        let cache = Cache::new(client.clone(), &scope);
        let recorder = Recorder::new(client.clone(), "default-scheduler", None, &scope);
        let component = scope.child("scheduler");
        scope.spawn("scheduler", async move {
            let ended = scheduler::run(Config::default(), client, &cache, recorder, component).await;
            assert!(ended.is_ok());
        });
        World { server, scope }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.server.0.lock().unwrap())
    }

    fn node(&self, name: &str) {
        let status = json!({"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}});
        let node = json!({"metadata": {"name": name, "uid": name}, "spec": {}, "status": status});
        self.with(|state| state.change("ADDED", "nodes", node));
    }

    fn pod(&self, name: &str, cpu: &str, scheduler: &str) {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let pod = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"containers": [container], "schedulerName": scheduler}, "status": {"phase": "Pending"},
        });
        self.with(|state| state.change("ADDED", "pods", pod));
    }

    /// Until it holds. Time is paused and jumps ahead whenever everybody waits.
    async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(600);
        while !self.with(|state| holds(state)) {
            let state = self.with(|s| format!("bindings {:?}, events {:?}", s.bindings, s.events));
            assert!(Instant::now() < deadline, "never: {what}; {state}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    async fn until_on(&self, pod: &str, node: &str) {
        self.until(&format!("{pod} on {node}"), |s| {
            s.pod(pod).is_some_and(|p| p["spec"]["nodeName"] == node)
        })
        .await;
    }

    async fn until_waits(&self, pod: &str, reason: &str, message: &str) {
        let says = |condition: &Value| {
            condition["status"] == "False"
                && condition["reason"] == reason
                && condition["message"].as_str().unwrap_or_default().starts_with(message)
        };
        let holds = |state: &State| {
            state
                .pod(pod)
                .is_some_and(|p| p["status"]["conditions"].as_array().into_iter().flatten().any(says))
        };
        self.until(&format!("{pod} waits: {message}"), holds).await;
    }

    async fn end(self) {
        assert!(self.scope.close(Duration::from_secs(5)).await);
    }
}

const OURS: &str = "default-scheduler";

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_a_node_and_goes_to_it() {
    let world = World::new();
    world.pod("p", "1", OURS);
    world.pod("theirs", "1", "somebody-else");
    world.until_waits("p", "Unschedulable", "no nodes available to schedule pods").await;
    world.node("n");
    world.until_on("p", "n").await;
    world
        .until("told", |s| s.events.iter().any(|e| e == "p: Scheduled: Successfully assigned default/p to n"))
        .await;
    assert_eq!(world.with(|s| s.bindings.clone()), ["p on n"]);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_one_pod_is_about_to_take_no_other_gets() {
    let world = World::new();
    world.with(|state| state.on_binding = OnBinding::Hide);
    world.node("n");
    world.pod("p", "3", OURS);
    world.until("p is bound", |s| s.bindings == ["p on n"]).await;
    world.pod("q", "3", OURS);
    world.until_waits("q", "Unschedulable", "0/1 nodes are available: 1 Insufficient cpu.").await;
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_makes_room_for_one_that_waits() {
    let world = World::new();
    world.node("n");
    world.pod("p", "3", OURS);
    world.until_on("p", "n").await;
    world.pod("q", "3", OURS);
    world.until_waits("q", "Unschedulable", "0/1").await;
    let asked = Instant::now();
    let p = world.with(|state| state.pod("p").unwrap());
    world.with(|state| state.change("DELETED", "pods", p));
    world.until_on("q", "n").await;
    assert!(asked.elapsed() < Duration::from_millis(100), "nobody else waits, so it goes at once");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_waiting_pod_is_told_follows_the_nodes_and_the_pods_that_go() {
    let world = World::new();
    let requests = json!({"cpu": "3", "memory": "9Gi"});
    let pod = json!({
        "metadata": {"name": "big", "namespace": "default", "uid": "uid-big"}, "status": {"phase": "Pending"},
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}], "schedulerName": OURS},
    });
    world.with(|state| state.change("ADDED", "pods", pod));
    world.until_waits("big", "Unschedulable", "no nodes available to schedule pods").await;
    let asked = Instant::now();
    world.node("n");
    world.until_waits("big", "Unschedulable", "0/1 nodes are available: 1 Insufficient memory.").await;
    world.pod("p", "3", OURS);
    world.until_on("p", "n").await;
    world.node("m");
    let both = "0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.";
    world.until_waits("big", "Unschedulable", both).await;
    let p = world.with(|state| state.pod("p").unwrap());
    world.with(|state| state.change("DELETED", "pods", p));
    world.until_waits("big", "Unschedulable", "0/2 nodes are available: 2 Insufficient memory.").await;
    assert!(asked.elapsed() < Duration::from_secs(40), "each at the end of the pod's back-off at the latest");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_binding_is_tried_again_with_back_off() {
    let world = World::new();
    world.with(|state| state.on_binding = OnBinding::Refuse(500));
    world.node("n");
    let started = Instant::now();
    world.pod("p", "1", OURS);
    world.until_waits("p", "SchedulerError", "bind pod default/p to node n: ").await;
    world.until("three tries", |state| state.bindings.len() == 3).await;
    assert!(started.elapsed() >= Duration::from_secs(3), "after one second, and after two more");
    world.with(|state| state.on_binding = OnBinding::Show);
    world.until_on("p", "n").await;
    let conditions = world.with(|state| state.pod("p").unwrap()["status"]["conditions"].clone());
    assert_eq!(conditions[0]["status"], "True", "the last word is that of the binding");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_came_too_late_is_not_repeated() {
    let world = World::new();
    world.with(|state| state.on_binding = OnBinding::Refuse(409));
    world.node("n");
    world.pod("p", "1", OURS);
    world.until("it was tried", |state| !state.bindings.is_empty()).await;
    let mut bound = world.with(|state| state.pod("p").unwrap());
    bound["spec"]["nodeName"] = "elsewhere".into();
    world.with(|state| state.change("MODIFIED", "pods", bound));
    world.with(|state| state.bindings.clear());
    sleep(Duration::from_secs(60)).await;
    assert!(world.with(|state| state.bindings.is_empty()));
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_is_never_seen_is_made_again() {
    let world = World::new();
    world.with(|state| state.on_binding = OnBinding::Hide);
    world.node("n");
    world.pod("p", "1", OURS);
    world.until("it is bound", |state| state.bindings.len() == 1).await;
    let bound = Instant::now();
    world.with(|state| state.on_binding = OnBinding::Show);
    world.until_on("p", "n").await;
    assert!(bound.elapsed() >= Duration::from_secs(29));
    assert_eq!(world.with(|state| state.bindings.len()), 2);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn many_pods_fill_the_nodes_and_no_node_takes_too_many() {
    let world = World::new();
    for node in ["a", "b", "c"] {
        world.node(node);
    }
    for i in 0..20 {
        world.pod(&format!("p{i:02}"), "1", OURS);
    }
    let placed = |state: &State| {
        let mut by_node = BTreeMap::<String, usize>::new();
        for pod in state.objects.iter().filter(|((r, ..), _)| r == "pods").map(|(_, pod)| pod) {
            *by_node.entry(pod["spec"]["nodeName"].as_str().unwrap_or_default().to_string()).or_default() +=
                1;
        }
        by_node
    };
    world.until("the nodes are full", |state| placed(state).get("").copied() == Some(8)).await;
    assert_eq!(
        world.with(|state| placed(state)),
        [("", 8), ("a", 4), ("b", 4), ("c", 4)].map(|(n, c)| (n.into(), c)).into()
    );
    world.end().await;
}
