//! Reads the static pod directory (or the one file that stands in its place), and again when the kernel says that
//! something in it changed.

use std::{
    collections::HashMap,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tracing::{info, warn};

use super::static_pod;

/// The safety net under inotify (upstream's `fileCheckFrequency`).
const RELIST: Duration = Duration::from_secs(20);
/// Editors write in several steps.
const SETTLE: Duration = Duration::from_millis(100);

/// What each file last held that could be used.
type Good = HashMap<PathBuf, Arc<Pod>>;

/// Runs until dropped. A directory that is not there is empty; one that cannot be read changes nothing, nor does a file.
pub async fn watch_files(dir: &Path, node_name: &str, found: watch::Sender<Option<Vec<Arc<Pod>>>>) {
    let mut good = Good::new();
    loop {
        let changed = changes(dir);
        if let Some(files) = read(dir, node_name, &good).await {
            good = files;
            let mut pods: Vec<Arc<Pod>> = good.values().cloned().collect();
            pods.sort_by(|a, b| {
                (&a.metadata.name, &a.metadata.uid).cmp(&(&b.metadata.name, &b.metadata.uid))
            });
            found.send_if_modified(|known| {
                let new = known.as_ref() != Some(&pods);
                if new {
                    info!(path = %dir.display(), pods = pods.len(), "static pods: read");
                }
                *known = Some(pods);
                new
            });
        }
        match changed {
            Ok(mut events) => {
                if let Ok(Some(Err(error))) = tokio::time::timeout(RELIST, events.next()).await {
                    warn!(path = %dir.display(), error = &error as &dyn std::error::Error, "static pods: inotify failed");
                }
                tokio::time::sleep(SETTLE).await;
            }
            Err(_) => tokio::time::sleep(SETTLE.saturating_mul(10)).await,
        }
    }
}

/// Begun before the directory is read, so that no change falls in between.
fn changes(dir: &Path) -> std::io::Result<inotify::EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF;
    inotify.watches().add(dir, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

/// `None` when the directory cannot be read to its end: what it held before still counts. So does what a file held that
/// cannot be read now, or holds no pod: it may be half written.
async fn read(dir: &Path, node_name: &str, known: &Good) -> Option<Good> {
    let unreadable = |error: std::io::Error| {
        warn!(path = %dir.display(), error = &error as &dyn std::error::Error, "static pods: cannot read");
    };
    let mut paths = Vec::new();
    match tokio::fs::read_dir(dir).await {
        Ok(mut entries) => {
            while let Some(entry) = entries.next_entry().await.map_err(unreadable).ok()? {
                let path = entry.path();
                // Hidden files are editors' temporary ones.
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                if !hidden && !path.is_dir() {
                    paths.push(path);
                }
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Some(Good::new()),
        // As upstream: one manifest may be named itself.
        Err(error) if error.kind() == ErrorKind::NotADirectory => paths.push(dir.to_path_buf()),
        Err(error) => {
            unreadable(error);
            return None;
        }
    }
    let mut good = Good::new();
    for path in paths {
        match read_file(&path, node_name).await {
            Ok(Some(pod)) => drop(good.insert(path, Arc::new(pod))),
            Ok(None) => {}
            Err(error) => {
                warn!(path = %path.display(), error = &*error, "static pods: not a pod");
                if let Some(pod) = known.get(&path) {
                    good.insert(path, pod.clone());
                }
            }
        }
    }
    Some(good)
}

/// `None` when the file has gone.
async fn read_file(
    path: &Path,
    node_name: &str,
) -> Result<Option<Pod>, Box<dyn std::error::Error + Send + Sync>> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(static_pod::parse(&text, node_name)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}";

    #[tokio::test]
    async fn a_file_that_cannot_be_used_keeps_its_last_good_pod() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("web.yaml"), dir.path().join("other.yaml"));
        std::fs::write(&file, POD).unwrap();
        std::fs::write(&other, "half").unwrap();
        let first = read(dir.path(), "n1", &Good::new()).await.unwrap();
        assert_eq!(first.keys().collect::<Vec<_>>(), [&file]);
        std::fs::write(&file, "kind: Po").unwrap();
        assert_eq!(read(dir.path(), "n1", &first).await.unwrap(), first, "not a pod");
        // A read that fails, also for root: a link to itself.
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert_eq!(read(dir.path(), "n1", &first).await.unwrap(), first, "cannot be read");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(dir.path(), "n1", &first).await.unwrap(), Good::new(), "gone");
        std::os::unix::fs::symlink(&file, &file).unwrap();
        assert!(read(&file, "n1", &first).await.is_none(), "unknown");
    }

    #[tokio::test]
    async fn one_manifest_may_stand_in_the_place_of_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("web.yaml");
        std::fs::write(&file, POD).unwrap();
        std::fs::write(dir.path().join("other.yaml"), POD).unwrap();
        let first = read(&file, "n1", &Good::new()).await.unwrap();
        assert_eq!(first.keys().collect::<Vec<_>>(), [&file]);
        std::fs::write(&file, "half").unwrap();
        assert_eq!(read(&file, "n1", &first).await.unwrap(), first, "half written");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read(&file, "n1", &first).await.unwrap(), Good::new(), "gone");
    }
}
