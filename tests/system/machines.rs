//! Two machines: one has the control plane, the other joins by the line that is printed there.

use std::{path::Path, time::Duration};

use crate::hosts::{Host, Link, text};

const SECONDS_60: Duration = Duration::from_secs(60);

/// A web server on each node, a Service for each, and one for both.
const WEBS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web-a, labels: {app: web, on: a}}
spec:
  nodeSelector: {kubernetes.io/hostname: a}
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: coracle.dev/demo:1, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-b, labels: {app: web, on: b}}
spec:
  nodeSelector: {kubernetes.io/hostname: b}
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: coracle.dev/demo:1, ports: [{containerPort: 8080}], readinessProbe: {httpGet: {path: /, port: 8080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: on-a}
spec: {selector: {on: a}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: on-b}
spec: {selector: {on: b}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: on-both}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}
"#;

#[test]
fn a_machine_joins_by_the_printed_line_and_the_cluster_spans_both() {
    let link = Link::new("machines");
    let mut a = Host::on(&link, "a", 1);
    a.up();
    let mut b = Host::on(&link, "b", 2);
    outside_elsewhere(&b);
    let line = a.token();
    refusals(&a, &b, &line);
    join(&a, &mut b, &line);
    joined_already(&b, &line);
    a.apply(WEBS);
    a.k(&["wait", "--for=condition=Ready", "pods", "-l", "app=web", "--timeout=60s"]);
    everybody_reaches_everybody(&a, &b);
    everybody_knows_every_name(&a);
    logs_and_exec(&a);
    certificates(&a, &b);
    killed_agent(&a, &mut b);
    everybody_reaches_everybody(&a, &b);
}

/// The way to the outside is another interface than the one to the server (kubeadm#1026).
fn outside_elsewhere(host: &Host) {
    for arguments in [
        "link add outside type veth peer name beyond",
        "addr add 172.31.0.1/24 dev outside",
        "link set beyond up",
        "link set outside up",
        "route replace default via 172.31.0.254 dev outside",
    ] {
        assert!(host.inside("ip").args(arguments.split(' ')).status().unwrap().success(), "{arguments}");
    }
}

impl Host {
    fn containers_of(&self, pod: &str) -> String {
        self.k(&[
            "get",
            "pod",
            pod,
            "-o",
            "jsonpath={.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}",
        ])
    }
}

/// `coracle` is left out.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').skip(1).collect()
}

/// What makes a machine a member. None of it may be there after a refusal.
fn membership(host: &Host) -> Vec<String> {
    let names = ["node.kubeconfig", "joined.yaml", "node-address", "pki"];
    names
        .iter()
        .filter(|name| Path::new(&host.state()).join(name).exists())
        .map(ToString::to_string)
        .collect()
}

fn refusals(a: &Host, b: &Host, line: &str) {
    let typed = words(line);
    let [_, server, _, token, _, hash] = typed[..] else { panic!("{line}") };
    let refused = |server: &str, token: &str, hash: &str, more: &[&str], expected: &str| {
        let mut arguments = vec!["join", server, "--token", token, "--ca-cert-hash", hash, "--no-start"];
        arguments.extend(more);
        let output = b.coracle(&arguments).output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{expected:?} in {said}");
        assert_eq!(membership(b), Vec::<String>::new());
    };
    let (id, _) = token.split_once('.').unwrap();
    refused(server, "aaaaaa.aaaaaaaaaaaaaaaa", hash, &[], "knows no token \"aaaaaa\"");
    refused(server, &format!("{id}.aaaaaaaaaaaaaaaa"), hash, &[], "its second half is wrong");
    let other = format!("sha256:{}", "0".repeat(64));
    refused(server, token, &other, &[], "this is another cluster than the one that was meant");
    refused("10.88.0.1:6444", token, hash, &[], "nothing listens on 10.88.0.1:6444");
    refused("10.88.0.1:10250", token, hash, &[], "answers as no Kubernetes API server does");
    refused(server, token, hash, &["--node-name", "a"], "a node named \"a\" lives in this cluster already");
    let route = ["route", "add", "10.244.77.0/24", "via", "10.88.0.9"];
    assert!(b.inside("ip").args(route).status().unwrap().success());
    refused(server, token, hash, &[], "network.podCIDR 10.244.0.0/16 overlaps the route to 10.244.77.0/24");
    assert!(b.inside("ip").args(["route", "del", "10.244.77.0/24"]).status().unwrap().success());
    // Nobody has this address.
    refused(
        "10.88.0.99:6443",
        token,
        hash,
        &[],
        "10.88.0.99:6443 does not answer; see that the address is right",
    );
    refused(server, token, hash, &["--node-ip", "192.0.2.9"], "is no address by which other machines reach");
    // Tokens that ended.
    let deleted = words(&a.token())[3].to_string();
    assert!(a.coracle(&["token", "delete", &deleted]).status().unwrap().success());
    let expired = a.coracle(&["token", "create", "--ttl", "2s"]).output().unwrap();
    let expired = words(text(&expired).trim())[3].to_string();
    for ended in [deleted, expired] {
        a.eventually("the token's signature is gone", SECONDS_60, |a| {
            let map = a.k(&["get", "configmap", "cluster-info", "-n", "kube-public", "-o", "yaml"]);
            let id = ended.split('.').next().unwrap_or_default();
            if map.contains(id) { Err(map) } else { Ok(()) }
        });
        refused(server, &ended, hash, &[], "knows no token");
    }
}

