//! Mixtures with upstream's own programs: its node on our control plane, our nodes on its control plane.
//!
//! `make upstream-test` builds them (`CORACLE_UPSTREAM`) and runs these.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    hosts::{Host, Link, Started, text, tool},
    parts::{Files, Parts, cgroup_root, control_plane, logs_and_exec},
};

const SECONDS_60: Duration = Duration::from_secs(60);
const DEMO: &str = include_str!("../../deploy/demo.yaml");

/// One of upstream's programs on a host.
fn program(host: &Host, name: &str) -> Command {
    host.inside(tool("CORACLE_UPSTREAM").join(name))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What upstream's kubelet wants to be there before it starts.
struct CgroupRoot(Vec<PathBuf>);

impl CgroupRoot {
    fn make(host: &Host) -> Self {
        let (tree, name) = (Path::new("/sys/fs/cgroup"), cgroup_root(host));
        let name = name.trim_start_matches('/');
        if tree.join("cgroup.controllers").exists() {
            fs::create_dir_all(tree.join(name)).unwrap();
            return Self(vec![tree.join(name)]);
        }
        let mut made = Vec::new();
        for hierarchy in fs::read_dir(tree).unwrap().flatten().map(|entry| entry.path()) {
            let root = hierarchy.join(name);
            if !hierarchy.is_dir() || fs::create_dir_all(&root).is_err() {
                continue;
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(hierarchy.join(file)) {
                    fs::write(root.join(file), all).unwrap();
                }
            }
            made.push(root);
        }
        Self(made)
    }
}

impl Drop for CgroupRoot {
    fn drop(&mut self) {
        for root in &self.0 {
            // Deepest first. What is in use stays, and is seen after the test.
            let script = "find \"$0\" -depth -type d -exec rmdir {} + 2>/dev/null";
            drop(Command::new("sh").args(["-c", script]).arg(root).status());
        }
    }
}

#[test]
#[ignore = "needs upstream's programs: make upstream-test"]
fn upstreams_kubelet_and_kube_proxy_are_a_node_of_our_control_plane() {
    let link = Link::new("theirs");
    let mut a = Host::on(&link, "a", 1);
    control_plane(&mut a);
    let b = Host::on(&link, "b", 2);
    let _cgroups = CgroupRoot::make(&b);
    let line = a.token();
    let more = "failCgroupV1: false\nfailSwapOn: false\nevictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}\n";
    let files = Files::write(&a, &b, line.split(' ').nth(4).unwrap(), more);
    let _node = Parts::start(&a, &b, &files, |name| program(&b, name));
    logs_and_exec(&a);
    a.k(&["taint", "node", "b", "example.com/new-"]);
    demo(&a, &b);
    // By name, inside: upstream's kubelet writes resolv.conf, upstream's proxy leads to our DNS.
    let fetch = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 demo 80";
    a.eventually("the demo by its name", SECONDS_60, |a| {
        let said = text(&a.kubectl(&["exec", "web", "--", "sh", "-c", fetch]));
        if said.contains("Hello from a pod") { Ok(()) } else { Err(said) }
    });
    a.k(&["delete", "deployment/demo", "service/demo", "pod/web", "--timeout=60s"]);
}

/// The demo, made by whoever has the controllers, answers on `node`.
fn demo(a: &Host, node: &Host) {
    a.apply(DEMO);
    a.k(&["rollout", "status", "deployment/demo", "--timeout=90s"]);
    let address = a.k(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]);
    for url in [format!("http://{address}/"), format!("http://{}:30080/", node.address())] {
        let page = node.eventually("the demo answers", SECONDS_60, |node| node.fetch(&url));
        assert!(page.contains("Hello from a pod"), "{page}");
    }
}

/// Upstream's control plane, as kubeadm would start it.
struct ControlPlane {
    _programs: Vec<Started>,
}

impl ControlPlane {
    fn start(a: &Host) -> Self {
        let (state, address) = (a.state(), a.address());
        let (pki, config) = (format!("{state}/pki"), format!("{state}/kubeadm.yaml"));
        let text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {address}, bindPort: 6443}}\n\
             nodeRegistration: {{name: a}}\n---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n\
             certificatesDir: {pki}\nnetworking: {{serviceSubnet: 10.96.0.0/16, podSubnet: 10.244.0.0/16}}\n"
        );
        fs::write(&config, text).unwrap();
        let phase = |phase: &[&str]| {
            let mut command = program(a, "kubeadm");
            succeeds(command.args(["init", "phase"]).args(phase).args(["--config", &config]));
        };
        phase(&["certs", "all"]);
        for who in ["admin", "super-admin", "controller-manager", "scheduler"] {
            phase(&["kubeconfig", who, "--kubeconfig-dir", &state]);
        }
        // The host's kubectl acts as that.
        fs::copy(format!("{state}/super-admin.conf"), format!("{state}/admin.kubeconfig")).unwrap();
        let mut programs =
            vec![start(a, "etcd", &etcd(&state)), start(a, "kube-apiserver", &api_server(address, &pki))];
        a.eventually("upstream's API answers", SECONDS_60, |a| {
            let output = a.kubectl(&["get", "--raw", "/readyz"]);
            if output.status.success() { Ok(()) } else { Err(programs[1].log_tail()) }
        });
        let admins = ["--clusterrole=cluster-admin", "--group=kubeadm:cluster-admins"];
        a.k(&[&["create", "clusterrolebinding", "kubeadm:cluster-admins"][..], &admins].concat());
        programs.push(start(a, "kube-controller-manager", &controller_manager(&state, &pki)));
        let scheduler = format!("{state}/scheduler.conf");
        programs.push(start(
            a,
            "kube-scheduler",
            &[format!("--kubeconfig={scheduler}"), "--leader-elect=false".into()],
        ));
        let admin = format!("{state}/super-admin.conf");
        phase(&["upload-config", "kubeadm", "--kubeconfig", &admin]);
        phase(&["bootstrap-token", "--kubeconfig", &admin]);
        Self { _programs: programs }
    }

    /// `HOST:PORT`, token and hash of the line that kubeadm prints for another machine.
    fn join_line(a: &Host) -> [String; 3] {
        let admin = format!("{}/super-admin.conf", a.state());
        let mut command = program(a, "kubeadm");
        let line =
            succeeds(command.args(["token", "create", "--print-join-command", "--kubeconfig", &admin]));
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["kubeadm", "join", server, "--token", token, "--discovery-token-ca-cert-hash", hash, ..] =
            words[..]
        else {
            panic!("{line}")
        };
        [server, token, hash].map(str::to_string)
    }
}

