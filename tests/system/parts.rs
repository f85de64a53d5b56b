//! Parts of a node alone, called by upstream's names: a kubelet and a kube-proxy with the files that kubeadm writes,
//! beside other people's pod network, against a control plane somewhere else.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use crate::hosts::{Host, Link, Started, text};

const SECONDS_60: Duration = Duration::from_secs(60);

/// kubeadm's, but for what two hosts on one kernel cannot share.
const KUBELET: &str = include_str!("../../src/config/upstream/testdata/kubeadm-kubelet.yaml");
const KUBE_PROXY: &str = include_str!("../../src/config/upstream/testdata/kubeadm-kube-proxy.yaml");
const CHAIN: &str = include_str!("../../cni/bridge.conflist");

/// kube-proxy's account, as kubeadm makes it, and something to serve.
const OBJECTS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: kube-proxy, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:node-proxier"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:node-proxier"}
subjects: [{kind: ServiceAccount, name: kube-proxy, namespace: kube-system}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  tolerations: [{key: example.com/new, operator: Exists}]
  containers: [{name: web, image: coracle.dev/demo:1, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30082}]}
"#;

#[test]
fn a_kubelet_and_a_kube_proxy_by_upstreams_flags_and_files_are_a_node() {
    let link = Link::new("parts");
    let mut a = Host::on(&link, "a", 1);
    a.start_as(&["server"]);
    a.eventually("the API answers", SECONDS_60, |a| {
        let output = a.kubectl(&["get", "serviceaccount", "default"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    let b = Host::on(&link, "b", 2);
    refusals(&b);
    network(&b);
    let files = Files::write(&a, &b);
    let kubelet = b.start_called("kubelet", &files.kubelet_flags());
    ready(&a, &kubelet);
    registered(&a, &b, &files);
    a.apply(OBJECTS);
    let token = a.k(&["create", "token", "kube-proxy", "-n", "kube-system"]);
    let proxy = b.start_called("kube-proxy", &files.proxy_flags(&a, token.trim()));
    a.eventually("the pod is ready", SECONDS_60, |a| {
        let output = a.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=5s"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{}\n{}", text(&output), kubelet.log_tail()))
        }
    });
    serves(&a, &b, &proxy);
    // A restart needs no token any more, and changes nothing in the pod.
    let containers = b.running_containers();
    drop(kubelet);
    fs::remove_file(&files.bootstrap).unwrap();
    let before = renewed(&a);
    let kubelet = b.start_called("kubelet", &files.kubelet_flags());
    a.eventually("the kubelet is back", SECONDS_60, |a| {
        if renewed(a) == before { Err(kubelet.log_tail()) } else { Ok(()) }
    });
    ready(&a, &kubelet);
    assert_eq!(b.running_containers(), containers);
    cleans_up(&b, proxy);
}

fn renewed(a: &Host) -> String {
    a.k(&["get", "lease", "b", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"])
}

/// What is wrong is told before anything is done.
fn refusals(b: &Host) {
    for (program, flags, code, expected) in [
        ("kubelet", &["--no-such-flag"][..], 2, "unknown flag: --no-such-flag"),
        ("kubelet", &["--max-pods=x", "--max-pod=1"], 2, "did you mean --max-pods?"),
        (
            "kubelet",
            &["--kubeconfig=/nowhere", "--config=/nowhere"],
            2,
            "cannot read the configuration /nowhere",
        ),
        ("kube-proxy", &["--kubeconfig=/nowhere"], 1, "read kubeconfig /nowhere"),
        ("kubelet", &["--version"], 0, "Kubernetes v1."),
        ("kube-proxy", &["--help"], 0, "--cluster-cidr"),
    ] {
        let output = b.called(program).args(flags).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(code), "{program} {flags:?}: {said}");
        assert!(said.contains(expected), "{program} {flags:?}: {expected:?} in {said}");
    }
    let output = b.inside(crate::hosts::tool("CORACLE_BIN")).args(["kubelet", "--version"]).output().unwrap();
    assert!(text(&output).starts_with("Kubernetes v1."), "{}", text(&output));
}

/// Other people's network, in the runtime's own folders.
fn network(b: &Host) {
    let (state, run) = (b.state(), b.run());
    let addresses = Path::new(&state).join("host-local");
    let ipam = format!("\"type\": \"host-local\", \"dataDir\": \"{}\",", addresses.display());
    fs::write(
        format!("{run}/cni/net.d/10-bridge.conflist"),
        CHAIN.replace("\"type\": \"host-local\",", &ipam),
    )
    .unwrap();
    for plugin in ["bridge", "host-local", "portmap", "bandwidth", "loopback"] {
        symlink(format!("/usr/lib/cni/{plugin}"), format!("{run}/cni/bin/{plugin}")).unwrap();
    }
}

/// What kubeadm would have put below /etc/kubernetes and /var/lib.
struct Files {
    bootstrap: String,
    kubeconfig: String,
    config: String,
    state: String,
    run: String,
}

impl Files {
    fn write(a: &Host, b: &Host) -> Self {
        let (state, run) = (b.state(), b.run());
        let files = Self {
            bootstrap: format!("{state}/bootstrap-kubelet.conf"),
            kubeconfig: format!("{state}/kubelet.conf"),
            config: format!("{state}/kubelet.yaml"),
            state: state.clone(),
            run,
        };
        let line = a.token();
        let token = line.split(' ').nth(4).unwrap();
        fs::write(&files.bootstrap, kubeconfig(a, token)).unwrap();
        let authority = format!("{}/pki/ca.crt", a.state());
        let of_host = fs::read_to_string(b.config()).unwrap();
        let cgroup_root = of_host.lines().find(|line| line.contains("cgroupRoot")).unwrap().trim();
        let config = KUBELET
            .replace("/etc/kubernetes/pki/ca.crt", &authority)
            .replace("cgroupDriver: systemd", "cgroupDriver: cgroupfs")
            .replace("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
            .replace("/etc/kubernetes/manifests", &format!("{state}/manifests"));
        let own = format!("{cgroup_root}\npodLogsDir: {state}/logs\nserverTLSBootstrap: true\n");
        fs::write(
            &files.config,
            format!("{config}{own}registerWithTaints: [{{key: example.com/new, effect: NoSchedule}}]\n"),
        )
        .unwrap();
        files
    }

    fn kubelet_flags(&self) -> Vec<String> {
        let Self { bootstrap, kubeconfig, config, state, run } = self;
        vec![
            format!("--bootstrap-kubeconfig={bootstrap}"),
            format!("--kubeconfig={kubeconfig}"),
            format!("--config={config}"),
            format!("--container-runtime-endpoint=unix://{run}/containerd.sock"),
            "--pod-infra-container-image=registry.k8s.io/pause:3.10".into(),
            "--hostname-override=b".into(),
            "--node-labels=example.com/rack=7".into(),
            "--v".into(),
            "2".into(),
            format!("--root-dir={state}/kubelet"),
            format!("--cert-dir={state}/kubelet/pki"),
        ]
    }

    fn proxy_flags(&self, a: &Host, token: &str) -> Vec<String> {
        let Self { state, .. } = self;
        let (by, config) = (format!("{state}/kube-proxy.conf"), format!("{state}/kube-proxy.yaml"));
        fs::write(&by, kubeconfig(a, token)).unwrap();
        let text = KUBE_PROXY
            .replace("/var/lib/kube-proxy/kubeconfig.conf", &by)
            .replace("clusterCIDR: 10.244.0.0/16", "clusterCIDR: 10.85.0.0/16");
        fs::write(&config, text).unwrap();
        vec![format!("--config={config}"), "--hostname-override=b".into()]
    }
}

fn kubeconfig(a: &Host, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}:6443', certificate-authority: {}/pki/ca.crt}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\n",
        a.address(),
        a.state()
    )
}

fn ready(a: &Host, kubelet: &Started) {
    a.eventually("the node is Ready", SECONDS_60, |a| {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let output = a.kubectl(&["get", "node", "b", "-o", path]);
        if output.stdout == b"True" {
            Ok(())
        } else {
            Err(format!("{}\n{}", text(&output), kubelet.log_tail()))
        }
    });
}

/// By the token a certificate, by the certificate everything else.
fn registered(a: &Host, b: &Host, files: &Files) {
    let path =
        "jsonpath={.metadata.labels.example\\.com/rack} {.spec.taints[?(@.key=='example.com/new')].effect}";
    assert_eq!(a.k(&["get", "node", "b", "-o", path]), "7 NoSchedule");
    let current = format!("{}/kubelet/pki/kubelet-client-current.pem", files.state);
    assert!(Path::new(&current).exists());
    assert!(fs::read_to_string(&files.kubeconfig).unwrap().contains(&current));
    let requests = a.k(&["get", "csr", "--no-headers"]);
    assert!(requests.contains("system:bootstrap:"), "{requests}");
    assert_eq!(b.fetch("http://127.0.0.1:10248/healthz").unwrap(), "ok");
    // The network is the runtime's: nothing was offered beside it.
    let networks: Vec<_> = fs::read_dir(format!("{}/cni/net.d", files.run)).unwrap().flatten().collect();
    assert_eq!(networks.len(), 1, "{networks:?}");
}

fn serves(a: &Host, b: &Host, proxy: &Started) {
    let address = a.k(&["get", "pod", "web", "-o", "jsonpath={.status.podIP}"]);
    assert!(address.starts_with("10.85."), "{address}");
    let service = a.k(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    for url in [format!("http://{service}/"), format!("http://{}:30082/", b.address())] {
        let page = b.eventually("the Service answers", SECONDS_60, |b| {
            b.fetch(&url).map_err(|error| format!("{error}\n{}", proxy.log_tail()))
        });
        assert!(page.contains("Hello"), "{page}");
    }
    let page =
        a.eventually("the node port answers others", SECONDS_60, |a| a.fetch("http://10.88.0.2:30082/"));
    assert!(page.contains("Hello"), "{page}");
    let health = b.fetch("http://127.0.0.1:10256/healthz").unwrap();
    assert!(health.contains("\"nodeEligible\":true"), "{health}");
    // The kubelet shows what the cluster has signed.
    a.eventually("logs by way of the API server", SECONDS_60, |a| {
        let output = a.kubectl(&["logs", "web"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    assert_eq!(a.k(&["exec", "web", "--", "hostname"]), "web\n");
}

fn cleans_up(b: &Host, proxy: Started) {
    let rules = |b: &Host| {
        b.inside("nft").args(["list", "table", "ip", "coracle-proxy"]).output().unwrap().status.success()
    };
    drop(proxy);
    assert!(rules(b), "rules stay while nobody keeps them");
    let output = b.called("kube-proxy").arg("--cleanup").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(!rules(b));
}
