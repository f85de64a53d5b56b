//! Gives a volume's files to the pod's fsGroup.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

/// Files get at least these bits.
const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
/// Directories also: what is made in them later is the group's too.
const DIRECTORY: u32 = 0o2110;

/// `path` and everything below it; never through a link. The directory itself comes last, so that one that is right
/// says that all of it is.
pub(super) fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if meta.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), group, read_only)?;
        }
    }
    give_one(path, &meta, group, read_only)
}

pub(super) fn give_one(path: &Path, meta: &fs::Metadata, group: u32, read_only: bool) -> io::Result<()> {
    if meta.gid() != group {
        lchown(path, None, Some(group))?;
    }
    if meta.file_type().is_symlink() {
        return Ok(());
    }
    let mut bits = if read_only { READ_ONLY } else { READ_WRITE };
    if meta.is_dir() {
        bits |= DIRECTORY;
    }
    // The change of owner may have cleared the set-id bits.
    fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_gets_access_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        fs::write(dir.path().join("f"), "").unwrap();
        fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("l")).unwrap();
        give(dir.path(), 4242, false).unwrap();
        let meta = fs::metadata(dir.path().join("f")).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (4242, 0o660));
        let meta = fs::metadata(dir.path()).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o2070), (4242, 0o2070));
        assert_ne!(fs::metadata(outside.path()).unwrap().gid(), 4242);
    }
}
