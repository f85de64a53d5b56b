//! Makes and removes cgroups. Blocking, and short: the kernel answers from memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;

use super::{
    hierarchy::{Hierarchy, Version},
    plan::{self, Limits, Naming, TIERS, Tier},
    systemd::{self, Systemd},
};
use crate::{
    config::{CgroupDriver, KubeletConfig},
    pods::PodUid,
    resources::shares,
};

/// A killed process leaves its cgroup when the kernel is done with it.
const REMOVE_TRIES: u32 = 20;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
/// systemd makes a slice's cgroup after it has answered.
const SLICE_TRIES: u32 = 1000;
const SLICE_PAUSE: Duration = Duration::from_millis(5);

/// The pods' part of the cgroup trees of this node.
#[derive(Debug)]
pub struct Cgroups {
    hierarchy: Hierarchy,
    naming: Naming,
    pids_limit: Option<i64>,
    /// Who makes the slices of the systemd driver. `None`: directories, as a test has them.
    systemd: Option<Systemd>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was written since the agent started.
    pods: BTreeMap<PodUid, Applied>,
    tiers_made: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Applied {
    tier: Tier,
    limits: Limits,
    milli_cpu: i64,
}

impl Cgroups {
    /// Those of this node, by its own settings.
    pub fn of_node(mounts: &Path, config: &KubeletConfig) -> io::Result<Cgroups> {
        let cgroups = Cgroups::detect(mounts, &config.cgroup_root, config.cgroup_driver)?;
        let systemd = match config.cgroup_driver {
            CgroupDriver::Systemd => Some(Systemd::at(systemd::SOCKET)),
            CgroupDriver::Cgroupfs => None,
        };
        Ok(Cgroups { systemd, ..cgroups })
    }

    /// Looks what is mounted at `mounts` (`/sys/fs/cgroup`); pods go below `root` in it.
    pub fn detect(mounts: &Path, root: &str, driver: CgroupDriver) -> io::Result<Cgroups> {
        Ok(Cgroups {
            hierarchy: Hierarchy::detect(mounts)?,
            naming: Naming::new(root, driver),
            pids_limit: None,
            systemd: None,
            state: Mutex::default(),
        })
    }

    /// The most processes of one pod.
    #[must_use]
    pub fn with_pids_limit(self, pids_limit: Option<i64>) -> Cgroups {
        Cgroups { pids_limit, ..self }
    }

    pub fn version(&self) -> Version {
        self.hierarchy.version
    }

    /// The pod's cgroup in the runtime's notation.
    pub fn parent(&self, pod: &Pod) -> String {
        self.naming.parent_for_runtime(Tier::of(pod), &PodUid::of(pod))
    }

    /// Makes the pod's cgroup, and brings its limits up to date. Writes nothing when nothing changed.
    pub fn prepare(&self, pod: &Pod) -> io::Result<()> {
        let (uid, tier) = (PodUid::of(pod), Tier::of(pod));
        let milli_cpu = api::pods::requests(pod).get("cpu").map_or(0, api::quantity::Quantity::milli_value);
        let wanted = Applied { tier, limits: plan::limits(pod, self.pids_limit), milli_cpu };
        let path = self.naming.pod(tier, &uid);
        let mut state = self.state.lock();
        let present = self.hierarchy.trees.keys().all(|tree| tree.join(&path).is_dir());
        if present && state.pods.get(&uid) == Some(&wanted) {
            return Ok(());
        }
        if !state.tiers_made {
            self.make_tiers()?;
            state.tiers_made = true;
        }
        self.start(&path, &wanted.limits)?;
        self.make(&path)?;
        self.write(&path, &wanted.limits)?;
        state.pods.insert(uid, wanted);
        self.share_among_tiers(&state)
    }

    /// Kills what still runs in the pod's cgroup, and removes it. A pod without one is a success.
    pub fn remove(&self, uid: &PodUid) -> io::Result<()> {
        for tier in TIERS {
            let path = self.naming.pod(tier, uid);
            for tree in self.hierarchy.trees.keys() {
                remove_tree(&tree.join(&path))?;
            }
            self.stop(&path)?;
        }
        let mut state = self.state.lock();
        if state.pods.remove(uid).is_some() {
            self.share_among_tiers(&state)?;
        }
        Ok(())
    }

    /// Every pod that has a cgroup in any tree.
    pub fn list(&self) -> io::Result<BTreeSet<PodUid>> {
        let mut found = BTreeSet::new();
        for tree in self.hierarchy.trees.keys() {
            for tier in TIERS {
                for name in directories(&tree.join(self.naming.tier(tier)))? {
                    found.extend(self.naming.uid_of(&name.to_string_lossy()));
                }
            }
        }
        Ok(found)
    }

