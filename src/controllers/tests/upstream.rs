//! All controllers against upstream's kube-apiserver and etcd, each under its own identity and bootstrap role.
//!
//! `UPSTREAM_BIN=DIR cargo test -p controllers --test upstream -- --ignored`, where DIR holds both programs.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::{
    collections::HashMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use client::{Cache, Client, Credentials, Endpoint, LeaseHolder, LeaseName, Secret};
use controllers::{ClientFor, Config, names};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet},
    certificates::v1::CertificateSigningRequest,
    core::v1::{
        ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount,
    },
    discovery::v1::EndpointSlice,
    policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    rbac::v1::ClusterRoleBinding,
};
use kube::{
    Api,
    api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams},
};
use lifecycle::Scope;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Ends a program when the test ends, also by a panic.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Cluster {
    port: u16,
    scope: Scope,
    // Dropped in this order.
    _apiserver: Program,
    _etcd: Program,
    _folder: tempfile::TempDir,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn spawn(folder: &Path, program: &str, arguments: &[String]) -> Program {
    let bin = PathBuf::from(
        std::env::var("UPSTREAM_BIN").expect("UPSTREAM_BIN names a folder with etcd and kube-apiserver"),
    );
    let log = std::fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    let command = Command::new(bin.join(program))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Program(command.unwrap())
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (etcd_port, peer_port, port) = (free_port(), free_port(), free_port());
        let etcd = spawn(
            folder.path(),
            "etcd",
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
                format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
                format!("--initial-cluster=default=http://127.0.0.1:{peer_port}"),
                "--unsafe-no-fsync".to_string(),
            ],
        );
        let key = pki::Key::generate().unwrap();
        std::fs::write(at("sa.key"), key.to_pem()).unwrap();
        std::fs::write(at("sa.pub"), key.public_pem()).unwrap();
        let mut tokens =
            "admin,admin,admin,system:masters\nnode,system:node:n1,n1,system:nodes\n".to_string();
        for name in names::ALL {
            tokens += &format!(
                "{name},system:serviceaccount:kube-system:{name},{name},\"system:serviceaccounts,system:serviceaccounts:kube-system\"\n"
            );
        }
        std::fs::write(at("tokens.csv"), tokens).unwrap();
        let apiserver = spawn(
            folder.path(),
            "kube-apiserver",
            &[
                format!("--etcd-servers=http://127.0.0.1:{etcd_port}"),
                "--bind-address=127.0.0.1".to_string(),
                format!("--secure-port={port}"),
                format!("--cert-dir={}", at("certs")),
                format!("--token-auth-file={}", at("tokens.csv")),
                "--authorization-mode=RBAC".to_string(),
                "--service-account-issuer=https://kubernetes.default.svc".to_string(),
                format!("--service-account-signing-key-file={}", at("sa.key")),
                format!("--service-account-key-file={}", at("sa.pub")),
                "--service-cluster-ip-range=10.96.0.0/16".to_string(),
                "--endpoint-reconciler-type=none".to_string(),
            ],
        );
        let scope = Scope::root("test");
        let cluster = Self { port, scope, _apiserver: apiserver, _etcd: etcd, _folder: folder };
        let admin = cluster.as_user("admin");
        let probe = || async {
            let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
            admin.request_text(request).await.is_ok_and(|text| text == "ok")
        };
        until("the API server is ready", probe).await;
        cluster
    }

    fn as_user(&self, token: &str) -> Client {
        let server = format!("https://127.0.0.1:{}", self.port).parse().unwrap();
        let mut endpoint = Endpoint::new(server, None, Credentials::Token(Secret::new(token.to_string())));
        endpoint.insecure = true;
        client::connect(endpoint, &self.scope).unwrap().0
    }
}

impl ClientFor for Cluster {
    fn client(&self, controller: &'static str) -> Client {
        self.as_user(controller)
    }
}

