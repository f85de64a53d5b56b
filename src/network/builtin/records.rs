//! Attachments on disk, one file each, and the lock that makes one writer of them at a time: the agent, or
//! a plugin process that tears a pod down while the agent is away.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};

use tracing::warn;

use super::model::Record;
use crate::{
    cni::AttachmentId,
    files::{self, FileError},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    #[error("lock {}", .path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not parse", .path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

/// Without the ending of a record's file.
const GIVEN: &str = "given";

/// The address given last, by range.
pub(super) type Given = BTreeMap<IpNet, IpAddr>;

#[derive(Clone, Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

/// The right to read and change records. Held over a decision and its writing, not over kernel work on links.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    records: &'a Records,
    _lock: Flock<fs::File>,
}

impl Records {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) fn lock(&self) -> Result<Locked<'_>, RecordError> {
        files::make_folder(&self.dir, 0o700)?;
        let path = self.dir.join(".lock");
        let failed = |source| RecordError::Lock { path: path.clone(), source };
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        // Each caller opens the file anew, so threads exclude each other too.
        let lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))?;
        Ok(Locked { records: self, _lock: lock })
    }

    /// One record, without the lock: files are replaced whole.
    pub(super) fn get(&self, id: &AttachmentId) -> Result<Option<Record>, RecordError> {
        self.read(&self.path(id), id)
    }

    /// A damaged file is neither an absent attachment, whose address would be given to another, nor a reason to give
    /// no more addresses: its attachment is to go.
    fn read(&self, path: &Path, id: &AttachmentId) -> Result<Option<Record>, RecordError> {
        match read(path) {
            Err(error @ RecordError::Parse { .. }) => {
                let error = &error as &dyn std::error::Error;
                warn!(
                    container = id.container_id,
                    error, "network: a damaged record; what it is of is taken away"
                );
                Ok(Some(Record::unreadable(id.clone())))
            }
            other => other,
        }
    }

    fn path(&self, id: &AttachmentId) -> PathBuf {
        self.dir.join(format!("{}-{}.json", id.container_id, id.ifname))
    }
}

impl Locked<'_> {
    /// All records, oldest first.
    pub(super) fn all(&self) -> Result<Vec<Record>, RecordError> {
        let dir = &self.records.dir;
        let failed = |source| RecordError::Read { path: dir.clone(), source };
        let mut records: Vec<Record> = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some(id) = id_of(&path)
                && let Some(record) = self.records.read(&path, &id)?
            {
                records.push(record);
            }
        }
        records.sort_by_key(|record| record.sequence);
        Ok(records)
    }

    pub(super) fn put(&self, record: &Record) -> Result<(), RecordError> {
        let path = self.records.path(&record.id);
        let bytes =
            serde_json::to_vec(record).map_err(|source| RecordError::Parse { path: path.clone(), source })?;
        Ok(files::write_for_this_boot(&path, &bytes, 0o600)?)
    }

    pub(super) fn remove(&self, id: &AttachmentId) -> Result<bool, RecordError> {
        Ok(files::remove(&self.records.path(id))?)
    }

    /// The address given last in each range, also when its attachment is gone.
    pub(super) fn given(&self) -> Result<Given, RecordError> {
        let path = self.records.dir.join(GIVEN);
        Ok(read(&path)?.unwrap_or_default())
    }

    pub(super) fn put_given(&self, given: &Given) -> Result<(), RecordError> {
        let path = self.records.dir.join(GIVEN);
        let bytes =
            serde_json::to_vec(given).map_err(|source| RecordError::Parse { path: path.clone(), source })?;
        Ok(files::write_for_this_boot(&path, &bytes, 0o600)?)
    }
}

/// Whose record a file is, by its name.
fn id_of(path: &Path) -> Option<AttachmentId> {
    let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
    let (container_id, ifname) = name.rsplit_once('-')?;
    Some(AttachmentId { container_id: container_id.to_string(), ifname: ifname.to_string() })
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, RecordError> {
    match fs::read(path) {
        Ok(bytes) if files::was_lost(&bytes) => Ok(None),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| RecordError::Parse { path: path.to_path_buf(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(RecordError::Read { path: path.to_path_buf(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_given_last_is_kept_apart_from_the_attachments() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("attachments"));
        let locked = records.lock().unwrap();
        assert!(locked.given().unwrap().is_empty());
        let given = Given::from([("10.1.0.0/24".parse().unwrap(), "10.1.0.7".parse().unwrap())]);
        locked.put_given(&given).unwrap();
        assert_eq!(locked.given().unwrap(), given);
        assert!(locked.all().unwrap().is_empty());
    }

    #[test]
    fn what_a_power_failure_left_is_no_record_and_what_does_not_parse_is_to_go() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().join("attachments"));
        let locked = records.lock().unwrap();
        fs::write(dir.path().join("attachments/a-eth0.json"), "").unwrap();
        fs::write(dir.path().join("attachments/b-eth0.json"), [0; 64]).unwrap();
        assert!(locked.all().unwrap().is_empty());
        fs::write(dir.path().join("attachments/c-eth0.json"), "{").unwrap();
        let id = AttachmentId { container_id: "c".into(), ifname: "eth0".into() };
        assert_eq!(locked.all().unwrap(), [Record::unreadable(id.clone())]);
        assert!(records.get(&id).unwrap().unwrap().is_unreadable());
        assert!(locked.remove(&id).unwrap());
    }
}
