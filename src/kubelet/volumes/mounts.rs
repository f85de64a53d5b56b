//! What is mounted below a pod's directory, and how it is made and ended. System calls only; nothing is forked.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt, unix::ffi::OsStringExt, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Whether something is mounted at `path` itself.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.dev() != fs::symlink_metadata(parent)?.dev()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pages that a swap device never sees, where the kernel can (Linux 6.4): what is in them may be secret.
pub(super) fn tmpfs(path: &Path, bytes: Option<i64>) -> io::Result<()> {
    let size = bytes.map(|bytes| format!("size={bytes}"));
    let with = |extra: Option<&str>| {
        let options: Vec<&str> = size.as_deref().into_iter().chain(extra).collect();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.join(",").as_str()))
    };
    match with(Some("noswap")) {
        Err(nix::errno::Errno::EINVAL) => with(None)?,
        other => other?,
    }
    Ok(())
}

pub(super) fn hugetlbfs(path: &Path, page_bytes: i64) -> io::Result<()> {
    let options = format!("pagesize={page_bytes}");
    Ok(mount(Some("nodev"), path, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?)
}

/// Shows what `source` has open at `target`, whatever its path has become since.
pub(super) fn bind(source: &impl AsRawFd, target: &Path) -> io::Result<()> {
    let source = format!("/proc/thread-self/fd/{}", source.as_raw_fd());
    Ok(mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// The mount table has no links in its paths: `path` without those on its way. Its own last part may be one, which is
/// then removed as a link and leads nowhere.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(fs::canonicalize(parent)?.join(name)),
        _ => fs::canonicalize(path),
    }
}

/// Mount points at or below `root`, as the calling thread sees them and without links on their way.
pub(super) fn below(root: &Path) -> io::Result<Vec<PathBuf>> {
    let root = match resolved(root) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let table = fs::read("/proc/thread-self/mountinfo")?;
    let points = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let point = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
    });
    Ok(points.filter(|point| point.starts_with(&root)).collect())
}

/// `\040` is a space.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut output = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(byte) => {
                output.push(byte);
                at += 4;
            }
            None => {
                output.push(text[at]);
                at += 1;
            }
        }
    }
    output
}

/// Ends every mount at or below `root`, those on top of others first.
pub(super) fn unmount_below(root: &Path) -> io::Result<()> {
    let mut points = below(root)?;
    // A later line may be on top of an earlier one at the same point.
    points.reverse();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().as_bytes().len()));
    for point in points {
        match umount2(&point, MntFlags::UMOUNT_NOFOLLOW) {
            // Nothing mounted there any more.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            // The pod's processes are gone: who still looks in there keeps it for himself, and the place is free.
            Err(nix::errno::Errno::EBUSY) => {
                umount2(&point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)?;
            }
            Err(error) => {
                let error = io::Error::from(error);
                return Err(io::Error::new(error.kind(), format!("unmount {}: {error}", point.display())));
            }
        }
    }
    Ok(())
}

/// Removes a directory with all it has, or a file; never what is mounted in it.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    unmount_below(root)?;
    if let Some(point) = below(root)?.first() {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is mounted", point.display())));
    }
    let is_dir = fs::symlink_metadata(root).is_ok_and(|meta| meta.is_dir());
    match if is_dir { fs::remove_dir_all(root) } else { fs::remove_file(root) } {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumes::in_private_mounts;

    #[test]
    fn what_is_mounted_below_a_linked_root_is_ended_and_not_removed() {
        in_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let at = |path: &str| dir.path().join(path);
            fs::create_dir_all(at("disk/root/pods/u1/a part")).unwrap();
            fs::create_dir(at("host")).unwrap();
            fs::write(at("host/data"), "precious").unwrap();
            std::os::unix::fs::symlink("disk", at("link")).unwrap();
            let pod = at("link/root/pods/u1");
            bind(&fs::File::open(at("host")).unwrap(), &pod.join("a part")).unwrap();
            assert!(pod.join("a part/data").exists());
            remove(&pod).unwrap();
            assert!(!pod.exists());
            assert_eq!(fs::read_to_string(at("host/data")).unwrap(), "precious");
            remove(&pod).unwrap();
            remove(&at("gone/pod")).unwrap();
        });
    }

    #[test]
    fn mount_points_with_blanks_are_read() {
        assert_eq!(unescape(br"/a\040b\134c\0"), br"/a b\c\0");
        assert!(below(Path::new("/proc")).unwrap().contains(&PathBuf::from("/proc")));
    }
}