/// Waits for a state, with a deadline.
async fn until<F: Future<Output = bool>>(what: &str, state: impl Fn() -> F) {
    let wait = async {
        while !state().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), wait).await.is_ok(), "not reached: {what}");
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: DeserializeOwned + serde::Serialize + Clone + std::fmt::Debug,
{
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// A kubelet without containers: what is bound runs at once, what is asked to go is gone at once.
async fn play_kubelet(client: Client, lease: Client) {
    let pods: Api<Pod> = Api::all(client.clone());
    let name = LeaseName { namespace: "kube-node-lease".into(), name: "n1".into() };
    let mut holder = LeaseHolder::new(lease, name, "n1", 40);
    let mut ips: HashMap<String, usize> = HashMap::new();
    loop {
        drop(holder.renew(None, Timestamp::now()).await);
        let Ok(list) = pods.list(&ListParams::default()).await else { continue };
        for pod in list {
            let meta = &pod.metadata;
            let api: Api<Pod> = Api::namespaced(client.clone(), meta.namespace.as_deref().unwrap());
            let name = meta.name.as_deref().unwrap();
            let status = pod.status.clone().unwrap_or_default();
            if pod.spec.as_ref().unwrap().node_name.as_deref() != Some("n1") {
                continue;
            }
            if meta.deletion_timestamp.is_some() {
                drop(api.delete(name, &DeleteParams::default().grace_period(0)).await);
            } else if status.pod_ip.is_none() {
                let count = ips.len() + 1;
                let number = *ips.entry(meta.uid.clone().unwrap()).or_insert(count);
                let ip = format!("10.244.0.{number}");
                let patch = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": "True",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
                drop(api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"nodeName": "n1", "containers": [
                    {"name": "c", "image": "v1", "ports": [{"name": "http", "containerPort": 8080}]}]}
            }
        }
    })
}

async fn complete(api: &Api<Deployment>, name: &str, replicas: i32, revision: &str) {
    until(&format!("deployment {name} is complete at revision {revision}"), || async {
        let found = api.get(name).await.unwrap();
        let status = found.status.unwrap_or_default();
        let annotations = found.metadata.annotations.unwrap_or_default();
        status.observed_generation == found.metadata.generation
            && status.updated_replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas
            && status.replicas.unwrap_or(0) == replicas
            && annotations.get("deployment.kubernetes.io/revision").is_some_and(|found| found == revision)
    })
    .await;
}

