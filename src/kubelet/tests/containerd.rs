//! The node agent against a real containerd. Needs root, containerd, runc, busybox-static.

#![expect(clippy::unwrap_used, clippy::let_underscore_must_use, reason = "a test")]

mod support;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ContainerStatus, Node as NodeObject, Pod, PodStatus},
};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kubelet::{
    KubeletConfig,
    agent::{self, Parts},
    images::NoCredentials,
    pods::PodUid,
    runtime::{CriRuntime, Runtime, SecurityDefaults},
    shutdown::Going,
    sources::static_pod,
    status::Outbox,
    worker::{Bells, NodeFacts},
};
use lifecycle::Scope;
use support::{
    Bare, Heard, NoProbes,
    containerd::{BUSYBOX, Containerd},
    eventually,
};
use tokio::sync::watch;

/// An agent without an API: its pods are files.
struct Agent {
    scope: Scope,
    outbox: Outbox,
    events: Arc<Heard>,
    _facts: watch::Sender<NodeFacts>,
}

impl Agent {
    fn start(config: &Arc<KubeletConfig>) -> Agent {
        let scope = Scope::root("kubelet");
        let (facts, receiver) = watch::channel(NodeFacts {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            memory_bytes: 1 << 30,
            runtime_name: "containerd".into(),
            ..NodeFacts::default()
        });
        let events = Arc::new(Heard::default());
        let outbox = Outbox::default();
        let parts = Parts {
            config: config.clone(),
            runtime: Arc::new(
                CriRuntime::new(&config.runtime_endpoint, SecurityDefaults::default()).unwrap(),
            ),
            resources: Arc::new(Bare),
            probes: Arc::new(NoProbes),
            credentials: Arc::new(NoCredentials),
            events: events.clone(),
            cluster: None,
            bells: Bells::default(),
            outbox: outbox.clone(),
            facts: receiver,
            going: Going::default(),
        };
        let inner = scope.clone();
        scope.spawn("agent", async move { agent::run_pods(parts, &inner).await });
        Agent { scope, outbox, events, _facts: facts }
    }

    async fn stop(self) {
        assert!(self.scope.close(Duration::from_secs(10)).await);
    }

    async fn status(&self, uid: &PodUid, what: &str, is: impl Fn(&PodStatus) -> bool) -> PodStatus {
        eventually(what, async || self.outbox.latest(uid).filter(|status| is(status))).await
    }
}

struct Node {
    containerd: Containerd,
    config: Arc<KubeletConfig>,
    manifests: PathBuf,
}

impl Node {
    fn start() -> Node {
        let containerd = Containerd::start();
        let dir = containerd.dir.path().to_path_buf();
        let manifests = dir.join("manifests");
        fs::create_dir_all(&manifests).unwrap();
        let mut config = KubeletConfig::new("node-1");
        config.root_dir = dir.join("kubelet");
        config.pod_logs_dir = dir.join("logs");
        config.runtime_endpoint = containerd.endpoint();
        config.static_pod_path = Some(manifests.clone());
        Node { containerd, config: Arc::new(config), manifests }
    }

    /// Returns the pod's UID.
    fn write(&self, name: &str, spec: &str) -> PodUid {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        fs::write(self.manifests.join(format!("{name}.yaml")), &text).unwrap();
        PodUid::of(&static_pod::parse(&text, "node-1").unwrap())
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.manifests.join(format!("{name}.yaml"))).unwrap();
    }

    fn runtime(&self) -> CriRuntime {
        CriRuntime::new(&self.containerd.endpoint(), SecurityDefaults::default()).unwrap()
    }
}

fn container<'a>(status: &'a PodStatus, name: &str) -> Option<&'a ContainerStatus> {
    status.container_statuses.iter().flatten().find(|status| status.name == name)
}

