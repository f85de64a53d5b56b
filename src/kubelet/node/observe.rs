//! Reads the machine and the runtime.

use std::{fs, path::Path, sync::Arc, time::Duration};

use lifecycle::Workers;
use nix::{
    sys::statvfs::statvfs,
    unistd::{SysconfVar, sysconf},
};

use crate::runtime::{Image, Runtime, RuntimeHealth, RuntimeVersion};

/// What does not change while the agent runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Machine {
    pub(super) cpus: i64,
    pub(super) memory_bytes: i64,
    /// Page size in kB, bytes in all.
    pub(super) hugepages: Vec<(u64, u64)>,
    pub(super) kernel: String,
    pub(super) os_image: String,
    pub(super) machine_id: String,
    pub(super) boot_id: String,
    pub(super) system_uuid: String,
}

/// What does.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Observed {
    pub(super) memory_available_bytes: i64,
    /// Of the file system that pods live on; `None` when it does not answer.
    pub(super) disk: Option<Disk>,
    pub(super) pids_used: i64,
    pub(super) pids_max: i64,
    /// `None`: the runtime does not answer.
    pub(super) health: Option<RuntimeHealth>,
    pub(super) version: Option<RuntimeVersion>,
    pub(super) images: Vec<Image>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) capacity_bytes: u64,
    pub(super) available_bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

pub(super) fn machine() -> Machine {
    let uname = nix::sys::utsname::uname().ok();
    let kernel = uname.map(|it| it.release().to_string_lossy().into_owned()).unwrap_or_default();
    let machine_id = first_of(&["/etc/machine-id", "/var/lib/dbus/machine-id"]);
    let uuid = first_of(&["/sys/class/dmi/id/product_uuid"]);
    Machine {
        cpus: sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1),
        memory_bytes: meminfo("MemTotal"),
        hugepages: hugepages(),
        kernel,
        os_image: os_image(),
        system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid.to_lowercase() },
        machine_id,
        boot_id: first_of(&["/proc/sys/kernel/random/boot_id"]),
    }
}

/// A runtime that does not answer is part of what is seen, not an error.
pub(super) async fn observe<R: Runtime>(runtime: &Arc<R>, workers: &Workers, root: &Path) -> Observed {
    let deadline = Duration::from_secs(5);
    let dir = root.to_path_buf();
    let disk = workers.run("statfs", deadline, move || disk(&dir)).await.ok().flatten();
    let health = tokio::time::timeout(deadline, runtime.health()).await.ok().and_then(Result::ok);
    let (mut version, mut images) = (None, Vec::new());
    if health.is_some() {
        version = tokio::time::timeout(deadline, runtime.version()).await.ok().and_then(Result::ok);
        images = tokio::time::timeout(deadline, runtime.images())
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
    }
    Observed {
        memory_available_bytes: meminfo("MemAvailable"),
        disk,
        pids_used: pids_used(),
        pids_max: number("/proc/sys/kernel/pid_max").unwrap_or(i64::MAX),
        health,
        version,
        images,
    }
}

fn disk(path: &Path) -> Option<Disk> {
    // Before the first pod, the directory may not be there: its parent is on the same disk.
    let stat = path.ancestors().find_map(|path| statvfs(path).ok())?;
    let unit = stat.fragment_size();
    Some(Disk {
        capacity_bytes: stat.blocks() * unit,
        available_bytes: stat.blocks_available() * unit,
        inodes: stat.files(),
        inodes_free: stat.files_free(),
    })
}

fn meminfo(field: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// The fourth field of loadavg is `runnable/all`.
fn pids_used() -> i64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let counts = text.split_whitespace().nth(3).unwrap_or_default();
    counts.split_once('/').and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn hugepages() -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let mut sizes: Vec<(u64, u64)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            Some((kilobytes, pages.trim().parse::<u64>().ok()? * kilobytes * 1024))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let text = text.unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".into(), |name| name.trim_matches('"').to_string())
}

fn first_of(paths: &[&str]) -> String {
    let mut texts = paths.iter().filter_map(|path| fs::read_to_string(path).ok());
    texts.find(|text| !text.trim().is_empty()).map(|text| text.trim().to_string()).unwrap_or_default()
}

fn number(path: &str) -> Option<i64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