async fn set_image(api: &Api<Deployment>, name: &str, image: &str) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs upstream's programs: see the head of this file"]
async fn upstreams_api_server_is_served_by_our_controllers() {
    let cluster = Arc::new(Cluster::start().await);
    let admin = cluster.as_user("admin");
    let authority =
        pki::Authority::self_signed("test", pki::Key::generate().unwrap(), Timestamp::now()).unwrap();
    let config = Config {
        cluster_cidrs: vec!["10.244.0.0/16".into()],
        signer: Some(Arc::new(authority)),
        root_ca_pem: Some("the root".into()),
        node_monitor_grace: Duration::from_secs(4),
        ..Config::default()
    };
    let cache = Cache::new(admin.clone(), &cluster.scope);
    let (clients, scope) = (Arc::clone(&cluster), cluster.scope.child("controllers"));
    cluster.scope.spawn("controllers", async move {
        controllers::run(config, &*clients, &cache, scope).await.unwrap();
    });
    let nodes: Api<Node> = Api::all(admin.clone());
    create(&nodes, json!({"metadata": {"name": "n1"}})).await;
    let ready = json!({"status": {"conditions": [
        {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}});
    nodes.patch_status("n1", &PatchParams::default(), &Patch::Strategic(ready)).await.unwrap();
    let (kubelet, token) = (play_kubelet(admin.clone(), admin.clone()), cluster.scope.token());
    cluster.scope.spawn("kubelet", async move {
        tokio::select! {
            () = kubelet => {}
            () = token.cancelled() => {}
        }
    });

    a_namespace_begins_with_its_account_and_root_ca(&admin).await;
    a_deployment_rolls_and_is_undone(&admin).await;
    a_replication_controller_keeps_its_pods(&admin).await;
    a_budget_is_counted_spent_and_kept(&admin).await;
    a_daemon_set_follows_its_nodes_rolls_and_is_undone(&admin).await;
    a_service_has_its_endpoints(&admin).await;
    a_silent_node_is_tainted_and_its_pods_leave(&admin).await;
    a_node_gets_its_certificate(&admin, &cluster.as_user("node")).await;
    owners_take_their_dependents_along(&admin).await;
    a_namespace_ends_empty(&admin).await;
    assert!(cluster.scope.close(Duration::from_secs(20)).await, "everything stops");
}

async fn a_namespace_begins_with_its_account_and_root_ca(admin: &Client) {
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    until("service account", || async { accounts.get_opt("default").await.unwrap().is_some() }).await;
    until("root CA", || async { maps.get_opt("kube-root-ca.crt").await.unwrap().is_some() }).await;
    let nodes: Api<Node> = Api::all(admin.clone());
    until("pod CIDR", || async {
        nodes.get("n1").await.unwrap().spec.unwrap().pod_cidr.as_deref() == Some("10.244.0.0/24")
    })
    .await;
}

async fn a_deployment_rolls_and_is_undone(admin: &Client) {
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(admin.clone(), "default");
    create(&deployments, deployment("web", 3)).await;
    complete(&deployments, "web", 3, "1").await;
    set_image(&deployments, "web", "v2").await;
    complete(&deployments, "web", 3, "2").await;
    set_image(&deployments, "web", "v1").await;
    complete(&deployments, "web", 3, "3").await;
    let scale = json!({"spec": {"replicas": 5}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    complete(&deployments, "web", 5, "3").await;
    assert_eq!(sets.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 5);
}

fn replication_controller(replicas: i32) -> Value {
    json!({
        "metadata": {"name": "old"},
        "spec": {
            "replicas": replicas,
            "template": {
                "metadata": {"labels": {"app": "old"}},
                "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "v1"}]}
            }
        }
    })
}

async fn all_available(api: &Api<ReplicationController>, replicas: i32) {
    until(&format!("the replication controller has {replicas} pods"), || async {
        let found = api.get("old").await.unwrap();
        let status = found.status.unwrap_or_default();
        status.observed_generation == found.metadata.generation
            && status.replicas == replicas
            && status.fully_labeled_replicas.unwrap_or(0) == replicas
            && status.available_replicas.unwrap_or(0) == replicas
    })
    .await;
}

async fn a_replication_controller_keeps_its_pods(admin: &Client) {
    let controllers: Api<ReplicationController> = Api::namespaced(admin.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let events: Api<Event> = Api::namespaced(admin.clone(), "default");
    let old = ListParams::default().labels("app=old");

    create(&controllers, replication_controller(2)).await;
    all_available(&controllers, 2).await;
    let scale = json!({"spec": {"replicas": 3}});
    controllers.patch_scale("old", &PatchParams::default(), &Patch::Merge(scale)).await.unwrap();
    all_available(&controllers, 3).await;
    let told = ListParams::default().fields("involvedObject.kind=ReplicationController");
    until("its controller tells of each pod, by its own name", || async {
        let found = events.list(&told).await.unwrap().items;
        let made = found.iter().filter(|event| event.reason.as_deref() == Some("SuccessfulCreate"));
        made.filter(|event| event.reporting_component.as_deref() == Some("replication-controller")).count()
            == 3
    })
    .await;

    let released = pods.list(&old).await.unwrap().items[0].metadata.name.clone().unwrap();
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    pods.patch(&released, &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    until("a pod that it selects no more is let go", || async {
        pods.get(&released).await.unwrap().metadata.owner_references.is_none()
    })
    .await;
    until("another takes its place", || async { pods.list(&old).await.unwrap().items.len() == 3 }).await;
    pods.delete(&released, &DeleteParams::default()).await.unwrap();

    controllers.delete("old", &DeleteParams::orphan()).await.unwrap();
    until("it leaves its pods behind", || async { controllers.get_opt("old").await.unwrap().is_none() })
        .await;
    let left = pods.list(&old).await.unwrap().items;
    assert!(left.len() == 3 && left.iter().all(|pod| pod.metadata.owner_references.is_none()), "{left:?}");
    let successor = create(&controllers, replication_controller(2)).await;
    all_available(&controllers, 2).await;
    for pod in pods.list(&old).await.unwrap().items {
        let owner = &pod.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.api_version.as_str(), owner.kind.as_str()), ("v1", "ReplicationController"));
        assert_eq!(Some(&owner.uid), successor.metadata.uid.as_ref());
    }
    controllers.delete("old", &DeleteParams::foreground()).await.unwrap();
    until("it goes after its pods", || async {
        if controllers.get_opt("old").await.unwrap().is_some() {
            return false;
        }
        assert!(pods.list(&old).await.unwrap().items.is_empty());
        true
    })
    .await;
}

async fn counted(
    api: &Api<PodDisruptionBudget>,
    what: &str,
    holds: impl Fn(&PodDisruptionBudgetStatus) -> bool,
) {
    until(what, || async {
        let found = api.get("web").await.unwrap();
        let status = found.status.unwrap_or_default();
        status.observed_generation == found.metadata.generation && holds(&status)
    })
    .await;
}

/// Of the five pods of the Deployment `web`, four have to stay.
async fn a_budget_is_counted_spent_and_kept(admin: &Client) {
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(admin.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let spec = json!({"maxUnavailable": "20%", "selector": {"matchLabels": {"app": "web"}}});
    create(&budgets, json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let whole = |status: &PodDisruptionBudgetStatus| {
        (status.expected_pods, status.desired_healthy, status.current_healthy, status.disruptions_allowed)
            == (Some(5), Some(4), Some(5), Some(1))
    };
    counted(&budgets, "the Deployment's size is known", whole).await;
    let web = pods.list(&ListParams::default().labels("app=web")).await.unwrap().items;
    let victim = web[0].metadata.name.clone().unwrap();
    pods.evict(&victim, &EvictParams::default()).await.unwrap();
    counted(&budgets, "another pod takes its place", |status| {
        whole(status) && status.disrupted_pods.is_none()
    })
    .await;

    let all = json!({"spec": {"maxUnavailable": 0}});
    budgets.patch("web", &PatchParams::default(), &Patch::Merge(all)).await.unwrap();
    counted(&budgets, "nothing is allowed", |status| status.disruptions_allowed.unwrap_or(0) == 0).await;
    let stays = web[1].metadata.name.clone().unwrap();
    let refused = pods.evict(&stays, &EvictParams::default()).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 429), "{refused}");

    let lone = json!({"metadata": {"name": "lone", "labels": {"app": "web"}}, "spec": {"nodeName": "n1",
        "containers": [{"name": "c", "image": "v1"}]}});
    create(&pods, lone).await;
    let unmanaged =
        ListParams::default().fields("involvedObject.kind=PodDisruptionBudget,reason=UnmanagedPods");
    let events: Api<Event> = Api::namespaced(admin.clone(), "default");
    until("a pod without a controller is told of", || async {
        !events.list(&unmanaged).await.unwrap().items.is_empty()
    })
    .await;
    pods.delete("lone", &DeleteParams::default()).await.unwrap();
    budgets.delete("web", &DeleteParams::default()).await.unwrap();
}

/// The test's scheduler: what is made for n1 is bound to it.
async fn bind(pods: &Api<Pod>, label: &ListParams) {
    for pod in pods.list(label).await.unwrap() {
        let spec = serde_json::to_value(&pod.spec).unwrap();
        let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
        let pinned = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]);
        assert_eq!(spec.pointer(terms), Some(&pinned), "n1 is the only node that is meant");
        if spec["nodeName"].is_null() {
            let name = pod.metadata.name.as_deref().unwrap();
            let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"kind": "Node", "name": "n1"}});
            let params = PostParams::default();
            // Gone in between, or bound: the next look shows it.
            drop(pods.create_subresource::<_, Value>("binding", name, &params, &binding).await);
        }
    }
}