fn join(a: &Host, b: &mut Host, line: &str) {
    b.start_as(&words(line));
    a.eventually("both nodes are Ready", SECONDS_60, |a| {
        let ready = a.k(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=='Ready')].status} {end}",
        ]);
        if ready == "a=True b=True " { Ok(()) } else { Err(format!("{ready}\n--- log of b\n{}", b.log_tail())) }
    });
    let wide = a.k(&["get", "nodes", "-o", "wide"]);
    assert!(wide.contains(a.address()) && wide.contains(b.address()), "{wide}");
}

fn joined_already(b: &Host, line: &str) {
    let output = b.coracle(&words(line)).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("is node b of 10.88.0.1:6443 already; nothing was changed"), "{said}");
    // As after the control plane was made anew.
    let hash = words(line)[5];
    let output =
        b.coracle(&words(&line.replace(hash, &format!("sha256:{}", "0".repeat(64))))).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("whose authority is none of those that --ca-cert-hash names"), "{said}");
}

/// From a pod on each node, and from each node itself, to each pod and to each Service.
fn everybody_reaches_everybody(a: &Host, b: &Host) {
    let of =
        |kind: &str, name: &str, path: &str| a.k(&["get", kind, name, "-o", &format!("jsonpath={{{path}}}")]);
    let mut targets: Vec<(String, u16)> = Vec::new();
    for pod in ["web-a", "web-b"] {
        targets.push((of("pod", pod, ".status.podIP"), 8080));
    }
    for service in ["on-a", "on-b", "on-both"] {
        targets.push((of("service", service, ".spec.clusterIP"), 80));
    }
    for (address, port) in &targets {
        for pod in ["web-a", "web-b"] {
            let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}");
            a.eventually(&format!("{pod} reaches {address}:{port}"), SECONDS_60, |a| {
                let output = a.kubectl(&["exec", pod, "--", "sh", "-c", &request]);
                let said = text(&output);
                if said.contains("Hello from a pod") { Ok(()) } else { Err(said) }
            });
        }
        for host in [a, b] {
            host.eventually("a node reaches it", SECONDS_60, |host| {
                host.fetch(&format!("http://{address}:{port}/"))
            });
        }
    }
    for host in [a, b] {
        for address in [a.address(), b.address()] {
            let url = format!("http://{address}:30081/");
            host.eventually("the node port answers on each node", SECONDS_60, |host| host.fetch(&url));
        }
    }
}

/// In pods of the machine that has the DNS server, and of the other.
fn everybody_knows_every_name(a: &Host) {
    for service in ["on-a", "on-b", "on-both"] {
        let address = a.k(&["get", "service", service, "-o", "jsonpath={.spec.clusterIP}"]);
        for pod in ["web-a", "web-b"] {
            a.eventually(&format!("{pod} knows {service}"), SECONDS_60, |a| {
                let output = a.kubectl(&[
                    "exec",
                    pod,
                    "--",
                    "nslookup",
                    &format!("{service}.default.svc.cluster.local"),
                ]);
                let said = text(&output);
                if output.status.success() && said.contains(&address) { Ok(()) } else { Err(said) }
            });
            // The name is completed by the pod's search list, and leads to the page.
            let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {service} 80");
            let said = text(&a.kubectl(&["exec", pod, "--", "sh", "-c", &request]));
            assert!(said.contains("Hello from a pod"), "{pod} {service}: {said}");
        }
    }
}

/// The API server reaches the other machine's kubelet by the serving certificate that the cluster has signed.
fn logs_and_exec(a: &Host) {
    let logs = a.eventually("logs of the pod on b", SECONDS_60, |a| {
        let output = a.kubectl(&["logs", "web-b"]);
        if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
    });
    assert!(logs.contains("response:200"), "{logs}");
    assert_eq!(a.k(&["exec", "web-b", "--", "hostname"]), "web-b\n");
}

fn certificates(a: &Host, b: &Host) {
    let requests = a.k(&["get", "csr", "--no-headers"]);
    let of = |signer: &str, requestor: &str| {
        requests.lines().any(|line| {
            line.contains(signer) && line.contains(requestor) && line.trim_end().ends_with("Approved,Issued")
        })
    };
    assert!(of("kubernetes.io/kube-apiserver-client-kubelet", "system:bootstrap:"), "{requests}");
    assert!(of("kubernetes.io/kubelet-serving", "system:node:b"), "{requests}");
    assert_eq!(membership(b).len(), 4);
}

fn killed_agent(a: &Host, b: &mut Host) {
    let (containers, before) = (b.containers_that_run(), a.containers_of("web-b"));
    b.kill_coracle();
    let address = a.k(&["get", "pod", "web-b", "-o", "jsonpath={.status.podIP}"]);
    for _ in 0..5 {
        a.fetch(&format!("http://{address}:8080/")).expect("the pod serves without its agent");
    }
    b.start_as(&["node"]);
    // The agent has looked at every pod once its status is written again.
    let renewed = a.k(&["get", "lease", "b", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"]);
    a.eventually("the agent is back", SECONDS_60, |a| {
        let now = a.k(&["get", "lease", "b", "-n", "kube-node-lease", "-o", "jsonpath={.spec.renewTime}"]);
        if now == renewed { Err(now) } else { Ok(()) }
    });
    a.eventually("logs through the agent", SECONDS_60, |a| {
        let output = a.kubectl(&["logs", "web-b", "--tail=1"]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    });
    a.k(&["wait", "--for=condition=Ready", "pod", "web-b", "--timeout=30s"]);
    assert_eq!(b.running_containers(), containers);
    assert_eq!(a.containers_of("web-b"), before);
}
