//! Names, asked for inside a pod: through its resolv.conf, the Service kube-system/kube-dns and the rules of Services.

use std::time::Duration;

use crate::hosts::{Host, text};

const SECONDS_60: Duration = Duration::from_secs(60);

const DEMO: &str = include_str!("../../deploy/demo.yaml");
const COREDNS: &str = include_str!("../../deploy/coredns.yaml");

/// Who asks, and a Service that is its endpoints.
const ASKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: asker, labels: {app: asker}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: first
  subdomain: peers
  containers:
  - name: main
    image: coracle.dev/demo:1
    command: [sh, -c, 'trap \"exit 0\" TERM; while true; do sleep 0.2; done']
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  selector: {app: asker}
";

#[test]
fn pods_reach_services_by_their_names() {
    let mut host = Host::new("dns");
    host.up();
    host.apply(DEMO);
    host.apply(ASKER);
    host.k(&["wait", "--for=condition=Ready", "pod/asker", "--timeout=60s"]);
    host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    let steps: &[crate::Step] = &[
        ("resolv.conf", configuration),
        ("short and long names", names),
        ("addresses", addresses),
        ("what is not there", absences),
        ("another DNS takes the Service, and gives it back", takeover),
    ];
    for (name, step) in steps {
        eprintln!("dns: {name}");
        step(&host);
    }
}

/// A command in the pod; `Err` has what it printed.
fn inside(host: &Host, command: &str) -> Result<String, String> {
    let output = host.kubectl(&["exec", "asker", "--", "sh", "-c", command]);
    if output.status.success() { Ok(text(&output)) } else { Err(text(&output)) }
}

fn configuration(host: &Host) {
    let file = inside(host, "cat /etc/resolv.conf").unwrap();
    assert!(file.contains("nameserver 10.96.0.10\n"), "{file}");
    assert!(file.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{file}");
    assert!(file.contains("options ndots:5"), "{file}");
    let service = host.k(&["get", "service", "-n", "kube-system", "kube-dns"]);
    assert!(service.contains("10.96.0.10") && service.contains("53/UDP,53/TCP"), "{service}");
}

/// Through the C library, which completes names by the search list. (Debian's static busybox asks it in all its programs,
/// but its wget crashes over names.)
fn names(host: &Host) {
    for name in ["demo", "demo.default", "demo.default.svc", "demo.default.svc.cluster.local"] {
        let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {name} 80");
        let page = host.eventually("the page is served", SECONDS_60, |host| inside(host, &fetch));
        assert!(page.contains("Hello from a pod on Coracle"), "{name}: {page}");
    }
    let found = inside(host, "ping -c 1 -W 1 kubernetes.default | head -n 1").unwrap();
    assert!(found.contains("(10.96.0.1)"), "{found}");
}

fn addresses(host: &Host) {
    let demo = host.k(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]);
    let asker = host.k(&["get", "pod", "asker", "-o", "jsonpath={.status.podIP}"]);
    let look = |name: &str, found: &str| {
        host.eventually(name, SECONDS_60, |host| {
            let said = inside(host, &format!("nslookup {name}"))?;
            if said.contains(found) { Ok(()) } else { Err(said) }
        });
    };
    look("demo.default.svc.cluster.local", &demo);
    look("kubernetes.default.svc.cluster.local", "10.96.0.1");
    look("peers.default.svc.cluster.local", &asker);
    look("first.peers.default.svc.cluster.local", &asker);
    look(&format!("{}.default.pod.cluster.local", asker.replace('.', "-")), &asker);
    look(&demo, "demo.default.svc.cluster.local");
    look(&asker, "first.peers.default.svc.cluster.local");
}

fn absences(host: &Host) {
    for name in ["nobody.default.svc.cluster.local", "demo.nowhere.svc.cluster.local"] {
        let said = inside(host, &format!("nslookup {name}")).expect_err("there is no such name");
        assert!(said.contains("NXDOMAIN"), "{said}");
    }
    // The name is there, an IPv6 address is not.
    let said = inside(host, "nslookup -type=aaaa demo.default.svc.cluster.local").unwrap_or_else(|said| said);
    assert!(!said.contains("NXDOMAIN"), "{said}");
}

fn takeover(host: &Host) {
    let slices = || {
        host.k(&[
            "get",
            "endpointslices",
            "-n",
            "kube-system",
            "-l",
            "kubernetes.io/service-name=kube-dns",
            "-o",
            "name",
        ])
    };
    assert!(slices().contains("kube-dns-coracle"), "{}", slices());
    // Its image is not here, so that nobody answers meanwhile; whose the Service is does not depend on that.
    host.apply(COREDNS);
    host.eventually("our slice goes", SECONDS_60, |_| {
        let slices = slices();
        if slices.contains("kube-dns-coracle") { Err(slices) } else { Ok(()) }
    });
    let ports = "jsonpath={.spec.clusterIP} {.spec.ports[*].name} {.spec.selector.k8s-app}";
    let service = host.k(&["get", "service", "-n", "kube-system", "kube-dns", "-o", ports]);
    assert_eq!(service, "10.96.0.10 dns dns-tcp kube-dns");
    host.k(&["delete", "-n", "kube-system", "deployment/coredns", "service/kube-dns"]);
    host.eventually("names are answered again", SECONDS_60, |host| {
        inside(host, "nslookup kubernetes.default.svc.cluster.local").map(drop)
    });
}
