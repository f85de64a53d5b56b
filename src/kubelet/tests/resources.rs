//! Cgroups, volumes, environment and probes of a pod on a real containerd. Needs root, containerd, runc, busybox-static.

#![expect(clippy::unwrap_used, clippy::let_underscore_must_use, reason = "a test")]

mod support;

use std::{fs, path::Path, sync::Arc, time::Duration};

use kubelet::{
    CgroupDriver, KubeletConfig,
    agent::{self, Parts},
    cgroups::Cgroups,
    clock::Clock,
    images::NoCredentials,
    pods::PodUid,
    probes::{Checks, Prober},
    runtime::{CriRuntime, SecurityDefaults},
    shutdown::Going,
    sources::static_pod,
    status::Outbox,
    volumes::{self, NodeResources},
    worker::{Bells, NodeFacts},
};
use lifecycle::Scope;
use support::{
    Bare, Heard, NoProbes,
    containerd::{BUSYBOX, Containerd},
    eventually,
};
use tokio::sync::watch;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: shop}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: BUSYBOX
    command: [sh, -c, "cat /info/labels > /memory/seen; echo $NAME >> /part/seen; sleep 1000"]
    env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {memory: 64Mi}, requests: {memory: 16Mi}}
    readinessProbe: {periodSeconds: 1, exec: {command: [cat, /memory/ready]}}
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /part, subPath: a/b}
    - {name: info, mountPath: /info}
  volumes:
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: disk, emptyDir: {}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
"#;

/// What stands in for volumes and probes in other tests; here are the real ones.
const _: (Bare, NoProbes) = (Bare, NoProbes);

/// Removes the test's cgroups also when it fails.
struct OwnCgroups(String);

impl Drop for OwnCgroups {
    fn drop(&mut self) {
        let mounts = Path::new("/sys/fs/cgroup");
        if let Ok(cgroups) = Cgroups::detect(mounts, &self.0, CgroupDriver::Cgroupfs) {
            let _ = cgroups.reset();
        }
        for tree in fs::read_dir(mounts).unwrap().flatten() {
            let _ = fs::remove_dir(tree.path().join(self.0.trim_start_matches('/')));
        }
    }
}

fn start_agent(config: &Arc<KubeletConfig>, outbox: &Outbox, events: &Arc<Heard>, scope: &Scope) {
    let facts = NodeFacts {
        addresses: vec!["10.0.0.1".parse().unwrap()],
        memory_bytes: 1 << 30,
        runtime_name: "containerd".into(),
        ..NodeFacts::default()
    };
    let (facts_out, facts) = watch::channel(facts);
    let bells = Bells::default();
    let runtime = Arc::new(CriRuntime::new(&config.runtime_endpoint, SecurityDefaults::default()).unwrap());
    let resources = NodeResources::new(
        volumes::Parts {
            config: config.clone(),
            cgroup_mounts: "/sys/fs/cgroup".into(),
            client: None,
            services: None,
            node: None,
            facts: facts.clone(),
            waker: bells.waker(),
            clock: Clock::system(),
        },
        scope,
    );
    let checks = Checks::new(runtime.clone());
    let probes = Prober::new(checks, events.clone(), bells.waker(), Clock::system(), scope);
    let parts = Parts {
        config: config.clone(),
        runtime,
        resources,
        probes,
        credentials: Arc::new(NoCredentials),
        events: events.clone(),
        cluster: None,
        bells,
        outbox: outbox.clone(),
        facts,
        going: Going::default(),
    };
    let inner = scope.clone();
    scope.spawn("agent", async move {
        agent::run_pods(parts, &inner).await;
        drop(facts_out);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_has_its_volumes_and_probes_and_leaves_nothing() {
    let own = OwnCgroups(format!("/coracle-test-{}", std::process::id()));
    let containerd = Containerd::start();
    let dir = containerd.dir.path().to_path_buf();
    let manifests = dir.join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let mut config = KubeletConfig::new("node-1");
    config.root_dir = dir.join("kubelet");
    config.pod_logs_dir = dir.join("logs");
    config.runtime_endpoint = containerd.endpoint();
    config.static_pod_path = Some(manifests.clone());
    config.cgroup_root = own.0.clone();
    let config = Arc::new(config);

    let (scope, outbox, events) = (Scope::root("kubelet"), Outbox::default(), Arc::new(Heard::default()));
    start_agent(&config, &outbox, &events, &scope);
    let text = POD.replace("BUSYBOX", BUSYBOX);
    fs::write(manifests.join("web.yaml"), &text).unwrap();
    let uid = PodUid::of(&static_pod::parse(&text, "node-1").unwrap());
    let volumes = config.pod_dir(&uid).join("volumes/kubernetes.io~empty-dir");
    let seen = |path: &str| fs::read_to_string(volumes.join(path)).ok().filter(|text| !text.is_empty());
    let labels = eventually("labels are seen", async || seen("memory/seen")).await;
    assert_eq!(labels, "app=\"shop\"");
    let name = eventually("the part is written", async || seen("disk/a/b/seen")).await;
    assert_eq!(name, "web-node-1\n");
    let is_ready = |wanted: bool| {
        let statuses = outbox.latest(&uid).and_then(|status| status.container_statuses);
        statuses.filter(|all| all.len() == 1 && all[0].ready == wanted)
    };
    eventually("not ready yet", async || is_ready(false)).await;
    eventually("told", async || events.reasons("web-node-1").contains(&"Unhealthy".into()).then_some(()))
        .await;
    fs::write(volumes.join("memory/ready"), "").unwrap();
    eventually("ready", async || is_ready(true)).await;
    let path = format!("/sys/fs/cgroup/memory{}/kubepods/burstable/pod{uid}", own.0);
    if Path::new("/sys/fs/cgroup/memory").exists() {
        let limit = fs::read_to_string(format!("{path}/memory.limit_in_bytes")).unwrap();
        assert_eq!(limit.trim(), "67108864");
    }

    fs::remove_file(manifests.join("web.yaml")).unwrap();
    let dir = config.pod_dir(&uid);
    let gone = async || (!dir.exists() && !Path::new(&path).exists()).then_some(());
    eventually("nothing is left", gone).await;
    assert!(scope.close(Duration::from_secs(10)).await);
}