fn start(a: &Host, name: &str, arguments: &[String]) -> Started {
    let mut command = program(a, name);
    command.args(arguments);
    a.start_beside(name, command)
}

fn etcd(state: &str) -> Vec<String> {
    vec![
        format!("--data-dir={state}/etcd"),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--log-level=warn".into(),
    ]
}

fn api_server(address: &str, pki: &str) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--secure-port=6443",
        "--etcd-servers=http://127.0.0.1:2379",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--enable-bootstrap-token-auth",
        "--allow-privileged=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
    ]
    .map(str::to_string)
    .to_vec();
    flags.push(format!("--advertise-address={address}"));
    for (flag, file) in [
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "apiserver.crt"),
        ("tls-private-key-file", "apiserver.key"),
        ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
        ("kubelet-client-key", "apiserver-kubelet-client.key"),
        ("service-account-key-file", "sa.pub"),
        ("service-account-signing-key-file", "sa.key"),
        ("requestheader-client-ca-file", "front-proxy-ca.crt"),
        ("proxy-client-cert-file", "front-proxy-client.crt"),
        ("proxy-client-key-file", "front-proxy-client.key"),
    ] {
        flags.push(format!("--{flag}={pki}/{file}"));
    }
    flags
}

fn controller_manager(state: &str, pki: &str) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--use-service-account-credentials",
        "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
        "--allocate-node-cidrs=true",
        "--cluster-cidr=10.244.0.0/16",
        "--leader-elect=false",
    ]
    .map(str::to_string)
    .to_vec();
    flags.push(format!("--kubeconfig={state}/controller-manager.conf"));
    for (flag, file) in [
        ("cluster-signing-cert-file", "ca.crt"),
        ("cluster-signing-key-file", "ca.key"),
        ("root-ca-file", "ca.crt"),
        ("service-account-private-key-file", "sa.key"),
    ] {
        flags.push(format!("--{flag}={pki}/{file}"));
    }
    flags
}

/// A pod and its Service on the node that has joined in our own way.
const ON_C: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-c, labels: {app: web-c}}
spec:
  nodeSelector: {kubernetes.io/hostname: c}
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: coracle.dev/demo:1, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: web-c}
spec: {selector: {app: web-c}, ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
#[ignore = "needs upstream's programs: make upstream-test"]
fn our_nodes_join_upstreams_control_plane_by_kubeadms_token() {
    let link = Link::new("ours");
    let a = Host::on(&link, "a", 1);
    let _control_plane = ControlPlane::start(&a);
    let [server, token, hash] = ControlPlane::join_line(&a);

    // As upstream's own node would: kubeadm's files, other people's network.
    let b = Host::on(&link, "b", 2);
    let files = Files::write(&a, &b, &token, "");
    let _node = Parts::start(&a, &b, &files, |name| b.called(name));
    // kubeadm leaves serving certificates to a person.
    let requests =
        a.k(&["get", "csr", "-o", "name", "--field-selector=spec.signerName=kubernetes.io/kubelet-serving"]);
    for request in requests.lines() {
        a.k(&[
            "certificate",
            "approve",
            request.trim_start_matches("certificatesigningrequest.certificates.k8s.io/"),
        ]);
    }
    logs_and_exec(&a);

    // In our own way, with our own network. The mend that the log names lets the node watch what Services are made of.
    let mut c = Host::on(&link, "c", 3);
    c.start_as(&["join", &server, "--token", &token, "--ca-cert-hash", &hash]);
    let mend = ["--clusterrole=system:node-proxier", "--group=system:nodes"];
    a.k(&[&["create", "clusterrolebinding", "coracle:node-proxier"][..], &mend].concat());
    a.eventually("the node that joined is Ready", SECONDS_60, |a| {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let output = a.kubectl(&["get", "node", "c", "-o", path]);
        if output.stdout == b"True" { Ok(()) } else { Err(format!("{}\n{}", text(&output), c.log_tail())) }
    });
    a.apply(ON_C);
    a.k(&["wait", "--for=condition=Ready", "pod/web-c", "--timeout=60s"]);
    let address = a.k(&["get", "service", "web-c", "-o", "jsonpath={.spec.clusterIP}"]);
    let page = c.eventually("its Service answers", SECONDS_60, |c| c.fetch(&format!("http://{address}/")));
    assert!(page.contains("Hello"), "{page}");
    assert_eq!(a.k(&["exec", "web-c", "--", "hostname"]), "web-c\n");
    demo(&a, &c);
    // Pods go by upstream's controllers and our agents.
    a.k(&["delete", "deployment/demo", "service/demo", "pod/web", "pod/web-c", "--timeout=60s"]);
}
