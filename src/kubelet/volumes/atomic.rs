//! Writes a volume's files so that a reader sees all of the old ones or all of the new ones.
//!
//! ```text
//!   volume/key       ──▶ ..data/key           what people open
//!   volume/..data    ──▶ ..2026_11_21_…       swapped by one rename
//!   volume/..2026_11_21_…/key                 the files
//! ```
//!
//! The names are upstream's: programs watch `..data` to learn of a change.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Component, Path, PathBuf},
};

use super::{ownership, render::Payload};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";
const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// Brings the directory to this content. Returns whether anything was to be done.
pub(super) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let old = match fs::read_link(dir.join(DATA)) {
        Ok(old) => Some(dir.join(old)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && holds(old, payload)?
    {
        // A crash may have come between the swap and the links.
        link_visible(dir, payload)?;
        return Ok(false);
    }
    let fresh = make_fresh(dir)?;
    let written = write_files(&fresh, payload, fs_group).and_then(|()| swap(dir, &fresh));
    if let Err(error) = written {
        drop(fs::remove_dir_all(&fresh));
        return Err(error);
    }
    link_visible(dir, payload)?;
    remove_stale(dir, payload)?;
    Ok(true)
}

/// Relative, without `..`, of lengths that the kernel takes.
fn check(path: &str) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if path.is_empty() {
        return refuse("invalid path: must not be empty: \"\"".into());
    }
    if path.starts_with('/') {
        return refuse(format!("invalid path: must be relative path: {path}"));
    }
    if path.len() > MAX_PATH {
        return refuse(format!("invalid path: must be less than or equal to {MAX_PATH} characters"));
    }
    for item in path.split('/') {
        if item == ".." {
            return refuse(format!("invalid path: must not contain '..': {path}"));
        }
        if item.len() > MAX_NAME {
            return refuse(format!(
                "invalid path: filenames must be less than or equal to {MAX_NAME} characters"
            ));
        }
    }
    if path.starts_with("..") {
        return refuse(format!("invalid path: must not start with '..': {path}"));
    }
    Ok(())
}

fn holds(dir: &Path, payload: &Payload) -> io::Result<bool> {
    if !dir.is_dir() {
        return Ok(false);
    }
    for (path, file) in payload {
        match fs::read(dir.join(path)) {
            Ok(data) if data == file.data => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    let mut expected = BTreeSet::new();
    for path in payload.keys() {
        expected.insert(clean(path));
    }
    Ok(files_below(dir)? == expected)
}

fn clean(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect()
}

fn files_below(root: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                dirs.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

fn make_fresh(dir: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S.");
    // Nanoseconds tell two of one second apart; a name that is taken is passed over.
    for attempt in 0..100 {
        let path = dir.join(format!("{stamp}{}", i64::from(now.subsec_nanosecond()) + attempt));
        match fs::create_dir(&path) {
            Ok(()) => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
                return Ok(path);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write_files(fresh: &Path, payload: &Payload, fs_group: Option<u32>) -> io::Result<()> {
    for (path, file) in payload {
        let path = fresh.join(clean(path));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.data)?;
        // After it was made: the umask has no say.
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        if file.owner.is_some() {
            chown(&path, file.owner, None)?;
        }
    }
    match fs_group {
        Some(group) => ownership::give(fresh, group, true),
        None => Ok(()),
    }
}

fn swap(dir: &Path, fresh: &Path) -> io::Result<()> {
    let (new, name) = (dir.join(NEW_DATA), fresh.file_name().unwrap_or_default());
    match fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(name, &new)?;
    fs::rename(&new, dir.join(DATA))
}

/// The first part of each path, as a link through `..data`.
fn link_visible(dir: &Path, payload: &Payload) -> io::Result<()> {
    for name in visible(payload) {
        let link = dir.join(&name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&name), &link)?;
        }
    }
    Ok(())
}

fn visible(payload: &Payload) -> BTreeSet<PathBuf> {
    payload.keys().filter_map(|path| clean(path).iter().next().map(PathBuf::from)).collect()
}

/// Links of files that are gone, and older content.
fn remove_stale(dir: &Path, payload: &Payload) -> io::Result<()> {
    let (visible, current) = (visible(payload), fs::read_link(dir.join(DATA))?);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let hidden = name.to_string_lossy().starts_with("..");
        let kind = entry.file_type()?;
        if hidden && kind.is_dir() && name != current {
            fs::remove_dir_all(entry.path())?;
        } else if !hidden && kind.is_symlink() && !visible.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::volumes::render::File;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File { data: data.as_bytes().to_vec(), mode: 0o640, owner: None };
        files.iter().map(|(path, data)| ((*path).to_string(), file(data))).collect()
    }

    fn read(path: PathBuf) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    #[test]
    fn content_is_swapped_at_once_and_what_is_gone_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/e/f", "2")]), None).unwrap());
        assert_eq!(fs::read_link(at("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::read_link(at("d")).unwrap(), Path::new("..data/d"));
        assert_eq!((read(at("a")), read(at("d/e/f"))), (Some("1".into()), Some("2".into())));
        assert_eq!(fs::metadata(at("a")).unwrap().mode() & 0o777, 0o640);
        let first = fs::read_link(at("..data")).unwrap();

        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/e/f", "2")]), None).unwrap(), "nothing to do");
        assert_eq!(fs::read_link(at("..data")).unwrap(), first);

        assert!(write(dir.path(), &payload(&[("b", "3")]), None).unwrap());
        assert_eq!((read(at("a")), read(at("b"))), (None, Some("3".into())));
        assert!(fs::symlink_metadata(at("d")).is_err());
        assert!(!dir.path().join(first).exists());
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(write(dir.path(), &payload(&[]), None).unwrap());
        assert!(!write(dir.path(), &payload(&[]), None).unwrap());
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "/etc/passwd", "a/../../b", "..data", "..x"] {
            assert!(write(dir.path(), &payload(&[(path, "x")]), None).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_crash_between_swap_and_links_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None).unwrap();
        assert_eq!(read(dir.path().join("a")), Some("1".into()));
    }
}