async fn everywhere(admin: &Client, image: &str, number: i64) {
    let sets: Api<DaemonSet> = Api::namespaced(admin.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let revisions: Api<ControllerRevision> = Api::namespaced(admin.clone(), "default");
    let label = ListParams::default().labels("app=agent");
    until(&format!("the daemon set runs {image} as revision {number}"), || async {
        bind(&pods, &label).await;
        let found = sets.get("agent").await.unwrap();
        let status = found.status.unwrap_or_default();
        let newest = revisions.list(&label).await.unwrap().items;
        let newest = newest.into_iter().max_by_key(|revision| revision.revision);
        let of = newest.filter(|revision| revision.revision == number).and_then(|revision| revision.data);
        of.is_some_and(|data| data.0["spec"]["template"]["spec"]["containers"][0]["image"] == image)
            && status.observed_generation == found.metadata.generation
            && status.desired_number_scheduled == 1
            && status.updated_number_scheduled == Some(1)
            && status.number_available == Some(1)
            && status.number_misscheduled == 0
    })
    .await;
}

async fn a_daemon_set_follows_its_nodes_rolls_and_is_undone(admin: &Client) {
    let sets: Api<DaemonSet> = Api::namespaced(admin.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let nodes: Api<Node> = Api::all(admin.clone());
    let label = ListParams::default().labels("app=agent");
    create(
        &sets,
        json!({"metadata": {"name": "agent"}, "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {
                "nodeSelector": {"agent": "yes"}, "containers": [{"name": "c", "image": "v1"}]}}}}),
    )
    .await;
    let labelled = |value: Value| Patch::Merge(json!({"metadata": {"labels": {"agent": value}}}));
    nodes.patch("n1", &PatchParams::default(), &labelled(json!("yes"))).await.unwrap();
    everywhere(admin, "v1", 1).await;
    for (image, number) in [("v2", 2), ("v1", 3)] {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        sets.patch("agent", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
        everywhere(admin, image, number).await;
    }
    nodes.patch("n1", &PatchParams::default(), &labelled(Value::Null)).await.unwrap();
    until("no pod is left where none belongs", || async {
        pods.list(&label).await.unwrap().items.is_empty()
    })
    .await;
    sets.delete("agent", &DeleteParams::foreground()).await.unwrap();
    until("the daemon set is gone", || async { sets.get_opt("agent").await.unwrap().is_none() }).await;
}

