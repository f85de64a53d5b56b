//! A containerd of the test's own: root, state, socket and network namespace, all gone when it is dropped.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub(crate) const BUSYBOX: &str = "test.local/busybox:1";

pub(crate) struct Containerd {
    pub(crate) dir: tempfile::TempDir,
    netns: String,
    process: Child,
}

impl Containerd {
    pub(crate) fn start() -> Containerd {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new().prefix("kubelet-test-").tempdir().unwrap();
        let netns = format!("kt-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &netns]);
        run("nsenter", &[&format!("--net=/run/netns/{netns}"), "ip", "link", "set", "lo", "up"]);
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::create_dir_all(dir.path().join("cni")).unwrap();
        let lo = r#"{"cniVersion":"1.0.0","name":"lo","plugins":[{"type":"loopback"}]}"#;
        fs::write(dir.path().join("cni/10-lo.conflist"), lo).unwrap();
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
oom_score = 0
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{BUSYBOX}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.internal.v1.opt"]
  path = "{opt}"
"#,
            root = path("root"),
            state = path("state"),
            socket = path("containerd.sock"),
            cni = path("cni"),
            opt = path("opt"),
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.path().join("containerd.log")).unwrap();
        let process = Command::new("nsenter")
            .args([&format!("--net=/run/netns/{netns}"), "containerd", "-c", &path("config.toml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("containerd is installed");
        let containerd = Containerd { dir, netns, process };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !containerd.ctr(&["version"]) {
            assert!(Instant::now() < deadline, "containerd does not answer: {}", containerd.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        let archive = containerd.dir.path().join("busybox.tar");
        super::image::write_busybox(&archive, BUSYBOX);
        assert!(containerd.ctr(&["-n", "k8s.io", "images", "import", archive.to_str().unwrap()]));
        containerd
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default()
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    fn ctr(&self, args: &[&str]) -> bool {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.socket()).args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn ids(&self, kind: &str) -> Vec<String> {
        let output = Command::new("ctr")
            .arg("-a")
            .arg(self.socket())
            .args(["-n", "k8s.io", kind, "ls", "-q"])
            .output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().map(String::from).collect()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.ids("tasks") {
            self.ctr(&["-n", "k8s.io", "tasks", "rm", "-f", &id]);
        }
        for id in self.ids("containers") {
            self.ctr(&["-n", "k8s.io", "containers", "rm", &id]);
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        drop(self.process.wait());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let mut ours: Vec<&str> =
            ours.filter(|at| at.starts_with(&*self.dir.path().to_string_lossy())).collect();
        ours.sort_by_key(|at| std::cmp::Reverse(at.len()));
        for at in ours {
            let _ = nix::mount::umount2(at, nix::mount::MntFlags::MNT_DETACH);
        }
        run("ip", &["netns", "del", &self.netns]);
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}
