//! The scheduler against upstream's API server and etcd: what it writes is what upstream takes, and what it says about
//! pods that it cannot place is what upstream's scheduler says of the same pods on the same nodes.
//!
//! `UPSTREAM_BIN=<folder of etcd, kube-apiserver, kube-scheduler> cargo test -p scheduler --test live -- --ignored`
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use client::{Cache, Client, Credentials, Endpoint, ObjectKey, Pem, Recorder, Secret, Store};
use k8s_openapi::api::{
    core::v1::{Event, Namespace, Node, Pod},
    scheduling::v1::PriorityClass,
};
use kube::{Api, api::PostParams};
use lifecycle::Scope;
use scheduler::Config;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Upstream's control plane without its scheduler, in a folder of its own.
struct Upstream {
    folder: tempfile::TempDir,
    port: u16,
    // In the order in which they end.
    _processes: Vec<Process>,
}

impl Upstream {
    fn start() -> Upstream {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let [port, client, peer] = [free_port(), free_port(), free_port()];
        let etcd = format!("http://127.0.0.1:{client}");
        let peers = format!("http://127.0.0.1:{peer}");
        let database = spawn(
            "etcd",
            folder.path(),
            &[
                format!("--data-dir={}", path("etcd").display()),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
            ],
        );
        let key = path("sa.key");
        let made = Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().unwrap();
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
        fs::write(path("tokens.csv"), "admin,admin,1,system:masters\n").unwrap();
        let server = spawn(
            "kube-apiserver",
            folder.path(),
            &[
                format!("--etcd-servers={etcd}"),
                format!("--secure-port={port}"),
                "--bind-address=127.0.0.1".into(),
                format!("--cert-dir={}", path("certs").display()),
                format!("--token-auth-file={}", path("tokens.csv").display()),
                format!("--service-account-key-file={}", key.display()),
                format!("--service-account-signing-key-file={}", key.display()),
                "--service-account-issuer=https://test".into(),
                "--service-cluster-ip-range=10.0.0.0/24".into(),
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition".into(),
            ],
        );
        Upstream { folder, port, _processes: vec![server, database] }
    }

    async fn connect(&self, scope: &Scope) -> Client {
        let certificate = self.folder.path().join("certs/apiserver.crt");
        wait("the server's certificate", || certificate.exists().then_some(())).await;
        let server = format!("https://127.0.0.1:{}", self.port).parse().unwrap();
        let token = Credentials::Token(Secret::new("admin".into()));
        let mut endpoint = Endpoint::new(server, Some(Pem::File(certificate)), token);
        endpoint.insecure = true; // a self-signed leaf is no authority to our verifier
        let (client, _) = client::connect(endpoint, scope).unwrap();
        let ready = async {
            while Api::<Namespace>::all(client.clone()).get("default").await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, ready).await.expect("the server becomes ready");
        client
    }

    /// Upstream's scheduler for pods of this scheduler name.
    fn scheduler(&self, name: &str) -> Process {
        let path = |name: &str| self.folder.path().join(name);
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "a",
            "clusters": [{"name": "a", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port), "insecure-skip-tls-verify": true}}],
            "users": [{"name": "a", "user": {"token": "admin"}}],
            "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        });
        fs::write(path("kubeconfig"), kubeconfig.to_string()).unwrap();
        let config = json!({
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": false},
            "clientConnection": {"kubeconfig": path("kubeconfig")},
            "profiles": [{"schedulerName": name}],
        });
        fs::write(path("scheduler.json"), config.to_string()).unwrap();
        spawn(
            "kube-scheduler",
            self.folder.path(),
            &[
                format!("--config={}", path("scheduler.json").display()),
                format!("--secure-port={}", free_port()),
                "--bind-address=127.0.0.1".into(),
            ],
        )
    }
}

fn spawn(program: &str, folder: &Path, arguments: &[String]) -> Process {
    let programs =
        PathBuf::from(env::var_os("UPSTREAM_BIN").expect("UPSTREAM_BIN names upstream's binaries"));
    let log = fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    let child = Command::new(programs.join(program))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Process(child.unwrap_or_else(|e| panic!("{program}: {e}")))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {DEADLINE:?}");
        sleep(Duration::from_millis(1)).await;
    }
}

struct World {
    client: Client,
    pods: Store<Pod>,
    cache: Cache,
    scope: Scope,
    upstream: Upstream,
}

impl World {
    /// Upstream's server, and our scheduler on it.
    async fn new() -> World {
        let scope = Scope::root("test");
        let upstream = Upstream::start();
        let client = upstream.connect(&scope).await;
        let cache = Cache::new(client.clone(), &scope);
        let recorder = Recorder::new(client.clone(), "default-scheduler", None, &scope);
        let (component, its_client, its_cache) = (scope.child("scheduler"), client.clone(), cache.clone());
        scope.spawn("scheduler", async move {
            let ended = scheduler::run(Config::default(), its_client, &its_cache, recorder, component).await;
            assert!(ended.is_ok());
        });
        let pods = cache.store::<Pod>();
        World { client, pods, cache, scope, upstream }
    }