async fn a_service_has_its_endpoints(admin: &Client) {
    let services: Api<Service> = Api::namespaced(admin.clone(), "default");
    let slices: Api<EndpointSlice> = Api::namespaced(admin.clone(), "default");
    let endpoints: Api<Endpoints> = Api::namespaced(admin.clone(), "default");
    let ports = json!([{"port": 80, "targetPort": "http"}]);
    create(
        &services,
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}),
    )
    .await;
    let of = |name: &str| ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    until("five endpoints in a slice", || async {
        let found = slices.list(&of("web")).await.unwrap().items;
        found.len() == 1 && found[0].endpoints.iter().flatten().count() == 5
    })
    .await;
    until("five addresses", || async {
        let found = endpoints.get_opt("web").await.unwrap();
        let subsets = found.and_then(|found| found.subsets).unwrap_or_default();
        subsets.iter().flat_map(|subset| subset.addresses.iter().flatten()).count() == 5
    })
    .await;
    create(&services, json!({"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}})).await;
    create(
        &endpoints,
        json!({"metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 5432}]}]}),
    )
    .await;
    until("a mirrored slice", || async { slices.list(&of("db")).await.unwrap().items.len() == 1 }).await;
}

async fn a_silent_node_is_tainted_and_its_pods_leave(admin: &Client) {
    let nodes: Api<Node> = Api::all(admin.clone());
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    create(&nodes, json!({"metadata": {"name": "n2"}})).await;
    create(
        &pods,
        json!({"metadata": {"name": "leaves"}, "spec": {"nodeName": "n2",
        "tolerations": [{"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 1}],
        "containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    until("n2 is unreachable", || async {
        let taints = nodes.get("n2").await.unwrap().spec.unwrap().taints.unwrap_or_default();
        taints.iter().filter(|taint| taint.key == "node.kubernetes.io/unreachable").count() == 2
    })
    .await;
    until("the pod leaves", || async {
        pods.get_opt("leaves").await.unwrap().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    })
    .await;
    let taints = nodes.get("n1").await.unwrap().spec.unwrap().taints.unwrap_or_default();
    assert!(taints.is_empty(), "{taints:?}");
}

async fn a_node_gets_its_certificate(admin: &Client, node: &Client) {
    let bindings: Api<ClusterRoleBinding> = Api::all(admin.clone());
    for role in
        ["system:node-bootstrapper", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"]
    {
        create(&bindings, json!({"metadata": {"name": format!("test:{role}").replace("::", ":")},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]}))
        .await;
    }
    let profile = pki::Profile::KubeletClient { node: "n1".into() };
    let request = pki::Request::make(&profile, &pki::Key::generate().unwrap()).unwrap();
    let csr = CertificateSigningRequest {
        metadata: kube::core::ObjectMeta { name: Some("n1".into()), ..Default::default() },
        spec: k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec {
            request: k8s_openapi::ByteString(request.into_bytes()),
            signer_name: pki::signers::KUBE_API_SERVER_CLIENT_KUBELET.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..Default::default()
        },
        status: None,
    };
    let api: Api<CertificateSigningRequest> = Api::all(node.clone());
    until("the request is taken", || async { api.create(&PostParams::default(), &csr).await.is_ok() }).await;
    let all: Api<CertificateSigningRequest> = Api::all(admin.clone());
    until("the certificate is issued", || async {
        all.get("n1").await.unwrap().status.is_some_and(|status| status.certificate.is_some())
    })
    .await;
}

async fn owners_take_their_dependents_along(admin: &Client) {
    let deployments: Api<Deployment> = Api::namespaced(admin.clone(), "default");
    let sets: Api<ReplicaSet> = Api::namespaced(admin.clone(), "default");
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(admin.clone(), "default");
    let web = ListParams::default().labels("app=web");

    let owner = create(&maps, json!({"metadata": {"name": "owner"}})).await;
    let reference =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid});
    create(&maps, json!({"metadata": {"name": "child", "ownerReferences": [reference]}})).await;
    let stranger = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "no-such-uid"});
    create(&maps, json!({"metadata": {"name": "lost", "ownerReferences": [stranger]}})).await;
    until("what names a dead UID goes", || async { maps.get_opt("lost").await.unwrap().is_none() }).await;
    assert!(maps.get_opt("child").await.unwrap().is_some());
    maps.delete("owner", &DeleteParams::background()).await.unwrap();
    until("the child follows", || async { maps.get_opt("child").await.unwrap().is_none() }).await;

    deployments.delete("web", &DeleteParams::foreground()).await.unwrap();
    until("the deployment goes last", || async {
        if deployments.get_opt("web").await.unwrap().is_some() {
            return false;
        }
        assert!(sets.list(&web).await.unwrap().items.is_empty());
        true
    })
    .await;
    until("its pods are gone", || async { pods.list(&web).await.unwrap().items.is_empty() }).await;

    create(&deployments, deployment("kept", 1)).await;
    complete(&deployments, "kept", 1, "1").await;
    deployments.delete("kept", &DeleteParams::orphan()).await.unwrap();
    until("the deployment lets its set go", || async {
        deployments.get_opt("kept").await.unwrap().is_none()
    })
    .await;
    let kept = sets.list(&ListParams::default().labels("app=kept")).await.unwrap().items;
    assert!(kept.len() == 1 && kept[0].metadata.owner_references.is_none(), "{kept:?}");
}

async fn a_namespace_ends_empty(admin: &Client) {
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    create(&namespaces, json!({"metadata": {"name": "short"}})).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), "short");
    until("service account", || async { accounts.get_opt("default").await.unwrap().is_some() }).await;
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "short");
    create(
        &pods,
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1",
        "containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    namespaces.delete("short", &DeleteParams::default()).await.unwrap();
    until("the namespace is gone", || async { namespaces.get_opt("short").await.unwrap().is_none() }).await;
}
