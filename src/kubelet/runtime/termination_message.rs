//! What a container left as its last words: its message file, or the end of its log.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lifecycle::Workers;
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use tracing::debug;

/// Upstream's limits for one container (`MaxContainerTerminationMessageLength`, ...LogLength, ...LogLines).
const MAX_FILE_BYTES: u64 = 4096;
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// The file stands wherever the pod mounts its path, perhaps on a file system that no longer answers.
const DEADLINE: Duration = Duration::from_secs(1);
const WORKERS: usize = 4;

/// Where an ended container may have left its last words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) file: Option<PathBuf>,
    pub(super) log: Option<PathBuf>,
}

/// Reads the last words of each container once. Clones share what was read.
#[derive(Clone, Debug)]
pub(super) struct LastWords {
    workers: Workers,
    read: Arc<Mutex<HashMap<String, Option<String>>>>,
}

impl Default for LastWords {
    fn default() -> LastWords {
        LastWords { workers: Workers::new(WORKERS), read: Arc::default() }
    }
}

impl LastWords {
    /// Of the container `id`, which has ended: what it left does not change any more. What could not be read in time
    /// is asked for again by the next observation.
    pub(super) async fn of(&self, id: &str, places: Places) -> Option<String> {
        if places == Places::default() {
            return None;
        }
        if let Some(known) = self.read.lock().get(id) {
            return known.clone();
        }
        let read = move || {
            let message = places.file.as_deref().and_then(from_file);
            message.or_else(|| places.log.as_deref().and_then(from_log))
        };
        match self.workers.run("termination message", DEADLINE, read).await {
            Ok(message) => {
                self.read.lock().insert(id.to_string(), message.clone());
                message
            }
            Err(error) => {
                debug!(container = id, error = &error as &dyn std::error::Error, "no termination message");
                None
            }
        }
    }

    /// Forgets all but those that the runtime still has.
    pub(super) fn keep(&self, ids: &BTreeSet<&str>) {
        self.read.lock().retain(|id, _| ids.contains(id.as_str()));
    }
}

/// The message file of an ended container; `None` when there is nothing in it.
fn from_file(path: &Path) -> Option<String> {
    tail(path, MAX_FILE_BYTES).filter(|message| !message.is_empty())
}

/// The end of a CRI log, without its time stamps.
fn from_log(path: &Path) -> Option<String> {
    // Each line carries 40 bytes or so of prefix: read more than what is kept.
    let text = tail(path, MAX_LOG_BYTES * 4)?;
    let lines: Vec<&str> = text.lines().collect();
    let mut message: String = lines
        .iter()
        .skip(lines.len().saturating_sub(MAX_LOG_LINES))
        .filter_map(|line| content(line))
        .collect();
    if let Some(over) = message.len().checked_sub(usize::try_from(MAX_LOG_BYTES).unwrap_or(usize::MAX)) {
        let cut = (over..message.len()).find(|at| message.is_char_boundary(*at)).unwrap_or(message.len());
        message.drain(..cut);
    }
    (!message.is_empty()).then_some(message)
}

/// `2026-11-20T10:00:00.000000000Z stdout F text`: F ends a line, P does not.
fn content(line: &str) -> Option<String> {
    let mut parts = line.splitn(4, ' ');
    let (_time, stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
    let text = parts.next().unwrap_or_default();
    if stream != "stdout" && stream != "stderr" {
        return None;
    }
    Some(if tag.starts_with('P') { text.to_string() } else { format!("{text}\n") })
}

fn tail(path: &Path, bytes: u64) -> Option<String> {
    let mut file = open_regular(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).ok()?;
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content).ok()?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

/// The pod chooses what stands here: a pipe would wait for a writer for ever, a device does things when it is opened, a
/// link leads elsewhere on the host. What it is, is asked of a descriptor that opens nothing yet.
fn open_regular(path: &Path) -> std::io::Result<File> {
    let flags = |flags: OFlag| (flags | OFlag::O_CLOEXEC).bits();
    let named =
        OpenOptions::new().read(true).custom_flags(flags(OFlag::O_PATH | OFlag::O_NOFOLLOW)).open(path)?;
    if !named.metadata()?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let own = format!("/proc/self/fd/{}", named.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(flags(OFlag::O_NONBLOCK)).open(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path) -> Places {
        Places { file: Some(path.into()), log: None }
    }

    #[test]
    fn only_a_regular_file_is_read_and_a_pipe_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link, secret) =
            (dir.path().join("pipe"), dir.path().join("link"), dir.path().join("secret"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(&secret, "of the host").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert_eq!(from_file(&secret).as_deref(), Some("of the host"));
        // Opening a pipe would wait for its writer: in a thread, so that the test fails rather than hangs.
        let (told, answer) = std::sync::mpsc::sync_channel(4);
        std::thread::spawn(move || {
            for path in [pipe, link, "/dev/zero".into(), "/dev".into()] {
                told.send(from_file(&path)).unwrap();
            }
        });
        for what in ["a pipe", "a link", "a device", "a directory"] {
            assert_eq!(answer.recv_timeout(Duration::from_secs(5)), Ok(None), "{what}");
        }
    }

    #[tokio::test]
    async fn what_an_ended_container_left_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("message");
        std::fs::write(&path, "farewell").unwrap();
        let words = LastWords::default();
        assert_eq!(words.of("c", file(&path)).await.as_deref(), Some("farewell"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(words.of("c", file(&path)).await.as_deref(), Some("farewell"));
        words.keep(&BTreeSet::new());
        assert_eq!(words.of("c", file(&path)).await, None, "forgotten with the container");
    }

    #[test]
    fn a_log_gives_its_last_lines_without_prefixes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut text = String::new();
        for n in 0..100 {
            text += &format!("2026-11-20T10:00:00.000000000Z stdout F line {n}\n");
        }
        text +=
            "2026-11-20T10:00:00.000000000Z stderr P half \n2026-11-20T10:00:00.000000000Z stderr F done\n";
        std::fs::write(&path, text).unwrap();
        let message = from_log(&path).unwrap();
        assert!(message.starts_with("line 22\n"), "{message}");
        assert!(message.ends_with("line 99\nhalf done\n"), "{message}");
    }

    #[test]
    fn an_absent_or_empty_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(from_file(&dir.path().join("none")), None);
        std::fs::write(dir.path().join("empty"), "").unwrap();
        assert_eq!(from_file(&dir.path().join("empty")), None);
    }
}
