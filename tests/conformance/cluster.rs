//! A cluster of two hosts for one target: on each host a node, on the first one the control plane too.
//!
//! ```text
//!   namespace of the link: a bridge, the registry, the suite ─┬─▶ host a: control plane, node a
//!                     10.88.0.254                             └─▶ host b: node b
//! ```

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use crate::{
    hosts::{
        Host, Link, Started,
        program::Dead,
        text, tool,
        upstream::{CgroupRoot, ControlPlane, cgroup_root, kubeconfig, program},
    },
    progress, repository,
    target::{Target, Whose},
};

const TWO_MINUTES: Duration = Duration::from_secs(120);

/// What the few specs that really pull find in the registry: archive, name, tag.
const PULLED: [(&str, &str, &str); 4] = [
    ("pause", "pause", "3.10.2"),
    ("busybox", "e2e-test-images/busybox", "1.37.0-1"),
    ("agnhost", "e2e-test-images/agnhost", "2.63.0"),
    ("kitten", "e2e-test-images/kitten", "1.8"),
];
const REGISTRY: &str = "10.88.0.254:5000";

/// Ends in the order of its fields: programs before the hosts that they run on, cgroups after what was in them.
pub(crate) struct Cluster {
    programs: Vec<Started>,
    control_plane: Option<ControlPlane>,
    b: Host,
    a: Host,
    _cgroups: Vec<CgroupRoot>,
    link: Arc<Link>,
}

/// By what a machine joins.
struct Invitation {
    server: String,
    token: String,
    hash: String,
}

impl Cluster {
    /// Starts everything and waits until both nodes are Ready. Panics where a host does.
    pub(crate) fn start(target: Target) -> Self {
        let link = Link::new(target.name());
        progress("loading the images");
        // At the same time: each unpacks more than a gigabyte.
        let (a, b) = thread::scope(|scope| {
            let b = scope.spawn(|| Host::on(&link, "b", 2));
            (Host::on(&link, "a", 1), b.join().unwrap())
        });
        let mut cluster =
            Self { programs: Vec::new(), control_plane: None, b, a, _cgroups: Vec::new(), link };
        progress("starting the registry");
        cluster.registry();
        progress(&format!("starting the cluster: {}", target.described()));
        let invitation = cluster.start_control_plane(target);
        cluster.start_nodes(target, &invitation);
        cluster.ready();
        if target.control_plane() == Whose::Upstreams {
            let manifest = repository().join("deploy/coredns.yaml");
            cluster.a.k(&["apply", "-f", &manifest.display().to_string()]);
        }
        cluster
    }

