//! The key of a signing request that waits: kept, so that whoever asks again, also after a restart, asks by the same request.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use pki::{Key, KeyError};
use tracing::warn;

use crate::files::make_parent;

/// Where the key is kept until its certificate is.
#[derive(Clone, Debug)]
pub struct Pending {
    file: PathBuf,
}

impl Pending {
    /// Beside the certificate that is asked for. Of `kubelet-client-current.pem` it is `kubelet-client.key.tmp`, as upstream
    /// calls it.
    #[must_use]
    pub fn beside(certificate: &Path) -> Self {
        let name = certificate.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.strip_suffix(".pem").unwrap_or(&name);
        let stem = stem.strip_suffix("-current").unwrap_or(stem);
        Self { file: certificate.with_file_name(format!("{stem}.key.tmp")) }
    }

    /// The key that is kept, or a new one. One that cannot be kept is good for this request alone.
    pub(crate) fn key(&self) -> Result<Key, KeyError> {
        match fs::read(&self.file).map(|pem| Key::from_pem(&pem)) {
            Ok(Ok(key)) => return Ok(key),
            // Torn, or somebody else's: nothing waits for it.
            Ok(Err(_)) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(file = %self.file.display(), %error, "the key of a signing request cannot be read");
            }
        }
        let key = Key::generate()?;
        if let Err(error) = self.keep(&key) {
            warn!(
                file = %self.file.display(), %error,
                "the key of a signing request cannot be kept: after a restart another request is made"
            );
        }
        Ok(key)
    }

    fn keep(&self, key: &Key) -> io::Result<()> {
        make_parent(&self.file)?;
        pki::write_atomically(&self.file, key.to_pem().as_bytes(), 0o600)
    }

    /// Its certificate is stored, or nobody will ever get one for it.
    pub(crate) fn forget(&self) {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(file = %self.file.display(), %error, "the key of a signing request cannot be removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_the_same_until_its_certificate_is_stored_and_nobody_else_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let pending = Pending::beside(&dir.path().join("pki/kubelet-client-current.pem"));
        let first = pending.key().unwrap().public_der();
        let file = dir.path().join("pki/kubelet-client.key.tmp");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(pending.key().unwrap().public_der(), first);
        fs::write(&file, "torn").unwrap();
        let second = pending.key().unwrap().public_der();
        assert_ne!(second, first);
        assert_eq!(pending.key().unwrap().public_der(), second);
        pending.forget();
        pending.forget();
        assert!(!file.exists());
    }

    #[test]
    fn the_key_of_any_certificate_has_a_place() {
        let place = |path: &str| Pending::beside(Path::new(path)).file;
        assert_eq!(place("/p/kubelet-server-current.pem"), Path::new("/p/kubelet-server.key.tmp"));
        assert_eq!(place("/p/node.pem"), Path::new("/p/node.key.tmp"));
        assert_eq!(place("/p/node"), Path::new("/p/node.key.tmp"));
    }
}
