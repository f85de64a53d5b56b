//! Parts of a node alone, called by upstream's names: a kubelet and a kube-proxy with the files that kubeadm writes,
//! beside other people's pod network, against a control plane somewhere else.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration};

use crate::hosts::{
    Host, Link, Started, text,
    upstream::{cgroup_root, kubeconfig},
};

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
    control_plane(&mut a);
    let b = Host::on(&link, "b", 2);
    refusals(&b);
    let line = a.token();
    let files = Files::write(&a, &b, line.split(' ').nth(4).unwrap(), "");
    let node = Parts::start(&a, &b, &files, |name| b.called(name));
    assert_eq!(b.fetch("http://127.0.0.1:10248/healthz").unwrap(), "ok");
    let health = b.fetch("http://127.0.0.1:10256/healthz").unwrap();
    assert!(health.contains("\"nodeEligible\":true"), "{health}");
    logs_and_exec(&a);
    // A restart needs no token any more, and changes nothing in the pod.
    let Parts { kubelet, proxy } = node;
    let containers = b.containers_that_run();
    drop(kubelet);
    fs::remove_file(&files.bootstrap).unwrap();
    let before = renewed(&a);
    let kubelet = files.start_kubelet(&b, b.called("kubelet"));
    a.eventually("the kubelet is back", SECONDS_60, |a| {
        if renewed(a) == before { Err(kubelet.log_tail()) } else { Ok(()) }
    });
    ready(&a, &kubelet);
    assert_eq!(b.running_containers(), containers);
    cleans_up(&b, proxy);
}

/// A kubelet and a kube-proxy that run, ours or upstream's.
pub(crate) struct Parts {
    pub(crate) kubelet: Started,
    pub(crate) proxy: Started,
}