    /// Removes all of it, with what runs in it, and the configured root if nobody else uses it.
    pub fn reset(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        // One slice with all those below it, and before its directories: systemd 252 does not answer about one that it finds
        // without its cgroup ("Failed to thaw slice").
        self.stop(&self.naming.kubepods())?;
        for tree in self.hierarchy.trees.keys() {
            let kubepods = tree.join(self.naming.kubepods());
            remove_tree(&kubepods)?;
            // Upwards as far as the directories are empty; somebody else's cgroup in one keeps it.
            let above = kubepods.ancestors().skip(1).take_while(|above| above != tree);
            for empty in above {
                if fs::remove_dir(empty).is_err() {
                    break;
                }
            }
        }
        *state = State::default();
        Ok(())
    }

    fn make_tiers(&self) -> io::Result<()> {
        let cpus = thread::available_parallelism().map_or(1, |it| i64::try_from(it.get()).unwrap_or(1));
        let whole = Limits { cpu_shares: Some(shares(cpus * 1000)), ..Limits::default() };
        self.start(&self.naming.kubepods(), &whole)?;
        for tier in TIERS {
            self.make(&self.naming.tier(tier))?;
        }
        self.write(&self.naming.kubepods(), &whole)
    }

    /// Burstable pods together weigh what they ask for, best-effort pods as little as one.
    fn share_among_tiers(&self, state: &State) -> io::Result<()> {
        let burstable = state.pods.values().filter(|it| it.tier == Tier::Burstable);
        let milli_cpu = burstable.map(|it| it.milli_cpu).sum();
        for (tier, cpu_shares) in
            [(Tier::Burstable, shares(milli_cpu)), (Tier::BestEffort, plan::LEAST_SHARES)]
        {
            let limits = Limits { cpu_shares: Some(cpu_shares), ..Limits::default() };
            self.start(&self.naming.tier(tier), &limits)?;
            self.write(&self.naming.tier(tier), &limits)?;
        }
        Ok(())
    }

