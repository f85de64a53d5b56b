//! What a cluster meets without anybody's fault: a node that falls silent, a disk that is full.

use std::{fs, path::PathBuf, process::Command, time::Duration, time::Instant};

use crate::hosts::{Host, text};

const SECONDS_30: Duration = Duration::from_secs(30);
const SECONDS_60: Duration = Duration::from_secs(60);

/// A Node object with nobody behind it, and what its kubelet would write.
const SILENT: &str = "
apiVersion: v1
kind: Node
metadata: {name: silent}
---
apiVersion: v1
kind: Pod
metadata: {name: leaves, namespace: default}
spec:
  nodeName: silent
  containers: [{name: c, image: coracle.dev/demo:1}]
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3}
---
apiVersion: v1
kind: Pod
metadata: {name: stays, namespace: default}
spec:
  nodeName: silent
  containers: [{name: c, image: coracle.dev/demo:1}]
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute}
";

fn now(host: &Host) -> String {
    let output = host.inside("date").args(["-u", "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_string()
}

/// What the silent node's kubelet would say now: that it is Ready, and its Lease.
fn speak(host: &Host) {
    let now = now(host);
    let condition = format!(
        r#"{{"status":{{"conditions":[{{"type":"Ready","status":"True","reason":"KubeletReady","message":"",
        "lastHeartbeatTime":"{now}Z","lastTransitionTime":"{now}Z"}}]}}}}"#
    );
    host.k(&["patch", "node", "silent", "--subresource=status", "--type=strategic", "-p", &condition]);
    host.apply(&format!(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
         metadata: {{name: silent, namespace: kube-node-lease}}\n\
         spec: {{holderIdentity: silent, leaseDurationSeconds: 40, renewTime: \"{now}.000000Z\"}}\n"
    ));
}

fn field(host: &Host, object: &str, path: &str) -> String {
    host.k(&["get", object, "-o", &format!("jsonpath={path}")])
}

fn ready(host: &Host) -> String {
    field(host, "node/silent", "{.status.conditions[?(@.type=='Ready')].status}")
}

fn taints(host: &Host) -> Vec<String> {
    let all = field(host, "node/silent", "{range .spec.taints[*]}{.key}:{.effect}{'\\n'}{end}");
    let mut all: Vec<String> = all.lines().map(str::to_string).collect();
    all.sort();
    all
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, wanted: &T) -> Result<(), String> {
    if found == *wanted { Ok(()) } else { Err(format!("{found:?}")) }
}

#[test]
fn a_node_that_falls_silent_is_marked_and_gives_up_the_pods_that_do_not_wait_for_it() {
    let mut host = Host::new("silent");
    // Its own node speaks on: where all are silent, nobody is evicted, since the fault is more likely ours.
    host.up();
    host.eventually("the account of pods", SECONDS_60, |host| {
        let account = host.kubectl(&["get", "serviceaccount", "default"]);
        account.status.success().then_some(()).ok_or_else(|| text(&account))
    });
    host.apply(SILENT);
    let spoke = Instant::now();
    speak(&host);
    host.eventually("the node counts as Ready", SECONDS_30, |host| same(taints(host), &Vec::new()));

    host.eventually("the node is given up", SECONDS_60, |host| same(ready(host), &"Unknown".to_string()));
    assert!(spoke.elapsed() >= Duration::from_secs(38), "after {:?}, long before 40 s", spoke.elapsed());
    let why =
        "{.status.conditions[?(@.type=='Ready')].reason} {.status.conditions[?(@.type=='Ready')].message}";
    assert_eq!(field(&host, "node/silent", why), "NodeStatusUnknown Kubelet stopped posting node status.");
    let unreachable =
        ["NoExecute", "NoSchedule"].map(|effect| format!("node.kubernetes.io/unreachable:{effect}"));
    host.eventually("the node is tainted", SECONDS_30, |host| same(taints(host), &unreachable.to_vec()));
    let leaving =
        |host: &Host, pod: &str| field(host, &format!("pod/{pod}"), "{.metadata.deletionTimestamp}");
    host.eventually("its pod is evicted", SECONDS_30, |host| {
        let since = leaving(host, "leaves");
        (!since.is_empty()).then_some(()).ok_or_else(|| "it stays".to_string())
    });
    let disrupted = "{.status.conditions[?(@.type=='DisruptionTarget')].reason}";
    assert_eq!(field(&host, "pod/leaves", disrupted), "DeletionByTaintManager");
    assert_eq!(leaving(&host, "stays"), "", "it tolerates the taint for ever");

    host.eventually("a node that speaks again is taken back", SECONDS_30, |host| {
        speak(host);
        same(taints(host), &Vec::new())
    });
    assert_eq!(ready(&host), "True");
}

/// A file system of a few megabytes; unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m,mode=0700", "coracle-test"])
            .arg(&at)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        Self(at)
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut bytes = 64 << 20;
        let mut file = fs::File::options().create(true).append(true).open(self.ballast()).unwrap();
        while bytes > 0 {
            if std::io::Write::write_all(&mut file, &vec![0; bytes]).is_err() {
                bytes /= 2;
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

/// A ConfigMap of 100 KB, so that the disk is asked for room.
fn write(host: &Host, name: &str) -> Result<(), String> {
    let output =
        host.kubectl(&["create", "configmap", name, &format!("--from-literal=a={}", "x".repeat(100_000))]);
    output.status.success().then_some(()).ok_or_else(|| text(&output))
}

fn maps(host: &Host) -> Vec<String> {
    let names = host.k(&["get", "configmaps", "-n", "default", "-o", "name"]);
    let mut names: Vec<String> =
        names.lines().filter_map(|name| Some(name.strip_prefix("configmap/w-")?.to_string())).collect();
    names.sort();
    names
}

#[test]
fn a_full_disk_refuses_writes_loses_none_and_mends_itself_when_there_is_room() {
    let mut host = Host::new("full");
    let disk = SmallDisk::mount(PathBuf::from(host.state()).join("store"));
    host.up();
    let process = host.coracle_pid();
    let mut acknowledged = Vec::new();
    let mut keep = |host: &Host, from: usize, most: usize| {
        for n in from..from + most {
            match write(host, &format!("w-{n:03}")) {
                Ok(()) => acknowledged.push(format!("{n:03}")),
                Err(refusal) => return (acknowledged.clone(), refusal),
            }
        }
        (acknowledged.clone(), String::new())
    };
    assert_eq!(keep(&host, 0, 3).1, "");
    disk.fill();
    // The log's file has some room of its own.
    let (written, refusal) = keep(&host, 100, 200);
    assert!(refusal.contains("the disk is full"), "{refusal}");
    assert!(refusal.contains("read-only until a write succeeds"), "{refusal}");
    assert_eq!(maps(&host), written, "what was acknowledged is read, what was refused is not");

    fs::remove_file(disk.ballast()).unwrap();
    host.eventually("writes succeed again", SECONDS_30, |host| write(host, "w-900"));
    assert_eq!(host.coracle_pid(), process);
    let mut written = written;
    written.push("900".into());
    host.kill_coracle();
    host.up();
    assert_eq!(maps(&host), written, "after a kill");
}
