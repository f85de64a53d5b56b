//! One host: a network namespace on a link, a containerd, and a coracle.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::hosts::{
    interrupt::{self, say},
    link::{self, Link},
    program::{Dead, Started, tail, within},
};

/// What taking a host down takes on a busy machine, with many pods left, and more.
const LONG: Duration = Duration::from_secs(180);
pub(super) const SHORT: Duration = Duration::from_secs(30);

/// Where `make test` put a program.
pub(crate) fn tool(variable: &str) -> PathBuf {
    let path = env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run these tests by `make test`"));
    PathBuf::from(path)
}

/// The root of this repository, whichever of its packages the hosts are built into.
fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("deploy/runtime.sh").exists()).unwrap_or(package)
}

pub(crate) struct Host {
    namespace: String,
    address: String,
    directory: TempDir,
    coracle: Option<Started>,
    /// Goes after everything that is plugged into it.
    _link: Arc<Link>,
}

impl Host {
    /// The address of the first host of a link.
    pub(crate) const ADDRESS: &str = "10.88.0.1";

    /// A host on a link of its own, with the machine's name. Starts containerd with the images; `coracle` is not
    /// started yet.
    pub(crate) fn new(name: &str) -> Self {
        Self::plugged(&Link::new(name), name, 1)
    }

    /// A host on a link that it shares, as a node of this name; `number` is the last part of its address.
    pub(crate) fn on(link: &Arc<Link>, name: &str, number: u8) -> Self {
        let host = Self::plugged(link, name, number);
        let mut config = fs::read_to_string(host.config()).unwrap();
        config.push_str(&format!("node: {{name: {name}}}\n"));
        fs::write(host.config(), config).unwrap();
        host
    }

    fn plugged(link: &Arc<Link>, name: &str, number: u8) -> Self {
        let namespace = format!("coracle-{name}-{}", std::process::id());
        let directory = TempDir::with_prefix("coracle-").unwrap();
        let address = link::address(number);
        check(Command::new("ip").args(["netns", "add", &namespace]));
        let host = Self { namespace, address, directory, coracle: None, _link: Arc::clone(link) };
        link.plug(&host.namespace, number);
        host.runtime("start");
        let config = fs::read_to_string(repository().join("deploy/coracle.yaml")).unwrap();
        let config = config.replace("@STATE@", &host.state()).replace("@RUN@", &host.run());
        let config = config.replace("cgroupRoot: /coracle", &format!("cgroupRoot: /{}", host.namespace));
        fs::write(host.config(), config).unwrap();
        host
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn runtime(&self, action: &str) {
        let script = repository().join("deploy/runtime.sh");
        check(self.inside(script).args([action, &self.state(), &self.run()]).arg(tool("CORACLE_IMAGES")));
    }

    pub(crate) fn state(&self) -> String {
        self.directory.path().join("state").display().to_string()
    }

    pub(crate) fn run(&self) -> String {
        self.directory.path().join("run").display().to_string()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("state/config.yaml")
    }

    /// Changes the configuration, before coracle is started.
    pub(crate) fn configure(&self, change: impl FnOnce(&str) -> String) {
        let config = fs::read_to_string(self.config()).unwrap();
        let changed = change(&config);
        assert_ne!(config, changed);
        fs::write(self.config(), changed).unwrap();
    }

    /// A command inside the host's network namespace.
    pub(crate) fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }

    /// Starts `coracle up`; does not wait.
    pub(crate) fn start(&mut self) {
        self.start_as(&["up"]);
    }

    /// Starts coracle with these arguments and this host's configuration; does not wait.
    pub(crate) fn start_as(&mut self, arguments: &[&str]) {
        let command = self.coracle(arguments);
        let mut coracle = Started::new(format!("coracle on {}", self.namespace), command, self.log());
        coracle.keep_log_as(format!("{}.log", self.namespace));
        self.coracle = Some(coracle);
    }

    /// coracle with these arguments and this host's configuration.
    pub(crate) fn coracle(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside(tool("CORACLE_BIN"));
        command.args(arguments).arg("--config").arg(self.config());
        command
    }