    /// Tells systemd, if it is who makes slices, and waits for the cgroup. What it does not know of is written after that.
    fn start(&self, path: &Path, limits: &Limits) -> io::Result<()> {
        let Some((systemd, slice)) = self.systemd.as_ref().zip(slice(path)) else { return Ok(()) };
        systemd.ensure(&slice, self.hierarchy.version, limits).map_err(io::Error::other)?;
        let mut tries = 0;
        while !self.hierarchy.serving("memory").is_none_or(|tree| tree.join(path).is_dir()) {
            if tries == SLICE_TRIES {
                let text =
                    format!("systemd has started {slice}, but its cgroup {} does not come", path.display());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(SLICE_PAUSE);
            tries += 1;
        }
        Ok(())
    }

    fn stop(&self, path: &Path) -> io::Result<()> {
        let Some((systemd, slice)) = self.systemd.as_ref().zip(slice(path)) else { return Ok(()) };
        systemd.stop(&slice).map_err(io::Error::other)
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        for (tree, controllers) in &self.hierarchy.trees {
            let mut at = tree.clone();
            for segment in path {
                let parent = at.clone();
                at.push(segment);
                if self.hierarchy.version == Version::V2 {
                    // Before the child is made: it gets what the parent passes on.
                    enable(&parent, controllers)?;
                }
                match fs::create_dir(&at) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
                if self.hierarchy.version == Version::V1 && controllers.iter().any(|it| it == "cpuset") {
                    inherit_cpuset(&parent, &at)?;
                }
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, limits: &Limits) -> io::Result<()> {
        for setting in plan::settings(self.hierarchy.version, limits) {
            // A kernel without the controller cannot limit by it; upstream runs there too.
            let Some(tree) = self.hierarchy.serving(setting.controller) else { continue };
            let file = tree.join(path).join(&setting.file);
            fs::write(&file, &setting.value)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
        }
        Ok(())
    }
}

/// The unit whose cgroup this is.
fn slice(path: &Path) -> Option<String> {
    path.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// v1: a cpuset takes no process before it has processors and memory nodes, and a new one has none.
fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = match fs::read_to_string(child.join(file)) {
            Ok(own) => own,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        if own.trim().is_empty() {
            fs::write(child.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// v2: children have the controllers that their parent passes on.
fn enable(parent: &Path, controllers: &[String]) -> io::Result<()> {
    let file = parent.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let wanted = ["cpu", "cpuset", "memory", "pids", "hugetlb", "io"];
    let missing: Vec<String> = controllers
        .iter()
        .filter(|it| wanted.contains(&it.as_str()) && !enabled.split_whitespace().any(|on| on == *it))
        .map(|it| format!("+{it}"))
        .collect();
    if missing.is_empty() { Ok(()) } else { fs::write(&file, missing.join(" ")) }
}

/// The deepest first, each after its processes. Only directories: the kernel removes a cgroup's files itself.
fn remove_tree(path: &Path) -> io::Result<()> {
    for name in directories(path)? {
        remove_tree(&path.join(name))?;
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < REMOVE_TRIES => {
                kill_all(path);
                thread::sleep(REMOVE_PAUSE);
                tries += 1;
            }
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("remove {}: {error}", path.display())));
            }
        }
    }
}

/// Its containers have been stopped: what is here ran away from them.
fn kill_all(path: &Path) {
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        // It may be gone already; whether it worked shows when the cgroup is removed.
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL).is_err();
    }
}

fn directories(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(PathBuf::from(entry.file_name()));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use serde_json::json;

    use super::*;

    fn pod(uid: &str, resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"uid": uid}, "spec": {"containers": [{"name": "c", "resources": resources}]}
        }))
        .unwrap()
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .trim()
            .to_string()
    }

    #[test]
    fn v1_trees_get_the_pod_and_its_limits_and_cpusets_are_copied_down() {
        let dir = tempfile::tempdir().unwrap();
        for tree in ["cpu", "cpuset", "memory", "pids", "systemd"] {
            fs::create_dir(dir.path().join(tree)).unwrap();
            fs::write(dir.path().join(tree).join("cgroup.procs"), "").unwrap();
        }
        fs::write(dir.path().join("cpuset/cpuset.cpus"), "0-1\n").unwrap();
        fs::write(dir.path().join("cpuset/cpuset.mems"), "0\n").unwrap();
        let cgroups =
            Cgroups::detect(dir.path(), "/", CgroupDriver::Cgroupfs).unwrap().with_pids_limit(Some(50));
        let burstable = pod("a", json!({"requests": {"cpu": "500m"}, "limits": {"memory": "1Mi"}}));
        cgroups.prepare(&burstable).unwrap();
        cgroups.prepare(&pod("b", json!({}))).unwrap();
        let at = |path: &str| dir.path().join(path);
        assert_eq!(read(at("cpu/kubepods/burstable/poda/cpu.shares")), "512");
        assert_eq!(read(at("cpu/kubepods/burstable/cpu.shares")), "512");
        assert_eq!(read(at("cpu/kubepods/besteffort/cpu.shares")), "2");
        assert_eq!(read(at("memory/kubepods/burstable/poda/memory.limit_in_bytes")), "1048576");
        assert_eq!(read(at("pids/kubepods/besteffort/podb/pids.max")), "50");
        assert_eq!(read(at("cpuset/kubepods/besteffort/podb/cpuset.cpus")), "0-1");
        assert!(at("systemd/kubepods/besteffort/podb").is_dir());
        assert_eq!(cgroups.list().unwrap(), BTreeSet::from(["a", "b"].map(PodUid::from)));
        assert_eq!(cgroups.parent(&burstable), "/kubepods/burstable/poda");
    }

    #[test]
    fn v2_passes_controllers_on_before_it_makes_the_pod() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids rdma").unwrap();
        let cgroups = Cgroups::detect(dir.path(), "/own", CgroupDriver::Systemd).unwrap();
        let both = json!({"cpu": "1", "memory": "1Mi"});
        cgroups.prepare(&pod("a-b", json!({"requests": both, "limits": both}))).unwrap();
        let own = dir.path().join("own.slice/own-kubepods.slice");
        assert_eq!(read(dir.path().join("cgroup.subtree_control")), "+cpu +memory +pids");
        assert_eq!(read(own.join("cgroup.subtree_control")), "+cpu +memory +pids");
        assert_eq!(read(own.join("own-kubepods-poda_b.slice/cpu.max")), "100000 100000");
        assert_eq!(cgroups.list().unwrap(), BTreeSet::from([PodUid::from("a-b")]));
    }

    /// Removes the tree also when an assertion fails.
    struct Real(Cgroups, Vec<PathBuf>);

    impl Drop for Real {
        fn drop(&mut self) {
            drop(self.0.reset());
            self.1.iter().for_each(|path| drop(fs::remove_dir(path)));
        }
    }

    #[test]
    fn a_real_kernel_takes_the_values_and_leftover_processes_are_killed() {
        let root = format!("coracle-test-{}", std::process::id());
        let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"), &root, CgroupDriver::Cgroupfs).unwrap();
        let own = cgroups.hierarchy.trees.keys().map(|tree| tree.join(&root)).collect();
        let real = Real(cgroups, own);
        let cgroups = &real.0;
        let pod = pod("x", json!({"requests": {"cpu": "500m"}, "limits": {"memory": "64Mi", "cpu": "1"}}));
        cgroups.prepare(&pod).unwrap();
        let path = cgroups.naming.pod(Tier::Burstable, &PodUid::from("x"));
        let memory = match cgroups.version() {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        assert_eq!(read(cgroups.hierarchy.serving("memory").unwrap().join(&path).join(memory)), "67108864");
        let mut runaway = Command::new("sleep").arg("1000").spawn().unwrap();
        let inner = cgroups.hierarchy.serving("cpu").unwrap().join(&path).join("inner");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("cgroup.procs"), runaway.id().to_string()).unwrap();
        cgroups.remove(&PodUid::from("x")).unwrap();
        assert!(!runaway.wait().unwrap().success(), "it was killed");
        assert_eq!(cgroups.list().unwrap(), BTreeSet::new());
        cgroups.remove(&PodUid::from("x")).unwrap();
    }
}
