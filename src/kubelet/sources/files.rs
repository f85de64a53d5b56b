//! Reads the static pod directory, and again when the kernel says that something in it changed.

use std::{path::Path, sync::Arc, time::Duration};

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

/// Runs until dropped. A directory that is not there is empty; one that cannot be read changes nothing.
pub async fn watch_files(dir: &Path, node_name: &str, found: watch::Sender<Option<Vec<Arc<Pod>>>>) {
    loop {
        let changed = changes(dir);
        if let Some(pods) = read(dir, node_name, &found).await {
            found.send_if_modified(|known| {
                let new = known.as_ref() != Some(&pods);
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
        | WatchMask::DELETE_SELF;
    inotify.watches().add(dir, mask)?;
    inotify.into_event_stream(vec![0; 4096])
}

/// `None` when the directory cannot be read: what it held before still counts.
async fn read(
    dir: &Path,
    node_name: &str,
    known: &watch::Sender<Option<Vec<Arc<Pod>>>>,
) -> Option<Vec<Arc<Pod>>> {
    let mut entries = match tokio::fs::read_dir(dir).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(error) => {
            warn!(path = %dir.display(), error = &error as &dyn std::error::Error, "static pods: cannot read");
            return None;
        }
    };
    let mut pods = Vec::new();
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        // Hidden files are editors' temporary ones.
        if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) || path.is_dir() {
            continue;
        }
        let Ok(text) = tokio::fs::read_to_string(&path).await else { continue };
        match static_pod::parse(&text, node_name) {
            Ok(pod) => pods.push(Arc::new(pod)),
            Err(error) => {
                warn!(path = %path.display(), error = &error as &dyn std::error::Error, "static pods: not a pod");
            }
        }
    }
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    if known.borrow().as_ref() != Some(&pods) {
        info!(path = %dir.display(), pods = pods.len(), "static pods: read");
    }
    Some(pods)
}
