//! A part of a volume as a mount of its own, which no link inside the volume can turn into another place.
//!
//! The part is opened beneath the volume by the kernel's own rules (`openat2`, `RESOLVE_BENEATH`) and bind-mounted by
//! its descriptor to a place that only the agent writes: what the runtime is told can no longer change.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};

use super::mounts;

/// A part of a volume that a container mounts.
#[derive(Debug)]
pub(super) struct SubPath {
    /// Its name in the pod.
    pub(super) volume: String,
    pub(super) volume_dir: PathBuf,
    pub(super) path: PathBuf,
    /// Where it will stand: `volume-subpaths/<volume>/<container>/<index>` below the pod's directory.
    pub(super) target: PathBuf,
}

/// Relative, and never upwards: upstream's checks and sentences.
pub(super) fn check(path: &str) -> Result<(), String> {
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(())
}

/// Returns the host path to give to the runtime. A directory that is missing is made with the volume's own mode.
pub(super) fn prepare(sub: &SubPath) -> io::Result<PathBuf> {
    let volume = fs::File::open(&sub.volume_dir)?;
    let part = open_or_make(&volume, &sub.path)?;
    // From the container's life before: the part may be another one by now.
    mounts::unmount_below(&sub.target)?;
    make_target(&sub.target, is_dir(&part)?)?;
    mounts::bind(&part, &sub.target)?;
    Ok(sub.target.clone())
}

fn is_dir(fd: &OwnedFd) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR)
}

fn make_target(target: &Path, as_dir: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == as_dir => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if as_dir {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(target, "")
}

fn open_beneath(volume: impl AsFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // EAGAIN: something was renamed while the kernel looked.
    for _ in 0..16 {
        match openat2(&volume, path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

fn open_or_make(volume: &fs::File, path: &Path) -> io::Result<OwnedFd> {
    match open_beneath(volume, path) {
        Ok(found) => return Ok(found),
        Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = volume.metadata()?.permissions().mode() & 0o7777;
    let mut made = PathBuf::new();
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        let parent = open_beneath(volume, &made)?;
        made.push(part);
        match mkdirat(&parent, part.as_os_str(), Mode::from_bits_truncate(mode)) {
            Ok(()) => {
                let dir = open_beneath(volume, &made)?;
                let own = format!("/proc/thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&dir));
                // The umask took bits away.
                fs::set_permissions(own, fs::Permissions::from_mode(mode))?;
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(open_beneath(volume, path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::volumes::in_private_mounts;

    fn prepared(dir: &Path, path: &str) -> io::Result<PathBuf> {
        let target = dir.join("volume-subpaths/v/c/0");
        prepare(&SubPath { volume: "v".into(), volume_dir: dir.join("v"), path: path.into(), target })
    }

    #[test]
    fn links_may_stay_inside_the_volume_and_never_leave_it() {
        in_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |path: &str| dir.path().join(path);
            fs::create_dir_all(at("v/..data")).unwrap();
            fs::write(at("v/..data/key"), "inside").unwrap();
            fs::write(at("secret"), "outside").unwrap();
            symlink("..data/key", at("v/key")).unwrap();
            symlink("/etc", at("v/absolute")).unwrap();
            symlink("../secret", at("v/upwards")).unwrap();
            symlink("/proc/self/root/etc", at("v/magic")).unwrap();

            assert_eq!(fs::read_to_string(prepared(dir.path(), "key").unwrap()).unwrap(), "inside");
            for escape in ["absolute", "absolute/passwd", "upwards", "magic", "../secret"] {
                assert!(prepared(dir.path(), escape).is_err(), "{escape}");
            }
            assert!(!Path::new("/etc/new-dir").exists() && prepared(dir.path(), "absolute/new-dir").is_err());
            mounts::remove(&at("volume-subpaths")).unwrap();
            assert_eq!(fs::read_to_string(at("v/key")).unwrap(), "inside", "only the mount went");
        });
    }

    #[test]
    fn missing_directories_are_made_with_the_volumes_mode() {
        in_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("v")).unwrap();
            fs::set_permissions(dir.path().join("v"), fs::Permissions::from_mode(0o2775)).unwrap();
            let part = prepared(dir.path(), "a/b").unwrap();
            fs::write(part.join("f"), "x").unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("v/a/b/f")).unwrap(), "x");
            let mode = fs::metadata(dir.path().join("v/a")).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o2775);
            // Again, as for the container's next life.
            assert!(prepared(dir.path(), "a/b").unwrap().join("f").exists());
            assert_eq!(mounts::below(dir.path()).unwrap().len(), 1);
            mounts::remove(dir.path()).unwrap();
        });
    }

    #[test]
    fn paths_are_checked_before_anything_is_touched() {
        assert_eq!(check("/a").unwrap_err(), "error SubPath `/a` must not be an absolute path");
        assert_eq!(
            check("a/../b").unwrap_err(),
            "unable to provision SubPath `a/../b`: must not contain '..'"
        );
        assert_eq!(check("a..b/c"), Ok(()));
    }
}