impl Parts {
    /// Makes the host `b` a node of the control plane on `a`, whose pod is served.
    pub(crate) fn start(a: &Host, b: &Host, files: &Files, program: impl Fn(&str) -> Command) -> Self {
        network(b);
        let kubelet = files.start_kubelet(b, program("kubelet"));
        ready(a, &kubelet);
        registered(a, files);
        a.apply(OBJECTS);
        let token = a.k(&["create", "token", "kube-proxy", "-n", "kube-system"]);
        let proxy = files.start_proxy(a, b, program("kube-proxy"), token.trim());
        a.eventually("the pod is ready", SECONDS_60, |a| {
            let output = a.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=5s"]);
            if output.status.success() {
                Ok(())
            } else {
                Err(format!("{}\n{}", text(&output), kubelet.log_tail()))
            }
        });
        serves(a, b, &proxy);
        Self { kubelet, proxy }
    }
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
pub(crate) struct Files {
    bootstrap: String,
    kubeconfig: String,
    config: String,
    state: String,
    run: String,
}

impl Files {
    /// `token` is a bootstrap token; `more` are lines of the kubelet's configuration.
    pub(crate) fn write(a: &Host, b: &Host, token: &str, more: &str) -> Self {
        let (state, run) = (b.state(), b.run());
        let files = Self {
            bootstrap: format!("{state}/bootstrap-kubelet.conf"),
            kubeconfig: format!("{state}/kubelet.conf"),
            config: format!("{state}/kubelet.yaml"),
            state: state.clone(),
            run,
        };
        fs::write(&files.bootstrap, kubeconfig(a, token)).unwrap();
        fs::create_dir_all(format!("{state}/manifests")).unwrap();
        let config = KUBELET
            .replace("/etc/kubernetes/pki/ca.crt", &format!("{}/pki/ca.crt", a.state()))
            .replace("cgroupDriver: systemd", "cgroupDriver: cgroupfs")
            .replace("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
            .replace("/etc/kubernetes/manifests", &format!("{state}/manifests"));
        let own = format!(
            "cgroupRoot: {}\npodLogsDir: {state}/logs\nserverTLSBootstrap: true\n\
             registerWithTaints: [{{key: example.com/new, effect: NoSchedule}}]\n",
            cgroup_root(b)
        );
        fs::write(&files.config, format!("{config}{own}{more}")).unwrap();
        files
    }

    pub(crate) fn start_kubelet(&self, b: &Host, mut program: Command) -> Started {
        let Self { bootstrap, kubeconfig, config, state, run } = self;
        program.arg(format!("--bootstrap-kubeconfig={bootstrap}"));
        program.arg(format!("--kubeconfig={kubeconfig}"));
        program.arg(format!("--config={config}"));
        program.arg(format!("--container-runtime-endpoint=unix://{run}/containerd.sock"));
        program.args(["--hostname-override=b", "--node-labels=example.com/rack=7", "--v", "2"]);
        // Else upstream's asks the machine's resolvers for the name, at each status, and these may not answer from in here.
        program.arg(format!("--node-ip={}", b.address()));
        program.arg(format!("--root-dir={state}/kubelet"));
        program.arg(format!("--cert-dir={state}/kubelet/pki"));
        b.start_beside("kubelet", program)
    }

    fn start_proxy(&self, a: &Host, b: &Host, mut program: Command, token: &str) -> Started {
        let Self { state, .. } = self;
        let (by, config) = (format!("{state}/kube-proxy.conf"), format!("{state}/kube-proxy.yaml"));
        fs::write(&by, kubeconfig(a, token)).unwrap();
        // What is 0 here is left as the kernel has it; the tests' machine lets nobody change it.
        let text = KUBE_PROXY
            .replace("/var/lib/kube-proxy/kubeconfig.conf", &by)
            .replace("clusterCIDR: 10.244.0.0/16", "clusterCIDR: 10.85.0.0/16")
            .replace("maxPerCore: null", "maxPerCore: 0")
            .replace("min: null", "min: 0")
            .replace("Timeout: null", "Timeout: 0s");
        fs::write(&config, text).unwrap();
        program.arg(format!("--config={config}")).arg("--hostname-override=b");
        b.start_beside("kube-proxy", program)
    }
}

/// Starts the control plane alone, and waits for it.
pub(crate) fn control_plane(a: &mut Host) {
    a.start_as(&["server"]);
    answers(a);
    a.eventually("pods can be made", SECONDS_60, |a| {
        let output = a.kubectl(&["get", "serviceaccount", "default"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
}

/// Waits for the API.
pub(crate) fn answers(a: &Host) {
    a.eventually("the API answers", SECONDS_60, |a| {
        let output = a.kubectl(&["get", "--raw", "/readyz"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
}

pub(crate) fn ready(a: &Host, kubelet: &Started) {
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
fn registered(a: &Host, files: &Files) {
    let path =
        "jsonpath={.metadata.labels.example\\.com/rack} {.spec.taints[?(@.key=='example.com/new')].effect}";
    assert_eq!(a.k(&["get", "node", "b", "-o", path]), "7 NoSchedule");
    let current = format!("{}/kubelet/pki/kubelet-client-current.pem", files.state);
    assert!(Path::new(&current).exists());
    assert!(fs::read_to_string(&files.kubeconfig).unwrap().contains(&current));
    let requests = a.k(&["get", "csr", "--no-headers"]);
    assert!(requests.contains("system:bootstrap:"), "{requests}");
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
}

/// The kubelet shows what the cluster has signed.
pub(crate) fn logs_and_exec(a: &Host) {
    a.eventually("logs by way of the API server", SECONDS_60, |a| {
        let output = a.kubectl(&["logs", "web"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    assert_eq!(a.k(&["exec", "web", "--", "hostname"]), "web\n");
}

fn cleans_up(b: &Host, proxy: Started) {
    // kubeadm's empty mode is iptables.
    let rules = |b: &Host| text(&b.inside("iptables-save").output().unwrap()).contains("KUBE-SVC-");
    drop(proxy);
    assert!(rules(b), "rules stay while nobody keeps them");
    let output = b.called("kube-proxy").arg("--cleanup").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(!rules(b));
}
