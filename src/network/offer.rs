//! Offers the network to the runtime: the plugin in its folder of plugins, and a conflist in its folder of
//! networks. The runtime takes the first file by name, so a foreign one that sorts earlier wins, and ours is
//! taken away.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    files::{self, FileError},
    plugin::{LOOPBACK, NAME},
};

pub(crate) const CONFLIST: &str = "99-coracle.conflist";
const NETWORK: &str = "coracle";
/// The newest version that containerd 1.6 and 1.7 know.
const CNI_VERSION: &str = "1.0.0";

#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("read folder {}", .path.display())]
    ReadFolder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("make {} a link", .path.display())]
    Link {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What the runtime sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Our network.
    Ours,
    /// The network of this file, which sorts before ours.
    Foreign(String),
}

/// The file that a runtime takes instead of ours, if any.
pub(crate) fn foreign(names: &[String]) -> Option<&String> {
    let is_network = |name: &&String| [".conf", ".conflist", ".json"].iter().any(|end| name.ends_with(end));
    names.iter().filter(is_network).filter(|name| name.as_str() < CONFLIST).min()
}

pub(crate) fn conflist(socket: &Path, state_dir: &Path, capabilities: &[String]) -> Value {
    let flags: serde_json::Map<String, Value> =
        capabilities.iter().map(|name| (name.clone(), Value::Bool(true))).collect();
    json!({
        "cniVersion": CNI_VERSION,
        "name": NETWORK,
        "plugins": [{ "type": NAME, "socket": socket, "stateDir": state_dir, "capabilities": flags }],
    })
}

/// Makes the folders say what they should; the same again changes nothing.
pub(crate) fn offer(
    conf_dir: &Path,
    bin_dir: &Path,
    binary: &Path,
    conflist: &Value,
) -> Result<Offer, OfferError> {
    files::make_folder(conf_dir, 0o755)?;
    files::make_folder(bin_dir, 0o755)?;
    link(&bin_dir.join(NAME), binary)?;
    let loopback = bin_dir.join(LOOPBACK);
    if fs::symlink_metadata(&loopback).is_err() {
        link(&loopback, Path::new(NAME))?;
    }
    if let Some(name) = foreign(&names(conf_dir)?) {
        files::remove(&conf_dir.join(CONFLIST))?;
        return Ok(Offer::Foreign(name.clone()));
    }
    let path = conf_dir.join(CONFLIST);
    let text = format!("{conflist:#}\n");
    // The runtime reloads on every write: only a change is one.
    if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
        files::write(&path, text.as_bytes(), 0o644)?;
    }
    Ok(Offer::Ours)
}

/// Takes the offer back. What was removed.
pub(crate) fn withdraw(conf_dir: &Path, bin_dir: &Path) -> Result<Vec<PathBuf>, OfferError> {
    let mut paths = vec![conf_dir.join(CONFLIST), bin_dir.join(NAME)];
    let loopback = bin_dir.join(LOOPBACK);
    if fs::read_link(&loopback).is_ok_and(|target| target == Path::new(NAME)) {
        paths.push(loopback);
    }
    let mut removed = Vec::new();
    for path in paths {
        if files::remove(&path)? {
            removed.push(path);
        }
    }
    Ok(removed)
}

fn link(path: &Path, target: &Path) -> Result<(), OfferError> {
    if fs::read_link(path).is_ok_and(|there| there == target) {
        return Ok(());
    }
    // Beside its place first: the runtime must never find no plugin.
    let beside = path.with_extension("new");
    files::remove(&beside)?;
    symlink(target, &beside)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|source| OfferError::Link { path: path.to_path_buf(), source })
}

fn names(dir: &Path) -> Result<Vec<String>, OfferError> {
    let failed = |source| OfferError::ReadFolder { path: dir.to_path_buf(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_sorts_earlier_wins_and_other_files_do_not_count() {
        let names = |all: &[&str]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            foreign(&names(&["99-coracle.conflist", "10-calico.conflist"])).unwrap(),
            "10-calico.conflist"
        );
        assert_eq!(foreign(&names(&["99-coracle.conflist", "zz.conf", "10-note.txt"])), None);
    }

    #[test]
    fn the_offer_is_made_once_yields_to_a_foreign_network_and_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, bin) = (dir.path().join("conf"), dir.path().join("bin"));
        let list = conflist(Path::new("/run/x.sock"), Path::new("/var/x"), &["portMappings".to_string()]);
        let make = || offer(&conf, &bin, Path::new("/usr/bin/coracle"), &list).unwrap();
        assert_eq!(make(), Offer::Ours);
        let written = fs::metadata(conf.join(CONFLIST)).unwrap().modified().unwrap();
        assert_eq!(make(), Offer::Ours);
        assert_eq!(fs::metadata(conf.join(CONFLIST)).unwrap().modified().unwrap(), written);
        assert_eq!(fs::read_link(bin.join(NAME)).unwrap(), Path::new("/usr/bin/coracle"));
        fs::write(conf.join("05-cilium.conflist"), "{}").unwrap();
        assert_eq!(make(), Offer::Foreign("05-cilium.conflist".into()));
        assert!(!conf.join(CONFLIST).exists());
        assert_eq!(withdraw(&conf, &bin).unwrap(), [bin.join(NAME), bin.join(LOOPBACK)]);
        assert!(withdraw(&conf, &bin).unwrap().is_empty());
    }

    #[test]
    fn the_committed_example_is_what_is_written() {
        let capabilities = ["bandwidth".to_string(), "portMappings".to_string()];
        let list = conflist(Path::new("/run/coracle/cni.sock"), Path::new("/var/lib/coracle"), &capabilities);
        assert_eq!(format!("{list:#}\n"), include_str!("../../cni/99-coracle.conflist"));
    }
}
