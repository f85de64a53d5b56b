//! Network namespaces as open files. One is entered on a thread that ends with the visit, so that no
//! thread of the process is ever left in the wrong namespace, and nothing forks.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::sched::{CloneFlags, setns};

/// Magic of nsfs (`include/uapi/linux/magic.h`): what tells a namespace from a file left where one was.
const NSFS_MAGIC: nix::libc::c_long = 0x6e73_6673;

#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    #[error("open network namespace {}", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a network namespace", .path.display())]
    NotANamespace { path: PathBuf },
    #[error("start a thread for network namespace {}", .path.display())]
    Thread {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("enter network namespace {}", .path.display())]
    Enter {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl NamespaceError {
    /// Whether the namespace is gone, which for a teardown means that everything in it is, too.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotANamespace { .. } => true,
            Self::Thread { .. } | Self::Enter { .. } => false,
        }
    }
}

/// Keeps its namespace alive while it exists.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// # Errors
    /// When there is nothing at `path`, or no namespace.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file =
            File::open(path).map_err(|source| NamespaceError::Open { path: path.to_path_buf(), source })?;
        let is_namespace =
            nix::sys::statfs::fstatfs(&file).is_ok_and(|stat| stat.filesystem_type().0 == NSFS_MAGIC);
        if !is_namespace {
            return Err(NamespaceError::NotANamespace { path: path.to_path_buf() });
        }
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> Result<Self, NamespaceError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// True if both are the same namespace, by whatever path.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        identity(&self.file).is_some_and(|own| Some(own) == identity(&other.file))
    }

    #[must_use]
    pub fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Runs `visit` inside the namespace, on a thread that ends with it. Sockets that it opens stay there
    /// and can be brought back.
    ///
    /// # Errors
    /// When the namespace cannot be entered (needs `CAP_SYS_ADMIN`).
    ///
    /// # Panics
    /// When `visit` does.
    pub fn enter<T: Send>(&self, visit: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        std::thread::scope(|threads| {
            let thread = std::thread::Builder::new()
                .name("netns".to_string())
                .spawn_scoped(threads, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| NamespaceError::Enter {
                        path: self.path.clone(),
                        source: errno.into(),
                    })?;
                    Ok(visit())
                })
                .map_err(|source| NamespaceError::Thread { path: self.path.clone(), source })?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