    async fn node(&self, name: &str, more: Value) {
        let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
        for (key, value) in more.as_object().into_iter().flatten() {
            node[key] = value.clone();
        }
        let allocatable = json!({"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi", "pods": "110"});
        node["status"] = json!({"allocatable": allocatable, "capacity": allocatable});
        let node: Node = serde_json::from_value(node).unwrap();
        Api::all(self.client.clone()).create(&PostParams::default(), &node).await.unwrap();
    }

    async fn pod(&self, name: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        Api::default_namespaced(self.client.clone()).create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn node_of(&self, name: &str) -> String {
        let key = ObjectKey::namespaced("default", name);
        wait(name, || self.pods.get(&key)?.spec.as_ref()?.node_name.clone()).await
    }

    async fn waits_because(&self, name: &str) -> (String, String) {
        let key = ObjectKey::namespaced("default", name);
        wait(name, || {
            let pod = self.pods.get(&key)?;
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            let condition = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
            Some((condition.reason.clone()?, condition.message.clone()?))
        })
        .await
    }
}

fn cpu(request: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": request}}}]})
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs upstream's binaries: see the top of this file"]
async fn pods_are_bound_within_milliseconds_and_explained_when_they_cannot_be() {
    let world = World::new().await;
    world.pod("early", json!({})).await;
    let (reason, message) = world.waits_because("early").await;
    assert_eq!((reason.as_str(), message.as_str()), ("Unschedulable", "no nodes available to schedule pods"));

    world.node("n1", json!({})).await;
    assert_eq!(world.node_of("early").await, "n1");

    let mut latencies = Vec::new();
    for i in 0..20 {
        let name = format!("p{i}");
        let started = Instant::now();
        world.pod(&name, json!({})).await;
        world.node_of(&name).await;
        latencies.push(started.elapsed());
    }
    latencies.sort();
    eprintln!("create to bound, seen through a watch: median {:?}, most {:?}", latencies[10], latencies[19]);

    world.pod("gated", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    assert_eq!(world.waits_because("gated").await.0, "SchedulingGated");

    // Room is made, and the pod that waited for it goes.
    world.pod("big", cpu("2")).await;
    world.node_of("big").await;
    world.pod("next", cpu("1")).await;
    let (_, message) = world.waits_because("next").await;
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu. preemption: "), "{message}");
    let pods: Api<Pod> = Api::default_namespaced(world.client.clone());
    let at_once = kube::api::DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    drop(pods.delete("big", &at_once).await.unwrap());
    assert_eq!(world.node_of("next").await, "n1");

    let events = world.cache.store::<Event>();
    for (pod, reason) in [("early", "FailedScheduling"), ("early", "Scheduled"), ("next", "FailedScheduling")]
    {
        wait(reason, || {
            let about = |e: &Event| {
                e.involved_object.name.as_deref() == Some(pod) && e.reason.as_deref() == Some(reason)
            };
            events.list().iter().any(|event| about(event)).then_some(())
        })
        .await;
    }
    world.scope.close(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs upstream's binaries: see the top of this file"]
async fn pods_that_cannot_be_placed_are_told_the_same_as_by_upstream() {
    let world = World::new().await;
    let taints = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    world.node("n1", json!({})).await;
    world.node("n2", json!({"spec": {"taints": taints}})).await;
    world.node("n3", json!({"spec": {"unschedulable": true}})).await;
    let patient = json!({"metadata": {"name": "patient"}, "value": 0, "preemptionPolicy": "Never"});
    let patient: PriorityClass = serde_json::from_value(patient).unwrap();
    Api::all(world.client.clone()).create(&PostParams::default(), &patient).await.unwrap();
    let _theirs = world.upstream.scheduler("upstream");
    world.pod("full", cpu("1500m")).await;
    assert_eq!(world.node_of("full").await, "n1");

    let port =
        json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 80}]}]});
    world.pod("port", port.clone()).await;
    assert_eq!(world.node_of("port").await, "n1");
    let named = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}]}}});
    let near = |kind: &str| {
        json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "full"}}, "topologyKey": "kubernetes.io/hostname"}]}}})
    };
    let cases = [
        ("cpu", cpu("1")),
        ("huge", cpu("100")),
        ("never", {
            let mut spec = cpu("1");
            spec["priorityClassName"] = json!("patient");
            spec
        }),
        ("selector", json!({"nodeSelector": {"a": "b"}})),
        ("named", json!({"affinity": named})),
        ("ports", port),
        ("anti", near("podAntiAffinity")),
        (
            "lonely",
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "nobody"}}, "topologyKey": "kubernetes.io/hostname"}]}}}),
        ),
        (
            "spread",
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "full"}}}]}),
        ),
    ];
    let mut different = Vec::new();
    for (name, spec) in cases {
        let mut theirs = spec.clone();
        theirs["schedulerName"] = json!("upstream");
        let other = format!("{name}-upstream");
        world.pod(name, spec).await;
        world.pod(&other, theirs).await;
        let (ours, mut theirs) = (world.waits_because(name).await, world.waits_because(&other).await);
        // The word of upstream's plugin for ResourceClaims, which we do not place yet.
        theirs.1 = theirs.1.replace("no new claims to deallocate, ", "");
        eprintln!("{name}: {}", ours.1);
        if ours != theirs {
            different.push(format!("{name}\n  ours:   {ours:?}\n  theirs: {theirs:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    world.scope.close(Duration::from_secs(5)).await;
}
