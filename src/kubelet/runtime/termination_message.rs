//! What a container left as its last words: its message file, or the end of its log.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

/// Upstream's limits for one container (`MaxContainerTerminationMessageLength`, ...LogLength, ...LogLines).
const MAX_FILE_BYTES: u64 = 4096;
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// The message file of an ended container; `None` when there is nothing in it.
pub(super) fn from_file(path: &Path) -> Option<String> {
    tail(path, MAX_FILE_BYTES).filter(|message| !message.is_empty())
}

/// The end of a CRI log, without its time stamps.
pub(super) fn from_log(path: &Path) -> Option<String> {
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
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes))).ok()?;
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content).ok()?;
    Some(String::from_utf8_lossy(&content).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
