//! Small files that are there whole or not at all.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("make folder {}", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {}", .path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("remove {}", .path.display())]
    Remove {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Makes a folder and what is above it, for the owner alone.
pub(crate) fn make_folder(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| FileError::Folder { path: path.to_path_buf(), source })
}

/// Writes a file beside its place and moves it there. A crash of the process or of the machine leaves the old
/// content or the new.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, true)
}

/// As [`write`], without waiting for the disk (milliseconds). After a power failure the file may be empty or
/// zeros ([`was_lost`]): for what means nothing after a reboot, as a container's network does not.
pub(crate) fn write_for_this_boot(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    replace(path, bytes, mode, false)
}

/// Whether a file is what a power failure left of one written by [`write_for_this_boot`].
pub(crate) fn was_lost(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, durable: bool) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    make_folder(folder, 0o700)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    let written = (|| {
        // What a crash left is not reused: its mode may be another.
        drop(fs::remove_file(&beside));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        if durable {
            file.sync_data()?;
        }
        fs::rename(&beside, path)
    })();
    written.map_err(|source| FileError::Write { path: path.to_path_buf(), source })
}

/// Removes a file; false if there was none.
pub(crate) fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(FileError::Remove { path: path.to_path_buf(), source }),
    }
}
