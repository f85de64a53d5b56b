//! Upstream's own programs on hosts: a control plane as kubeadm would start it, and what its kubelet wants to be there.
//!
//! `CORACLE_UPSTREAM` names the folder that `tests/upstream.sh` built them into.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{Host, Started, program::Dead, text, tool};

const SECONDS_60: Duration = Duration::from_secs(60);
/// Our API server answers in nothing else.
const JSON: &str = "--kube-api-content-type=application/json";

/// One of upstream's programs on a host.
pub(crate) fn program(host: &Host, name: &str) -> Command {
    host.inside(tool("CORACLE_UPSTREAM").join(name))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What upstream's kubelet wants to be there before it starts.
pub(crate) struct CgroupRoot(Vec<PathBuf>);

impl CgroupRoot {
    pub(crate) fn make(host: &Host) -> Self {
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

/// kubeadm, with the certificates of a host.
struct Kubeadm<'a> {
    host: &'a Host,
    config: String,
}

impl Kubeadm<'_> {
    fn on(host: &Host) -> Kubeadm<'_> {
        let (state, address) = (host.state(), host.address());
        let config = format!("{state}/kubeadm.yaml");
        let text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\nlocalAPIEndpoint: {{advertiseAddress: {address}, bindPort: 6443}}\n\
             nodeRegistration: {{name: a}}\n---\napiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n\
             certificatesDir: {state}/pki\nnetworking: {{serviceSubnet: 10.96.0.0/16, podSubnet: 10.244.0.0/16}}\n"
        );
        fs::write(&config, text).unwrap();
        Kubeadm { host, config }
    }

    #[track_caller]
    fn phase(&self, phase: &[&str]) {
        let mut command = program(self.host, "kubeadm");
        succeeds(command.args(["init", "phase"]).args(phase).args(["--config", &self.config]));
    }

    fn kubeconfig(&self, who: &str) {
        self.phase(&["kubeconfig", who, "--kubeconfig-dir", &self.host.state()]);
    }
}

/// Upstream's scheduler and controllers for our API server on `a`, known by certificates of its authority.
pub(crate) fn controllers_and_scheduler_for_ours(a: &Host) -> [Started; 2] {
    let kubeadm = Kubeadm::on(a);
    kubeadm.kubeconfig("controller-manager");
    kubeadm.kubeconfig("scheduler");
    controllers_and_scheduler(a)
}

fn controllers_and_scheduler(a: &Host) -> [Started; 2] {
    let state = a.state();
    let scheduler =
        [format!("--kubeconfig={state}/scheduler.conf"), "--leader-elect=false".into(), JSON.into()];
    [start(a, "kube-controller-manager", &controller_manager(&state)), start(a, "kube-scheduler", &scheduler)]
}

/// Upstream's control plane, as kubeadm would start it.
pub(crate) struct ControlPlane {
    programs: Vec<Started>,
}

impl ControlPlane {
    pub(crate) fn start(a: &Host) -> Self {
        let state = a.state();
        let kubeadm = Kubeadm::on(a);
        kubeadm.phase(&["certs", "all"]);
        for who in ["admin", "super-admin", "controller-manager", "scheduler"] {
            kubeadm.kubeconfig(who);
        }
        // The host's kubectl acts as that.
        fs::copy(format!("{state}/super-admin.conf"), format!("{state}/admin.kubeconfig")).unwrap();
        let first = [start(a, "etcd", &etcd(&state)), start(a, "kube-apiserver", &api_server(a))];
        let mut control_plane = Self { programs: first.into() };
        a.eventually("upstream's API answers", SECONDS_60, |a| {
            let output = a.kubectl(&["get", "--raw", "/readyz"]);
            let dead = control_plane.dead().map(|dead| dead.to_string());
            if output.status.success() { Ok(()) } else { Err(dead.unwrap_or_else(|| text(&output))) }
        });
        let admins = ["--clusterrole=cluster-admin", "--group=kubeadm:cluster-admins"];
        a.k(&[&["create", "clusterrolebinding", "kubeadm:cluster-admins"][..], &admins].concat());
        control_plane.programs.extend(controllers_and_scheduler(a));
        let admin = format!("{state}/super-admin.conf");
        kubeadm.phase(&["upload-config", "kubeadm", "--kubeconfig", &admin]);
        kubeadm.phase(&["bootstrap-token", "--kubeconfig", &admin]);
        control_plane
    }

    /// The first of its programs that has ended.
    pub(crate) fn dead(&self) -> Option<Dead> {
        self.programs.iter().find_map(Started::dead)
    }

    /// `HOST:PORT`, token and hash of the line that kubeadm prints for another machine.
    pub(crate) fn join_line(a: &Host) -> [String; 3] {
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

fn api_server(a: &Host) -> Vec<String> {
    let (address, pki) = (a.address(), format!("{}/pki", a.state()));
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

fn controller_manager(state: &str) -> Vec<String> {
    let mut flags: Vec<String> = [
        "--use-service-account-credentials",
        "--controllers=*,bootstrap-signer-controller,token-cleaner-controller",
        "--allocate-node-cidrs=true",
        "--cluster-cidr=10.244.0.0/16",
        "--leader-elect=false",
        JSON,
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
        flags.push(format!("--{flag}={state}/pki/{file}"));
    }
    flags
}

/// The cgroup of a host's pods.
pub(crate) fn cgroup_root(host: &Host) -> String {
    let config = fs::read_to_string(host.config()).unwrap();
    config.lines().find_map(|line| line.trim().strip_prefix("cgroupRoot: ")).unwrap().to_string()
}

/// Of somebody who shows a token to the API server on `a`.
pub(crate) fn kubeconfig(a: &Host, token: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://{}:6443', certificate-authority: {}/pki/ca.crt}}}}]\n\
         users: [{{name: u, user: {{token: '{token}'}}}}]\n",
        a.address(),
        a.state()
    )
}