    /// The administrator's.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        Path::new(&self.a.state()).join("admin.kubeconfig")
    }

    /// The first of all its programs that has ended: what is measured from then on is not the cluster's doing.
    pub(crate) fn dead(&self) -> Option<Dead> {
        let hosts = [&self.a, &self.b].into_iter().find_map(Host::dead);
        let control_plane = || self.control_plane.as_ref().and_then(ControlPlane::dead);
        let programs = || self.programs.iter().find_map(Started::dead);
        hosts.or_else(control_plane).or_else(programs)
    }

    /// A command on a machine that is no node, on the same link.
    pub(crate) fn client(&self, program: &Path) -> Command {
        let mut command = self.link.inside("exec \"$0\" \"$@\"");
        command.arg(program);
        command
    }

    /// A registry on the client's machine, as the mirror of the public one.
    fn registry(&mut self) {
        // Goes with the images that it was filled from.
        let folder = tool("CORACLE_IMAGES").join("registry");
        fs::create_dir_all(&folder).unwrap();
        let config = Path::new(&self.a.state()).join("registry.yaml");
        let settings = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{REGISTRY}\"}}\n",
            folder.display()
        );
        fs::write(&config, settings).unwrap();
        let mut command = self.client(Path::new("docker-registry"));
        command.arg("serve").arg(config);
        self.programs.push(self.a.start_beside("registry", command));
        let url = format!("http://{REGISTRY}/v2/");
        self.a.eventually("the registry answers", TWO_MINUTES, |a| a.fetch(&url));
        self.fill_registry();
        let mirror = format!(
            "server = \"https://registry.k8s.io\"\n[host.\"http://{REGISTRY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
        );
        for host in [&self.a, &self.b] {
            let folder = Path::new(&host.run()).join("certs.d/registry.k8s.io");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("hosts.toml"), &mirror).unwrap();
        }
    }

    /// Another run may serve from the same folder; only one at a time fills it.
    fn fill_registry(&self) {
        let lock = File::create(tool("CONFORMANCE_CACHE").join("registry.lock")).unwrap();
        lock.lock().unwrap();
        for (archive, name, tag) in PULLED {
            // What is there is not packed anew: archives of one name are alike.
            let manifest = format!("http://{REGISTRY}/v2/{name}/tags/list");
            if self.a.fetch(&manifest).is_ok_and(|tags| tags.contains(&format!("\"{tag}\""))) {
                continue;
            }
            let archive = tool("CORACLE_IMAGES").join(archive).with_extension("tar");
            let mut command = self.client(Path::new("skopeo"));
            command.args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]);
            command.args(["--dest-compress-format", "gzip", "--dest-compress-level", "1"]);
            command
                .arg(format!("oci-archive:{}:{tag}", archive.display()))
                .arg(format!("docker://{REGISTRY}/{name}:{tag}"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "fill the registry with {name}: {}", text(&output));
        }
    }

    fn start_control_plane(&mut self, target: Target) -> Invitation {
        let a = &mut self.a;
        match (target.control_plane(), target.kubelet()) {
            (Whose::Upstreams, _) => {
                self.control_plane = Some(ControlPlane::start(a));
                // Our nodes watch what Services are made of, and say so when they may not.
                let binding = ["create", "clusterrolebinding", "coracle:node-proxier"];
                a.k(&[&binding[..], &["--clusterrole=system:node-proxier", "--group=system:nodes"]].concat());
                let [server, token, hash] = ControlPlane::join_line(a);
                return Invitation { server, token, hash };
            }
            (Whose::Ours, Whose::Ours) => a.start(),
            (Whose::Ours, Whose::Upstreams) => a.start_as(&["server"]),
        }
        a.eventually("the API answers", TWO_MINUTES, |a| {
            let output = a.kubectl(&["get", "serviceaccount", "default"]);
            if output.status.success() { Ok(()) } else { Err(text(&output)) }
        });
        let line = a.token();
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "join", server, "--token", token, "--ca-cert-hash", hash] = words[..] else {
            panic!("{line}")
        };
        Invitation { server: server.into(), token: token.into(), hash: hash.into() }
    }

    fn start_nodes(&mut self, target: Target, invitation: &Invitation) {
        let Invitation { server, token, hash } = invitation;
        let join = ["join", server, "--token", token, "--ca-cert-hash", hash];
        match target.kubelet() {
            Whose::Ours => {
                if target.control_plane() == Whose::Upstreams {
                    self.a.start_as(&join);
                }
                self.b.start_as(&join);
            }
            Whose::Upstreams => {
                for (host, number, other) in [(&self.a, 1, 2), (&self.b, 2, 1)] {
                    bridge(host, number, other);
                    self._cgroups.push(CgroupRoot::make(host));
                    let node = UpstreamNode { a: &self.a, host, name: ["a", "b"][number - 1], token };
                    self.programs.push(node.kubelet(target));
                    self.programs.push(node.proxy(target));
                }
            }
        }
    }

    fn ready(&self) {
        let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type=='Ready')].status} {end}";
        self.a.eventually("both nodes are Ready", TWO_MINUTES, |a| {
            if let Some(dead) = self.dead() {
                panic!("{dead}");
            }
            let output = a.kubectl(&["get", "nodes", "-o", path]);
            if output.stdout == b"True True " {
                return Ok(());
            }
            let logs: Vec<String> = self.programs.iter().map(Started::log_tail).collect();
            Err(format!("{}\n{}\n--- log of b\n{}", text(&output), logs.join("\n---\n"), self.b.log_tail()))
        });
    }
}