    /// The line to paste on another machine.
    pub(crate) fn token(&self) -> String {
        let output = self.coracle(&["token", "create"]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    /// This binary called by another name, such as upstream's `kubelet`.
    pub(crate) fn called(&self, name: &str) -> Command {
        let path = self.directory.path().join(name);
        if !path.exists() {
            symlink(tool("CORACLE_BIN"), &path).unwrap();
        }
        self.inside(path)
    }

    /// Starts a program beside coracle; does not wait. It ends with what is given back.
    pub(crate) fn start_beside(&self, name: &str, command: Command) -> Started {
        let log = self.directory.path().join(format!("{name}.log"));
        let mut started = Started::new(format!("{name} on {}", self.namespace), command, log);
        // As coracle's own: other hosts, and other runs, have programs of this name too.
        started.keep_log_as(format!("{}-{name}.log", self.namespace));
        started
    }

    /// What of this host, coracle or its containerd, has ended by itself.
    pub(crate) fn dead(&self) -> Option<Dead> {
        self.coracle.as_ref().and_then(Started::dead).or_else(|| self.runtime_dead())
    }

    /// It is nobody's child here: `deploy/runtime.sh` left its number behind.
    fn runtime_dead(&self) -> Option<Dead> {
        let number = fs::read_to_string(Path::new(&self.run()).join("containerd.pid")).ok()?;
        // A zombie has no command line.
        let lives = fs::read(format!("/proc/{}/cmdline", number.trim())).is_ok_and(|line| !line.is_empty());
        let log = Path::new(&self.state()).join("containerd.log");
        (!lives).then(|| Dead::new(format!("containerd on {}", self.namespace), &log))
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("coracle.log")
    }

    /// The last lines of coracle's log, for a failure's message.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// Starts coracle and waits until the node is Ready.
    pub(crate) fn up(&mut self) {
        self.start();
        self.eventually("the node is Ready", Duration::from_secs(60), |host| {
            let ready = host.kubectl(&[
                "get",
                "nodes",
                "-o",
                "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}",
            ]);
            (ready.stdout == b"True").then_some(()).ok_or_else(|| text(&ready))
        });
    }

    /// Ends coracle as a power cut would.
    pub(crate) fn kill_coracle(&mut self) {
        self.coracle.take().expect("coracle runs").kill();
    }

    /// Ends coracle as a service manager would.
    pub(crate) fn stop_coracle(&mut self) {
        drop(self.coracle.take());
    }

    pub(crate) fn coracle_pid(&self) -> u32 {
        self.coracle.as_ref().map(Started::id).expect("coracle runs")
    }

    /// kubectl with the administrator's kubeconfig.
    pub(crate) fn kubectl_command(&self) -> Command {
        let mut command = self.inside(tool("CORACLE_KUBECTL"));
        command.arg("--kubeconfig").arg(self.directory.path().join("state/admin.kubeconfig"));
        command.env("HOME", self.directory.path());
        command
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_command().args(arguments).output().unwrap()
    }

    /// What kubectl prints; it must succeed.
    #[track_caller]
    pub(crate) fn k(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}\n--- log\n{}",
            text(&output),
            self.log_tail()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl complains of; it must fail.
    #[track_caller]
    pub(crate) fn k_fails(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(!output.status.success(), "kubectl {arguments:?} should fail: {}", text(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub(crate) fn apply(&self, manifest: &str) -> String {
        let file = tempfile::NamedTempFile::new_in(self.directory.path()).unwrap();
        fs::write(file.path(), manifest).unwrap();
        self.k(&["apply", "-f", file.path().to_str().unwrap()])
    }

    /// The body of a page, fetched inside the host; `Err` tells why there is none.
    pub(crate) fn fetch(&self, url: &str) -> Result<String, String> {
        let output = self.inside("curl").args(["-sS", "-f", "--max-time", "3", url]).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(text(&output))
        }
    }

    /// Looks again until `look` is content, or fails with its last complaint when `deadline` has passed.
    #[track_caller]
    pub(crate) fn eventually<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> T {
        let until = Instant::now() + deadline;
        loop {
            match look(self) {
                Ok(found) => return found,
                // The way out that takes down what was started.
                Err(_) if interrupt::check().is_err() => panic!("interrupted while waiting: {what}"),
                Err(complaint) if Instant::now() > until => {
                    // Where a program has gone, that is why.
                    let dead = self.dead().map(|dead| format!("\n--- {dead}")).unwrap_or_default();
                    panic!("not within {deadline:?}: {what}: {complaint}{dead}\n--- log\n{}", self.log_tail())
                }
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// The ids of all running containers, sandboxes not included.
    /// Of what must not be none: `[]` before and after would prove nothing.
    pub(crate) fn containers_that_run(&self) -> Vec<String> {
        let ids = self.running_containers();
        assert!(!ids.is_empty(), "no container runs");
        ids
    }

    pub(crate) fn running_containers(&self) -> Vec<String> {
        let socket = self.directory.path().join("run/containerd.sock");
        let output = Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["-n", "k8s.io", "tasks", "ls", "-q"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let mut ids: Vec<String> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_string).collect();
        ids.sort();
        ids
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop_coracle();
        // What follows must not stop at a failure: the rest has to go too.
        let mut reset = self.inside(tool("CORACLE_BIN"));
        reset.args(["reset", "--yes", "--config"]).arg(self.config());
        let mut stop = self.inside(repository().join("deploy/runtime.sh"));
        stop.args(["stop", &self.state(), &self.run()]);
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", &self.namespace]);
        for (command, limit) in [(reset, LONG), (stop, LONG), (delete, SHORT)] {
            if let Err(complaint) = within(limit, command) {
                say(&format!("while taking {} down: {complaint}", self.namespace));
            }
        }
    }
}

#[track_caller]
pub(super) fn check(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
