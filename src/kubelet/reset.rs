//! Takes every pod of this node away, with all that the agent made for it. For `coracle reset`: the agent is stopped.
//!
//! One failure does not hide the rest: what stays is told, and the next reset tries again.

use std::{io, path::Path, time::Duration};

use lifecycle::{WorkError, Workers};

use crate::{
    cgroups::Cgroups,
    config::KubeletConfig,
    runtime::{CriRuntime, Runtime, RuntimeError, SecurityDefaults},
};

/// A mount that hangs (a dead file server) is given up after this.
const FILES_DEADLINE: Duration = Duration::from_secs(60);

/// What was taken away, and what was not.
#[derive(Debug, Default)]
pub struct Removed {
    pub pods: usize,
    pub failed: Vec<ResetError>,
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

/// Removes all pods from the runtime, then their volumes, logs and cgroups.
pub async fn reset(config: &KubeletConfig) -> Removed {
    let mut removed = Removed::default();
    remove_pods(config, &mut removed).await;
    let cgroups = Cgroups::detect(Path::new("/sys/fs/cgroup"), &config.cgroup_root, config.cgroup_driver);
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

/// Unmounts what is mounted below a directory, deepest first, and removes the directory.
fn remove_tree(root: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let below = format!("{}/", root.display());
    let mut points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| point.starts_with(&below))
        .collect();
    points.sort_unstable_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        // Lazily: a process that still stands in it must not keep the rest.
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)?;
    }
    match std::fs::remove_dir_all(root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
