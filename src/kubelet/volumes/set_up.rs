//! Makes one volume, or finds that it is made. Blocking: runs on the pod's own worker.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    atomic, mounts, ownership,
    plan::{HostCheck, Medium},
    render::Payload,
};

/// Everybody may use a volume; who gets into the pod's directory is another matter.
const VOLUME_MODE: u32 = 0o777;
const POD_MODE: u32 = 0o750;

/// A volume with all that was decided about it.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) work: Work,
    pub(super) fs_group: Option<u32>,
}

#[derive(Debug)]
pub(super) enum Work {
    Empty {
        medium: Medium,
        /// What fits in it, for one in memory.
        bytes: Option<i64>,
        ready: PathBuf,
    },
    Host(HostCheck),
    Files {
        payload: Payload,
        /// In memory, of this size.
        tmpfs: Option<Option<i64>>,
        /// Mount points of other volumes inside this one, which the runtime cannot make itself.
        nested: Vec<PathBuf>,
    },
}

/// The directory of the pod, before any volume.
pub(super) fn pod_dirs(pod_dir: &Path) -> io::Result<()> {
    for dir in [pod_dir.to_path_buf(), pod_dir.join("volumes"), pod_dir.join("plugins")] {
        fs::DirBuilder::new().recursive(true).mode(POD_MODE).create(dir)?;
    }
    Ok(())
}

/// Returns whether anything was changed.
pub(super) fn set_up(job: &Job) -> io::Result<bool> {
    match &job.work {
        Work::Empty { medium, bytes, ready } => empty(job, medium, *bytes, ready),
        Work::Host(check) => check_host(&job.dir, *check).map(|()| false),
        Work::Files { payload, tmpfs, nested } => {
            directory(&job.dir)?;
            if let Some(bytes) = tmpfs
                && !mounts::is_mount_point(&job.dir)?
            {
                mounts::tmpfs(&job.dir, *bytes)?;
            }
            let changed = atomic::write(&job.dir, payload, job.fs_group)?;
            for point in nested {
                fs::create_dir_all(job.dir.join(point))?;
            }
            if let Some(group) = job.fs_group {
                let meta = fs::symlink_metadata(&job.dir)?;
                ownership::give_one(&job.dir, &meta, group, true)?;
            }
            Ok(changed)
        }
    }
}

fn empty(job: &Job, medium: &Medium, bytes: Option<i64>, ready: &Path) -> io::Result<bool> {
    let mounted = mounts::is_mount_point(&job.dir)?;
    let is_made = match medium {
        Medium::Disk => job.dir.is_dir(),
        Medium::Memory { .. } | Medium::HugePages { .. } => mounted,
    };
    if is_made && ready.exists() {
        return Ok(false);
    }
    directory(&job.dir)?;
    match medium {
        Medium::Disk => {}
        Medium::Memory { .. } if !mounted => mounts::tmpfs(&job.dir, bytes)?,
        Medium::HugePages { .. } if !mounted => mounts::hugetlbfs(&job.dir, bytes.unwrap_or(2 << 20))?,
        Medium::Memory { .. } | Medium::HugePages { .. } => {}
    }
    // The kernel makes a tmpfs 1777, and there the sticky bit stays: parts of the volume get its mode.
    if !matches!(medium, Medium::Memory { .. }) {
        fs::set_permissions(&job.dir, fs::Permissions::from_mode(VOLUME_MODE))?;
    }
    if let Some(group) = job.fs_group {
        ownership::give(&job.dir, group, false)?;
    }
    // The last step: from now on it is the pod's.
    fs::create_dir_all(ready.parent().unwrap_or(ready))?;
    fs::write(ready, "")?;
    Ok(true)
}

fn directory(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        if let Some(plugin) = dir.parent() {
            fs::DirBuilder::new().recursive(true).mode(POD_MODE).create(plugin)?;
        }
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(VOLUME_MODE))?;
    }
    Ok(())
}

