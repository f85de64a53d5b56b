//! What must survive: a kill, a flushed table, a hostile request.

use std::time::Duration;

use crate::hosts::Host;

const DEMO: &str = include_str!("../../deploy/demo.yaml");
const SECONDS_60: Duration = Duration::from_secs(60);

/// Applies the demo and waits until its page is served; answers the page's address.
pub(crate) fn demo(host: &Host) -> String {
    host.apply(DEMO);
    host.k(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    let cluster_ip = host.k(&["get", "service", "demo", "-o", "jsonpath={.spec.clusterIP}"]);
    let url = format!("http://{cluster_ip}/");
    host.eventually("the page is served", SECONDS_60, |host| host.fetch(&url));
    url
}

/// Uids and restart counts of all pods: what a restart of the agent must not change.
fn pods(host: &Host) -> String {
    host.k(&["get", "pods", "-A", "-o", "jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{'\\n'}{end}"])
}

#[test]
fn a_killed_process_leaves_the_pods_serving_and_comes_back_to_the_same_containers() {
    let mut host = Host::new("kill");
    host.up();
    let url = demo(&host);
    let (containers, before) = (host.containers_that_run(), pods(&host));
    // Acknowledged a moment before the kill.
    for n in 0..20 {
        host.k(&["create", "configmap", &format!("acknowledged-{n}")]);
    }
    host.kill_coracle();
    for _ in 0..5 {
        host.fetch(&url).expect("the pods serve without the agent");
    }
    assert_eq!(host.running_containers(), containers);
    host.up();
    let kept = host.k(&["get", "configmaps", "-o", "name"]);
    assert_eq!(kept.lines().filter(|line| line.contains("acknowledged-")).count(), 20, "{kept}");
    // The agent has looked at every pod again once it reports them ready; nothing may have been restarted by then.
    host.k(&["wait", "--for=condition=Ready", "pods", "-l", "app=demo", "--timeout=30s"]);
    host.k(&["rollout", "status", "deployment/demo", "--timeout=30s"]);
    assert_eq!(host.running_containers(), containers);
    assert_eq!(pods(&host), before);
    host.fetch(&url).expect("the Service still works");
}

#[test]
fn flushed_rules_come_back() {
    let mut host = Host::new("flush");
    host.up();
    let url = demo(&host);
    for attack in ["flush ruleset", "flush table ip coracle-proxy"] {
        let output = host.inside("nft").args(attack.split(' ')).output().unwrap();
        assert!(output.status.success(), "nft {attack}: {}", String::from_utf8_lossy(&output.stderr));
        let page =
            host.eventually("the page is served again", Duration::from_secs(30), |host| host.fetch(&url));
        assert!(page.contains("Hello"), "{page}");
    }
}

#[test]
fn a_second_start_on_a_used_port_says_which() {
    let mut host = Host::new("port");
    host.up();
    let output = host
        .inside(crate::hosts::tool("CORACLE_BIN"))
        .args(["up", "--config"])
        .arg(host.config())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = crate::hosts::text(&output);
    assert!(said.contains("in use") || said.contains("already runs"), "{said}");
}

#[test]
fn a_second_start_on_one_state_directory_is_refused_and_changes_nothing_there() {
    let mut host = Host::new("state");
    host.up();
    let config = std::fs::read_to_string(host.config()).unwrap();
    let other = format!("{config}server: {{port: 6444}}\ndns: {{port: 10054}}\n")
        .replace("kubelet:\n", "kubelet:\n  port: 10260\n");
    let file = host.config().with_file_name("other.yaml");
    std::fs::write(&file, other).unwrap();
    let kubeconfig = host.config().with_file_name("admin.kubeconfig");
    let before = std::fs::read(&kubeconfig).unwrap();
    let output =
        host.inside(crate::hosts::tool("CORACLE_BIN")).args(["up", "--config"]).arg(&file).output().unwrap();
    let said = crate::hosts::text(&output);
    assert!(!output.status.success() && said.contains("in use by another process"), "{said}");
    assert_eq!(std::fs::read(&kubeconfig).unwrap(), before);
    host.k(&["get", "nodes"]);
}

#[test]
fn a_wrong_configuration_is_refused_with_every_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yaml");
    std::fs::write(&file, "kind: CoracleConfiguration\nserver: {port: 0}\nnetwork: {podCIDR: nonsense}\n")
        .unwrap();
    let output = std::process::Command::new(crate::hosts::tool("CORACLE_BIN"))
        .args(["up", "--config"])
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("config.yaml:2: server.port: must be between 1 and 65535"), "{said}");
    assert!(said.contains("config.yaml:3: network.podCIDR: \"nonsense\" is not an address range"), "{said}");
}

/// The aim is 60 MB (tests/bench measures it); this is the limit beyond which something is wrong.
#[test]
fn the_whole_system_stays_within_its_memory_budget() {
    let mut host = Host::new("memory");
    host.up();
    demo(&host);
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.coracle_pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    let resident_kb: u64 = resident.unwrap().trim().parse().unwrap();
    assert!(resident_kb < 100_000, "{resident_kb} kB");
}