/// The plugins of containernetworking, and a route to the pods of the other host.
fn bridge(host: &Host, number: usize, other: usize) {
    let (state, run) = (host.state(), host.run());
    let chain = fs::read_to_string(repository().join("cni/bridge.conflist")).unwrap();
    let ipam = format!("\"type\": \"host-local\", \"dataDir\": \"{state}/host-local\",");
    let chain = chain
        .replace("\"type\": \"host-local\",", &ipam)
        .replace("10.85.0.0/16", &format!("10.244.{number}.0/24"));
    fs::write(format!("{run}/cni/net.d/10-bridge.conflist"), chain).unwrap();
    for plugin in ["bridge", "host-local", "portmap", "bandwidth", "loopback"] {
        symlink(format!("/usr/lib/cni/{plugin}"), format!("{run}/cni/bin/{plugin}")).unwrap();
    }
    // The second sysctl is there once the module of bridges is, and always on where it is not.
    let script = format!(
        "sysctl -qw net.ipv4.ip_forward=1 && ip route add 10.244.{other}.0/24 via 10.88.0.{other} &&\n\
         {{ sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true; }}"
    );
    let output = host.inside("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "routes of host {number}: {}", text(&output));
}

/// Upstream's programs of one node.
struct UpstreamNode<'a> {
    /// Has the control plane.
    a: &'a Host,
    host: &'a Host,
    name: &'static str,
    token: &'a str,
}

impl UpstreamNode<'_> {
    fn kubelet(&self, target: Target) -> Started {
        let (state, run) = (self.host.state(), self.host.run());
        let (config, bootstrap) = (format!("{state}/kubelet.yaml"), format!("{state}/bootstrap.conf"));
        let resolver = format!("{state}/resolv.conf");
        fs::write(&bootstrap, kubeconfig(self.a, self.token)).unwrap();
        // Refuses at once: nothing outside is asked for names.
        fs::write(&resolver, "nameserver 10.88.0.254\n").unwrap();
        fs::create_dir_all(format!("{state}/manifests")).unwrap();
        let settings = KUBELET
            .replace("@CA@", &format!("{}/pki/ca.crt", self.a.state()))
            .replace("@CGROUP@", &cgroup_root(self.host))
            .replace("@RESOLVER@", &resolver)
            .replace("@STATE@", &state)
            .replace("@RUN@", &run)
            // Ours signs them; with upstream's control plane a person would have to.
            .replace("@SIGNED@", &(target.control_plane() == Whose::Ours).to_string());
        fs::write(&config, settings).unwrap();
        let mut command = program(self.host, "kubelet");
        command.args([
            format!("--config={config}"),
            format!("--bootstrap-kubeconfig={bootstrap}"),
            format!("--kubeconfig={state}/kubelet.conf"),
            format!("--root-dir={state}/kubelet"),
            format!("--cert-dir={state}/kubelet/pki"),
            format!("--hostname-override={}", self.name),
            format!("--node-ip={}", self.host.address()),
        ]);
        self.host.start_beside(&format!("kubelet-{}", self.name), command)
    }

    fn proxy(&self, target: Target) -> Started {
        let config = format!("{}/kube-proxy.yaml", self.host.state());
        let admin = format!("{}/admin.kubeconfig", self.a.state());
        let settings = KUBE_PROXY.replace("@KUBECONFIG@", &admin).replace("@NODE@", self.name);
        fs::write(&config, settings).unwrap();
        let mut command = match target.proxy() {
            Whose::Ours => self.host.called("kube-proxy"),
            Whose::Upstreams => program(self.host, "kube-proxy"),
        };
        command.arg(format!("--config={config}"));
        self.host.start_beside(&format!("kube-proxy-{}", self.name), command)
    }
}

/// Thresholds are those of a machine that does other things besides.
const KUBELET: &str = "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
contentType: application/json
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: @CGROUP@
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: @RESOLVER@
containerRuntimeEndpoint: unix://@RUN@/containerd.sock
staticPodPath: @STATE@/manifests
podLogsDir: @STATE@/logs
serverTLSBootstrap: @SIGNED@
rotateCertificates: true
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: @CA@}}
authorization: {mode: Webhook}
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
";

/// What is 0 is left as the kernel has it, which not every machine lets somebody change.
const KUBE_PROXY: &str = "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: @NODE@
clusterCIDR: 10.244.0.0/16
clientConnection: {kubeconfig: @KUBECONFIG@, contentType: application/json}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
";