/// Upstream's checks and sentences. Links are followed: what counts is what the container will see.
fn check_host(path: &Path, check: HostCheck) -> io::Result<()> {
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(_) if check == HostCheck::None => return Ok(()),
        Err(error) => return Err(error),
    };
    let (fits, what) = match check {
        HostCheck::None => return Ok(()),
        HostCheck::DirectoryOrCreate if found.is_none() => {
            return fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
        }
        HostCheck::FileOrCreate if found.is_none() => {
            fs::OpenOptions::new().create(true).append(true).open(path)?;
            return fs::set_permissions(path, fs::Permissions::from_mode(0o644));
        }
        HostCheck::Directory | HostCheck::DirectoryOrCreate => {
            (found.is_some_and(|it| it.is_dir()), "directory")
        }
        HostCheck::File | HostCheck::FileOrCreate => (found.is_some_and(|it| it.is_file()), "file"),
        HostCheck::Socket => (found.is_some_and(|it| it.is_socket()), "socket file"),
        HostCheck::CharDevice => (found.is_some_and(|it| it.is_char_device()), "character device"),
        HostCheck::BlockDevice => (found.is_some_and(|it| it.is_block_device()), "block device"),
    };
    if fits {
        return Ok(());
    }
    let words = format!("hostPath type check failed: {} is not a {what}", path.display());
    Err(io::Error::new(io::ErrorKind::InvalidInput, words))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::volumes::{in_private_mounts, render::File};

    fn job(dir: PathBuf, work: Work) -> Job {
        Job { name: "v".into(), dir, work, fs_group: Some(4242) }
    }

    #[test]
    fn an_empty_directory_is_made_once_and_left_alone_then() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, ready) = (dir.path().join("x/v"), dir.path().join("plugins/v/ready"));
        let job = job(volume.clone(), Work::Empty { medium: Medium::Disk, bytes: None, ready });
        assert!(set_up(&job).unwrap());
        let meta = fs::metadata(&volume).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (4242, 0o2777));
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!set_up(&job).unwrap());
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn volumes_in_memory_are_mounted_once_and_go_with_the_pod() {
        in_private_mounts(|| {
            let dir = tempfile::tempdir().unwrap();
            let pod = dir.path().join("pod with blanks");
            let (empty, secret) = (pod.join("e"), pod.join("s"));
            let medium = Medium::Memory { size_limit: None };
            let empty_job =
                job(empty.clone(), Work::Empty { medium, bytes: Some(1 << 20), ready: pod.join("ready") });
            let file = File { data: b"x".to_vec(), mode: 0o400, owner: None };
            let payload = Payload::from([("key".to_string(), file)]);
            let files = Work::Files { payload, tmpfs: Some(None), nested: vec!["sub".into()] };
            let secret_job = job(secret.clone(), files);
            for round in [true, false] {
                assert_eq!(set_up(&empty_job).unwrap(), round);
                assert_eq!(set_up(&secret_job).unwrap(), round);
            }
            assert_eq!(mounts::below(&pod).unwrap().len(), 2);
            assert!(fs::write(empty.join("big"), vec![0; 2 << 20]).is_err(), "the size holds");
            let key = fs::metadata(secret.join("key")).unwrap();
            assert_eq!((key.gid(), key.mode() & 0o777), (4242, 0o440));
            assert!(secret.join("sub").is_dir());
            for volume in [&empty, &secret] {
                let meta = fs::metadata(volume).unwrap();
                assert_eq!(
                    (meta.gid(), meta.mode() & 0o7777),
                    (4242, 0o3777),
                    "as the kernel makes it, and the group's"
                );
            }
            mounts::remove(&pod).unwrap();
            assert!(!pod.exists());
        });
    }

    #[test]
    fn a_place_of_the_host_must_be_what_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for (path, check, refused) in [
            (at("none"), HostCheck::None, None),
            (at("none"), HostCheck::Directory, Some("directory")),
            (at("file"), HostCheck::Directory, Some("directory")),
            (at("file"), HostCheck::File, None),
            (at("socket"), HostCheck::Socket, None),
            (at("socket"), HostCheck::FileOrCreate, Some("file")),
            ("/dev/null".into(), HostCheck::CharDevice, None),
            ("/dev/null".into(), HostCheck::BlockDevice, Some("block device")),
            (at("made/deep"), HostCheck::DirectoryOrCreate, None),
            (at("made/file"), HostCheck::FileOrCreate, None),
        ] {
            let expected =
                refused.map(|what| format!("hostPath type check failed: {} is not a {what}", path.display()));
            let got = check_host(&path, check).err().map(|error| error.to_string());
            assert_eq!(got, expected, "{check:?}");
        }
        assert!(at("made/deep").is_dir() && at("made/file").is_file());
    }
}
