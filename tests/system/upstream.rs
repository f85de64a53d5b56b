//! Mixtures with upstream's own programs: its node on our control plane, our nodes on its control plane.
//!
//! `make upstream-test` builds them (`CORACLE_UPSTREAM`) and runs these.

use std::time::Duration;

use crate::{
    hosts::{
        Host, Link, text,
        upstream::{CgroupRoot, ControlPlane, controllers_and_scheduler_for_ours, program},
    },
    parts::{Files, Parts, answers, control_plane, logs_and_exec},
};

const SECONDS_60: Duration = Duration::from_secs(60);
const DEMO: &str = include_str!("../../deploy/demo.yaml");
const COREDNS: &str = include_str!("../../deploy/coredns.yaml");

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

/// What upstream's controllers act on, in the place of ours or alone. Commands with `&&`: a controller that read its
/// revisions in other bytes than it wrote would make new ones without end.
const SETS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ordered}
spec:
  replicas: 2
  serviceName: ordered
  selector: {matchLabels: {app: ordered}}
  template:
    metadata: {labels: {app: ordered}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: coracle.dev/demo:1, command: [sh, -c, "true && exec sleep 1000"]}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: coracle.dev/demo:1, command: [sh, -c, "true && exec sleep 1000"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: coracle.dev/demo:1, command: [sh, -c, "true && true"]}]
"#;

fn sets(a: &Host) {
    a.apply(SETS);
    for set in ["statefulset/ordered", "daemonset/everywhere"] {
        a.k(&["rollout", "status", set, "--timeout=90s"]);
    }
    a.k(&["wait", "--for=condition=Complete", "job/once", "--timeout=90s"]);
    let revisions = a.k(&["get", "controllerrevisions", "-o", "name"]);
    assert_eq!(revisions.lines().count(), 2, "{revisions}");
    a.k(&["delete", "statefulset/ordered", "daemonset/everywhere", "job/once", "--timeout=60s"]);
}

/// Each of ours that can be switched off is.
#[test]
#[ignore = "needs upstream's programs: make upstream-test"]
fn upstreams_scheduler_and_controllers_and_coredns_take_the_place_of_ours() {
    let link = Link::new("minds");
    let mut a = Host::on(&link, "a", 1);
    a.configure(|config| {
        let config = config.replace("kubelet:\n", "kubelet:\n  clusterDNS: [10.96.0.10]\n");
        format!("{config}components: {{scheduler: false, controllers: false, dns: false}}\n")
    });
    a.start();
    answers(&a);
    let [controllers, scheduler] = controllers_and_scheduler_for_ours(&a);
    // Its pods' addresses, too, come from upstream's controllers.
    a.eventually("the node is Ready", SECONDS_60, |a| {
        let path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let output = a.kubectl(&["get", "node", "a", "-o", path]);
        if output.stdout == b"True" {
            Ok(())
        } else {
            Err(format!("{}\n{}", text(&output), controllers.log_tail()))
        }
    });
    a.eventually("pods can be made", SECONDS_60, |a| {
        let output = a.kubectl(&["get", "serviceaccount", "default"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{}\n{}", text(&output), controllers.log_tail()))
        }
    });
    a.apply(COREDNS);
    a.eventually("CoreDNS is ready", SECONDS_60, |a| {
        let output =
            a.kubectl(&["rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=5s"]);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!("{}\n{}", text(&output), scheduler.log_tail()))
        }
    });
    demo(&a, &a);
    let named = a.k(&["exec", "deployment/demo", "--", "nslookup", "demo.default.svc.cluster.local"]);
    let address = a.k(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]);
    assert!(named.contains("10.96.0.10") && named.contains(&address), "{named}");
    a.k(&["delete", "deployment/demo", "service/demo", "--timeout=60s"]);
    sets(&a);
    a.eventually("its pods go with it", SECONDS_60, |a| {
        let pods = a.k(&["get", "pods", "-l", "app=demo", "-o", "name"]);
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}