fn is_running(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Running")
        && status.container_statuses.iter().flatten().all(|status| status.ready)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_runs_survives_a_restart_of_the_agent_and_goes() {
    let node = Node::start();
    let agent = Agent::start(&node.config);
    let spec = format!(
        "{{hostNetwork: true, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, 'echo hello $(WHO); sleep 1000'], env: [{{name: WHO, value: world}}]}}]}}"
    );
    let uid = node.write("web", &spec);
    let status = agent.status(&uid, "the pod runs", is_running).await;
    let id = container(&status, "c").unwrap().container_id.clone();
    assert_eq!(agent.events.reasons("web-node-1"), ["Pulled", "Created", "Started"]);
    let log = node.config.pod_logs_dir.join(format!("default_web-node-1_{uid}/c/0.log"));
    let text =
        eventually("the log is written", async || fs::read_to_string(&log).ok().filter(|it| !it.is_empty()))
            .await;
    assert!(text.trim_end().ends_with("stdout F hello world"), "{text}");

    agent.stop().await;
    let agent = Agent::start(&node.config);
    let status = agent.status(&uid, "the pod is seen again", is_running).await;
    assert_eq!(container(&status, "c").unwrap().container_id, id, "the same container runs on");
    assert_eq!(agent.events.reasons("web-node-1"), Vec::<String>::new(), "nothing was done");

    node.remove("web");
    let runtime = node.runtime();
    eventually("nothing is left", async || runtime.list().await.unwrap().is_empty().then_some(())).await;
    assert!(agent.events.reasons("web-node-1").contains(&"Killing".to_string()));
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_are_told_with_code_message_and_back_off() {
    let node = Node::start();
    let agent = Agent::start(&node.config);
    let run = |script: &str, policy: &str, more: &str| {
        format!(
            "{{hostNetwork: true, restartPolicy: {policy}, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{BUSYBOX}', command: [sh, -c, '{script}'] {more}}}]}}"
        )
    };
    let told = node.write("told", &run("echo last words > /dev/termination-log; exit 3", "Never", ""));
    let logged = node.write(
        "logged",
        &run("echo from the log; exit 4", "Never", ", terminationMessagePolicy: FallbackToLogsOnError"),
    );
    let crashing = node.write("crashing", &run("exit 5", "Always", ""));
    let missing = node.write(
        "missing",
        &format!(
            "{{hostNetwork: true, containers: [{{name: c, image: '{BUSYBOX}', command: [no-such-program]}}]}}"
        ),
    );

    for (uid, code, message) in [(&told, 3, "last words\n"), (&logged, 4, "from the log\n")] {
        let status =
            agent.status(uid, "the pod fails", |status| status.phase.as_deref() == Some("Failed")).await;
        let ended = container(&status, "c").unwrap().state.clone().unwrap().terminated.unwrap();
        assert_eq!(
            (ended.exit_code, ended.reason.as_deref(), ended.message.as_deref()),
            (code, Some("Error"), Some(message))
        );
    }
    let waits = |status: &PodStatus, reason: &str| {
        let waiting = container(status, "c").and_then(|it| it.state.clone()?.waiting?.reason);
        waiting.as_deref() == Some(reason)
    };
    let status =
        agent.status(&crashing, "the crash loop waits", |status| waits(status, "CrashLoopBackOff")).await;
    let shown = container(&status, "c").unwrap();
    assert_eq!(shown.last_state.clone().unwrap().terminated.unwrap().exit_code, 5);
    assert_eq!(shown.restart_count, 1, "the first restart is at once, the second waits");
    let message = shown.state.clone().unwrap().waiting.unwrap().message.unwrap();
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crashing-node-1_default("),
        "{message}"
    );
    agent
        .status(&missing, "a program that is not there is told of", |status| {
            waits(status, "RunContainerError") || waits(status, "CrashLoopBackOff")
        })
        .await;
    agent.stop().await;
}

/// By hand: `KUBELET_TEST_KUBECONFIG=… cargo test -p kubelet -- --ignored`, in the network of any API server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs an API server whose kubeconfig KUBELET_TEST_KUBECONFIG names"]
async fn a_pod_of_an_api_server_is_run_shown_and_deleted() {
    let kubeconfig = std::env::var("KUBELET_TEST_KUBECONFIG").expect("KUBELET_TEST_KUBECONFIG");
    let node = Node::start();
    let scope = Scope::root("kubelet");
    let kubeconfig = client::Kubeconfig::load(kubeconfig.as_ref()).unwrap();
    let (client, _) = client::connect(kubeconfig.endpoint(None).unwrap(), &scope).unwrap();
    let mut config = (*node.config).clone();
    config.node_ips = vec!["127.0.0.1".parse().unwrap()];
    let events = Arc::new(client::Recorder::new(client.clone(), "kubelet", Some("node-1"), &scope));
    let (inner, for_agent) = (scope.clone(), client.clone());
    scope.spawn("agent", async move {
        let plant = |_: &agent::Seeds| {
            (Arc::new(Bare), Arc::new(NoProbes) as Arc<dyn kubelet::worker::ports::Probes>)
        };
        agent::run_with(config, Some(for_agent), events, &inner, plant).await.unwrap();
    });
    let nodes: Api<NodeObject> = Api::all(client.clone());
    eventually("the node is ready", async || {
        let node = nodes.get_opt("node-1").await.unwrap()?;
        let conditions = node.status?.conditions?;
        conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True").then_some(())
    })
    .await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    eventually("the lease is owned by the node", async || {
        leases.get_opt("node-1").await.unwrap()?.metadata.owner_references
    })
    .await;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let pod = serde_json::json!({"metadata": {"name": "web"}, "spec": {
        "nodeName": "node-1", "hostNetwork": true, "terminationGracePeriodSeconds": 1,
        "initContainers": [{"name": "i", "image": BUSYBOX, "command": ["true"]}],
        "containers": [{"name": "c", "image": BUSYBOX}],
    }});
    let began = std::time::Instant::now();
    pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
    eventually("the pod is ready", async || {
        is_running(&pods.get("web").await.unwrap().status?).then_some(())
    })
    .await;
    eprintln!("create to Ready: {:?}", began.elapsed());
    let broken = serde_json::json!({"metadata": {"name": "broken"}, "spec": {
        "nodeName": "node-1", "hostNetwork": true, "containers": [{"name": "c", "image": "127.0.0.1:1/none:1"}],
    }});
    pods.create(&PostParams::default(), &serde_json::from_value(broken).unwrap()).await.unwrap();
    eventually("the pull backs off", async || {
        let status = pods.get("broken").await.unwrap().status?;
        let waiting = status.container_statuses?.pop()?.state?.waiting?;
        (waiting.reason? == "ImagePullBackOff").then_some(())
    })
    .await;
    let mirror = node.write("fixed", &format!("{{hostNetwork: true, terminationGracePeriodSeconds: 1, containers: [{{name: c, image: '{BUSYBOX}'}}]}}"));
    eventually("the mirror is shown running", async || {
        let pod = pods.get_opt("fixed-node-1").await.unwrap()?;
        let hash = pod.metadata.annotations?.remove("kubernetes.io/config.mirror")?;
        (hash == mirror.as_str() && pod.status?.phase? == "Running").then_some(())
    })
    .await;
    let began = std::time::Instant::now();
    for name in ["web", "broken"] {
        pods.delete(name, &DeleteParams::default()).await.unwrap();
    }
    node.remove("fixed");
    eventually("all pods are gone", async || {
        pods.list(&Default::default()).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    eprintln!("delete to gone: {:?}", began.elapsed());
    let runtime = node.runtime();
    eventually("nothing is left", async || runtime.list().await.unwrap().is_empty().then_some(())).await;
    assert!(scope.close(Duration::from_secs(10)).await);
}
