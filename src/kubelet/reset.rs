//! Takes every pod of this node away, with all that the agent made for it. For `coracle reset`: the agent is stopped.
//!
//! While a pod may still run, nothing of any pod is removed. After that, one failure does not hide the rest: what stays
//! is told, and the next reset tries again.

use std::{fs, io, path::Path, time::Duration};

use lifecycle::{WorkError, Workers};

use crate::{
    cgroups::Cgroups,
    config::KubeletConfig,
    runtime::{CriRuntime, Runtime, RuntimeError, SecurityDefaults},
    shutdown,
    volumes::mounts,
};

/// A mount that hangs (a dead file server) is given up after this.
const FILES_DEADLINE: Duration = Duration::from_secs(60);
const RUNTIME_DEADLINE: Duration = Duration::from_secs(10);

/// What was taken away, and what was not.
#[derive(Debug, Default)]
pub struct Removed {
    pub pods: usize,
    pub failed: Vec<ResetError>,
}

impl Removed {
    /// A pod may still run: it needs its volumes and its network, and the next reset needs them to end it.
    pub fn pods_stay(&self) -> bool {
        let of_pod =
            |error: &ResetError| matches!(error, ResetError::List { .. } | ResetError::Sandbox { .. });
        self.failed.iter().any(of_pod)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    #[error("ask the container runtime at {endpoint} for its pods")]
    List {
        endpoint: String,
        #[source]
        source: RuntimeError,
    },
    #[error("remove the sandbox of pod {pod}")]
    Sandbox {
        pod: String,
        #[source]
        source: RuntimeError,
    },
    #[error("remove {path}")]
    Logind {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("remove the cgroups of pods")]
    Cgroups(#[source] io::Error),
    #[error("remove {path}")]
    Files {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("remove the files of pods")]
    Hung(#[source] WorkError),
}

/// Removes all pods from the runtime, and when none is left their volumes, logs and cgroups.
pub async fn reset(config: &KubeletConfig) -> Removed {
    let mut removed = Removed::default();
    remove_pods(config, &mut removed).await;
    if removed.pods_stay() {
        return removed;
    }
    if let Err(source) = shutdown::reset(&config.shutdown).await {
        removed
            .failed
            .push(ResetError::Logind { path: config.shutdown.drop_in.display().to_string(), source });
    }
    // It has just answered; the agent made the cgroups in the same way.
    let config = &config.clone().with_runtimes_driver(RUNTIME_DEADLINE).await;
    let cgroups = Cgroups::of_node(Path::new("/sys/fs/cgroup"), config);
    if let Err(error) = cgroups.and_then(|cgroups| cgroups.reset()) {
        removed.failed.push(ResetError::Cgroups(error));
    }
    for path in [&config.root_dir, &config.pod_logs_dir] {
        let path = path.clone();
        let shown = path.display().to_string();
        match Workers::new(1).run("remove pod files", FILES_DEADLINE, move || remove_tree(&path)).await {
            Ok(Ok(())) => {}
            Ok(Err(source)) => removed.failed.push(ResetError::Files { path: shown, source }),
            Err(error) => removed.failed.push(ResetError::Hung(error)),
        }
    }
    removed
}

async fn remove_pods(config: &KubeletConfig, removed: &mut Removed) {
    let endpoint = config.runtime_endpoint.clone();
    let unlisted = |source| ResetError::List { endpoint, source };
    let listed = match CriRuntime::new(&config.runtime_endpoint, SecurityDefaults::default()) {
        Ok(runtime) => runtime.list().await.map(|pods| (runtime, pods)),
        Err(error) => Err(error),
    };
    let (runtime, pods) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            removed.failed.push(unlisted(error));
            return;
        }
    };
    for pod in pods {
        let mut gone = true;
        for (id, _) in &pod.sandboxes {
            // Stopping kills the containers and takes the network down.
            let outcome = match runtime.stop_sandbox(id).await {
                Ok(()) => runtime.remove_sandbox(id).await,
                Err(error) => Err(error),
            };
            if let Err(source) = outcome {
                gone = false;
                let pod = format!("{}/{}", pod.name.namespace, pod.name.name);
                removed.failed.push(ResetError::Sandbox { pod, source });
            }
        }
        removed.pods += usize::from(gone);
    }
}

/// Unmounts what is mounted below a directory, and removes the directory.
fn remove_tree(root: &Path) -> io::Result<()> {
    let real = match fs::canonicalize(root) {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(&real)? {
        mounts::remove(&entry?.path())?;
    }
    match fs::remove_dir(root) {
        // A link to another place, or a disk of its own, is somebody's decision: it stays, empty.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::ResourceBusy) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;
    use crate::volumes::in_private_mounts;

    #[test]
    fn a_linked_root_is_emptied_and_what_is_mounted_in_it_is_kept() {
        in_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |path: &str| dir.path().join(path);
            fs::create_dir_all(at("disk/pods/u1/part")).unwrap();
            fs::write(at("disk/state"), "").unwrap();
            fs::create_dir(at("host")).unwrap();
            fs::write(at("host/data"), "precious").unwrap();
            std::os::unix::fs::symlink("disk", at("root")).unwrap();
            let part = at("root/pods/u1/part");
            mount(Some(&at("host")), &part, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            remove_tree(&at("root")).unwrap();
            assert_eq!(fs::read_to_string(at("host/data")).unwrap(), "precious");
            assert_eq!(fs::read_dir(at("root")).unwrap().count(), 0);
            remove_tree(&at("disk")).unwrap();
            assert!(!at("disk").exists());
        });
    }

    #[tokio::test]
    async fn while_the_runtime_cannot_be_asked_nothing_of_pods_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = KubeletConfig::new("n1");
        config.root_dir = dir.path().join("kubelet");
        config.pod_logs_dir = dir.path().join("logs");
        // Nobody's: should the test fail, nothing real goes.
        config.cgroup_root = "/coracle-reset-test".into();
        config.runtime_endpoint = format!("unix://{}", dir.path().join("none.sock").display());
        fs::create_dir_all(config.root_dir.join("pods/u1")).unwrap();
        let removed = reset(&config).await;
        assert!(removed.pods_stay() && removed.failed.len() == 1, "{removed:?}");
        assert!(config.root_dir.join("pods/u1").exists());
    }
}
