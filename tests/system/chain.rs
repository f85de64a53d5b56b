//! Pods whose network third-party CNI plugins make.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{hosts::Host, resilience::demo};

const CHAIN: &str = include_str!("../../cni/bridge.conflist");

/// The chain that operators start from; what its plugins note down stays in the host's own directory.
fn chain(host: &Host) -> (PathBuf, PathBuf) {
    let state = PathBuf::from(host.state());
    let (file, addresses) = (state.join("bridge.conflist"), state.join("host-local"));
    let ipam = format!("\"type\": \"host-local\", \"dataDir\": \"{}\",", addresses.display());
    let text = CHAIN.replace("\"type\": \"host-local\",", &ipam);
    assert_ne!(text, CHAIN);
    fs::write(&file, text).unwrap();
    (file, addresses.join("bridge"))
}

fn reserved(addresses: &Path) -> usize {
    let names = fs::read_dir(addresses).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.85.")).count()
}

#[test]
fn pods_of_a_third_party_chain_are_served_through_their_service_and_give_their_addresses_back() {
    let mut host = Host::new("chain");
    let (file, addresses) = chain(&host);
    host.configure(|config| {
        let provider = format!("network:\n  provider: cni\n  chain: {}\n", file.display());
        config.replace("network:\n", &provider)
    });
    host.up();
    let url = demo(&host);
    let ips = host.k(&["get", "pods", "-l", "app=demo", "-o", "jsonpath={.items[*].status.podIP}"]);
    assert!(ips.split(' ').all(|ip| ip.starts_with("10.85.")), "{ips}");
    assert_eq!(reserved(&addresses), 2);
    let bridge = host.inside("ip").args(["-o", "link", "show", "master", "cni0"]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&bridge.stdout).lines().count(),
        2,
        "each pod's link is on the bridge"
    );
    for url in [url.as_str(), "http://10.88.0.1:30080/"] {
        let page = host.eventually("the page is served", Duration::from_secs(30), |host| host.fetch(url));
        assert!(page.contains("Hello"), "{page}");
    }
    // From a pod to the Service, which may lead back to the same pod.
    let pod = host.k(&["get", "pods", "-l", "app=demo", "-o", "jsonpath={.items[0].metadata.name}"]);
    for _ in 0..4 {
        let page = host.k(&["exec", &pod, "--", "wget", "-q", "-O", "-", &url]);
        assert!(page.contains("Hello"), "{page}");
    }
    host.k(&["delete", "deployment", "demo", "--timeout=60s"]);
    host.eventually("the addresses are free", Duration::from_secs(60), |_| match reserved(&addresses) {
        0 => Ok(()),
        some => Err(format!("{some} are reserved")),
    });
}
