//! Hears that somebody wrote into a folder: another network beside ours, or one that is taken away.

use std::{io, path::PathBuf};

use futures_util::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchMask};
use tracing::warn;

pub(crate) struct Folder {
    path: PathBuf,
    events: Option<EventStream<Vec<u8>>>,
}

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, events: None }
    }

    /// Resolves when something changed in the folder since it was last heard, by whomever. Where the kernel does not tell
    /// (the folder is not there yet), never: it is tried again at the next call.
    pub(crate) async fn changed(&mut self) {
        let Some(events) = &mut self.events else {
            match watch(&self.path) {
                // What was written before the watch began was not heard.
                Ok(events) => return self.events = Some(events),
                Err(error) => {
                    if error.kind() != io::ErrorKind::NotFound {
                        let error = &error as &dyn std::error::Error;
                        warn!(path = %self.path.display(), error, "network: changes of the folder are not heard");
                    }
                    return std::future::pending().await;
                }
            }
        };
        match events.next().await {
            // The folder has gone, and the watch with it.
            Some(Ok(event)) if event.mask.contains(EventMask::IGNORED) => self.events = None,
            Some(Ok(_)) => {}
            Some(Err(_)) | None => self.events = None,
        }
    }
}

fn watch(path: &std::path::Path) -> io::Result<EventStream<Vec<u8>>> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
    inotify.watches().add(path, mask | WatchMask::ONLYDIR)?;
    inotify.into_event_stream(vec![0; 4096])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn is_heard(folder: &mut Folder) -> bool {
        tokio::time::timeout(Duration::from_millis(500), folder.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_folder_is_heard_also_when_it_comes_later_and_when_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net.d");
        let mut folder = Folder::new(path.clone());
        assert!(!is_heard(&mut folder).await, "not there");
        for _ in 0..2 {
            std::fs::create_dir(&path).unwrap();
            assert!(is_heard(&mut folder).await, "there");
            assert!(!is_heard(&mut folder).await, "nothing new");
            std::fs::write(path.join("10-other.conflist"), "{}").unwrap();
            assert!(is_heard(&mut folder).await, "a file");
            std::fs::remove_dir_all(&path).unwrap();
            while folder.events.is_some() {
                assert!(is_heard(&mut folder).await, "gone");
            }
        }
    }
}
