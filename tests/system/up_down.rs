//! `make up` and `make down` as a user types them: the demo is served, and afterwards the machine is as it was.

use std::{env, process::Command};

use crate::hosts::text;

/// What must be the same before and after.
const TRACES: [&str; 11] = [
    "ip -o link show | sed 's/^[0-9]*: //'",
    "ip netns list",
    "nft list ruleset",
    "iptables-save | grep -v '^#'",
    "ip6tables-save | grep -v '^#'",
    "cut -d' ' -f1-4 /proc/self/mounts | sort",
    "ip route show table all",
    "ip rule",
    // Other software's cgroups come and go while the test runs; these are the names that ours have.
    "find /sys/fs/cgroup -type d | grep -E '/(coracle|kubepods|cri-containerd)' | sort",
    "sysctl -a 2>/dev/null | grep -E '^net.(ipv4.(ip_forward|conf)|ipv6.conf)' | grep -v stable_secret",
    "ls -d /var/lib/coracle /run/coracle /etc/cni/net.d/99-coracle.conflist /opt/cni /var/lib/kubelet /var/log/pods /run/containerd/* /var/lib/cni/* 2>/dev/null; pgrep -l 'coracle|containerd'; true",
];

fn traces() -> Vec<String> {
    let output = |command: &&str| text(&Command::new("sh").args(["-c", command]).output().unwrap());
    TRACES.iter().map(output).collect()
}

fn make(target: &str) -> String {
    let mut command = Command::new("make");
    command.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    // A user has none of what cargo tells a test. Some build scripts (ring's) ask for these, and would be run again:
    // everything that depends on them would be built anew.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|start| name.starts_with(start)) {
            command.env_remove(&*name);
        }
    }
    let output = command.output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "make {target}: {said}");
    said
}

#[test]
fn make_up_serves_the_demo_and_make_down_leaves_the_machine_as_it_was() {
    make("down");
    let before = traces();
    let said = make("up");
    assert_eq!(said.matches("answers: Hello from a pod on Coracle").count(), 2, "{said}");
    let again = make("up");
    assert!(again.contains("already runs"), "{again}");
    assert!(again.contains("nothing was changed"), "{again}");
    make("down");
    assert_as(&before);

    // A machine that lost its power: everything that ran is gone, and what was written is left.
    make("up");
    lose_power();
    let returned = make("up");
    assert_eq!(returned.matches("answers: Hello from a pod on Coracle").count(), 2, "{returned}");
    lose_power();
    make("down");
    assert_as(&before);
}

fn assert_as(before: &[String]) {
    for ((command, before), after) in TRACES.iter().zip(before).zip(traces()) {
        assert_eq!(*before, after, "{command}");
    }
}

/// Ends all that `make up` started, by `SIGKILL`: the process, containerd, the shims and, with them, their containers.
fn lose_power() {
    let script = r#"
        coracle=$(cat /run/coracle/coracle.pid) containerd=$(cat /run/coracle/containerd.pid)
        shims=$(pgrep -f -- '[-]address /run/coracle/containerd.sock')
        containers=$(for shim in $shims; do pgrep -P "$shim"; done)
        kill -9 $coracle $containerd $shims $containers"#;
    let output = Command::new("bash").args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
