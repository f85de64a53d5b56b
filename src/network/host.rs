//! Changes of the host's sysctls, each written down with what it was before it is made, so that reset can
//! put it back.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::files::{self, FileError};

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not parse", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

/// One changed sysctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Changed {
    before: String,
    ours: String,
}

/// The ledger of changes: sysctls by their path below `/proc/sys`.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    proc_sys: PathBuf,
}

impl Ledger {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join("network/host-changes.json"), proc_sys: PathBuf::from("/proc/sys") }
    }

    /// Sets a sysctl, unless it has this value. True if it was changed.
    pub(crate) fn set(&self, sysctl: &str, value: &str) -> Result<bool, HostError> {
        let path = self.proc_sys.join(sysctl);
        let before = read(&path)?;
        if before == value {
            return Ok(false);
        }
        let mut all = self.load()?;
        // The first value counts: what was there before us.
        let entry = all.entry(sysctl.to_string()).or_insert(Changed { before, ours: String::new() });
        entry.ours = value.to_string();
        self.save(&all)?;
        fs::write(&path, value).map_err(|source| HostError::Write { path, source })?;
        Ok(true)
    }

    /// Puts everything back that is still as we set it, and forgets. The sysctls put back.
    pub(crate) fn restore(&self) -> Result<Vec<String>, HostError> {
        let mut restored = Vec::new();
        for (sysctl, changed) in self.load()? {
            let path = self.proc_sys.join(&sysctl);
            match read(&path) {
                Ok(now) if now == changed.ours => {
                    fs::write(&path, &changed.before).map_err(|source| HostError::Write { path, source })?;
                    restored.push(sysctl);
                }
                // Somebody else changed it since, or its interface is gone.
                Ok(_) | Err(_) => {}
            }
        }
        files::remove(&self.path)?;
        Ok(restored)
    }

    fn load(&self) -> Result<BTreeMap<String, Changed>, HostError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| HostError::Parse { path: self.path.clone(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(source) => Err(HostError::Read { path: self.path.clone(), source }),
        }
    }

    fn save(&self, all: &BTreeMap<String, Changed>) -> Result<(), HostError> {
        let bytes =
            serde_json::to_vec(all).map_err(|source| HostError::Parse { path: self.path.clone(), source })?;
        Ok(files::write(&self.path, &bytes, 0o600)?)
    }
}

/// Lets the host forward packets of these families.
pub(crate) fn forward(ledger: &Ledger, v4: bool, v6: bool) -> Result<(), HostError> {
    if v4 {
        ledger.set("net/ipv4/ip_forward", "1")?;
    }
    if v6 {
        // A forwarding host ignores router advertisements, which may be how it got its own default route.
        for interface in listening_to_routers(&ledger.proc_sys) {
            ledger.set(&format!("net/ipv6/conf/{interface}/accept_ra"), "2")?;
        }
        ledger.set("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn listening_to_routers(proc_sys: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(proc_sys.join("net/ipv6/conf")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let listens = |name: &String| {
        !matches!(name.as_str(), "all" | "default" | "lo")
            && !crate::builtin::is_host_interface(name)
            && read(&proc_sys.join("net/ipv6/conf").join(name).join("accept_ra"))
                .is_ok_and(|value| value == "1")
    };
    names.filter(listens).collect()
}

fn read(path: &Path) -> Result<String, HostError> {
    fs::read_to_string(path)
        .map(|text| text.trim().to_string())
        .map_err(|source| HostError::Read { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_first_comes_back_unless_somebody_else_changed_it() {
        let dir = tempfile::tempdir().unwrap();
        let ledger =
            Ledger { path: dir.path().join("network/host-changes.json"), proc_sys: dir.path().to_path_buf() };
        for name in ["a", "b"] {
            fs::write(dir.path().join(name), "0\n").unwrap();
            assert!(ledger.set(name, "1").unwrap());
            assert!(!ledger.set(name, "1").unwrap());
            ledger.set(name, "2").unwrap();
        }
        fs::write(dir.path().join("b"), "7").unwrap();
        assert_eq!(ledger.restore().unwrap(), ["a"]);
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "0");
        assert_eq!(fs::read_to_string(dir.path().join("b")).unwrap(), "7");
        assert!(ledger.restore().unwrap().is_empty());
    }
}
