//! Results of ADD on disk, for `prevResult` of CHECK and DEL after a restart. One file for each attachment,
//! written whole and readable by root alone.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::fs;

use super::model::Attachment;
use crate::files::{self, FileError};

/// Why a cached result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("the cached result {} does not parse", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("read the cached results in {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

/// An attachment as ADD left it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Cached {
    pub network: String,
    pub attachment: Attachment,
    /// In the list's version.
    pub result: Value,
}

#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self, network: &str, attachment: &Attachment) -> PathBuf {
        self.dir.join(format!("{network}-{}-{}", attachment.id.container_id, attachment.id.ifname))
    }

    pub(super) async fn get(
        &self,
        network: &str,
        attachment: &Attachment,
    ) -> Result<Option<Cached>, CacheError> {
        read(&self.path(network, attachment)).await
    }

    pub(super) async fn put(&self, cached: &Cached) -> Result<(), CacheError> {
        let path = self.path(&cached.network, &cached.attachment);
        let bytes =
            serde_json::to_vec(cached).map_err(|source| CacheError::Parse { path: path.clone(), source })?;
        // A few hundred bytes: not worth a thread.
        Ok(files::write_for_this_boot(&path, &bytes, 0o600)?)
    }

    pub(super) async fn remove(&self, network: &str, attachment: &Attachment) -> Result<(), CacheError> {
        Ok(files::remove(&self.path(network, attachment)).map(drop)?)
    }

    /// All attachments of a network.
    pub(super) async fn list(&self, network: &str) -> Result<Vec<Cached>, CacheError> {
        let failed = |source| CacheError::Read { path: self.dir.clone(), source };
        let mut entries = match fs::read_dir(&self.dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut all = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            // Half-written files of a crash.
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if let Some(cached) = read(&entry.path()).await?
                && cached.network == network
            {
                all.push(cached);
            }
        }
        Ok(all)
    }
}

async fn read(path: &Path) -> Result<Option<Cached>, CacheError> {
    match fs::read(path).await {
        Ok(bytes) if files::was_lost(&bytes) => Ok(None),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| CacheError::Parse { path: path.to_path_buf(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CacheError::Read { path: path.to_path_buf(), source }),
    }
}
