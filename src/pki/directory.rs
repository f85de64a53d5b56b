//! The files of `<state>/pki`: made at first start, read at every later one, renewed in time.
//!
//! A pair of files is written key first: if power fails between the two, the key stays and the certificate is made
//! again over it (an authority) or both are (a leaf), so no start is stopped by a half-written pair.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::{
    authority::{Authority, IssueError, Issued},
    certificate::{Certificate, CertificateError},
    key::{Key, KeyError},
    plan::{Decision, Stored, decide},
    profile::Profile,
    token::{TokenError, TokenKeys},
};

const AUTHORITY: &str = "ca";
const AUTHORITY_NAME: &str = "kubernetes";
const TOKEN_KEY: &str = "sa.key";
const TOKEN_PUBLIC: &str = "sa.pub";

/// The PKI of one control plane: the authority, and the keys of service-account tokens.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    authority: Authority,
    tokens: TokenKeys,
}

/// Which file, what is wrong with it, and what mends it.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("create the directory {}; it must be on a disk that can be written", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read {}; it must be readable by the user who runs this", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {}; the disk may be full or read-only", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no usable certificate; {mend}", path.display())]
    Certificate {
        path: PathBuf,
        mend: String,
        #[source]
        source: CertificateError,
    },
    #[error("{} holds no usable private key; {mend}", path.display())]
    Key {
        path: PathBuf,
        mend: String,
        #[source]
        source: KeyError,
    },
    #[error(
        "{} is there but {} is not; put the key back from a backup, or remove the whole directory to start a new cluster identity",
        certificate.display(),
        key.display()
    )]
    NoAuthorityKey { certificate: PathBuf, key: PathBuf },
    #[error(
        "{} is there but {} is not; put the key back from a backup, or remove the public one too: every token that the key signed ends then",
        public.display(),
        key.display()
    )]
    NoTokenKey { public: PathBuf, key: PathBuf },
    #[error(
        "{} does not belong to {}; put the pair back from one backup, or remove the whole directory to start a new cluster identity",
        key.display(),
        certificate.display()
    )]
    AuthorityMismatch { certificate: PathBuf, key: PathBuf },
    #[error("{} is not the certificate of an authority; put back the one that was there", path.display())]
    NotAuthority { path: PathBuf },
    #[error(
        "{} expired at {not_after}; remove the whole directory to start a new cluster identity, and let every node join again",
        path.display()
    )]
    AuthorityExpired { path: PathBuf, not_after: Timestamp },
    #[error(
        "{} was not signed by {}; remove it and its key to have them made again, or put back the authority that signed it",
        path.display(),
        authority.display()
    )]
    Foreign { path: PathBuf, authority: PathBuf },
    #[error("{} cannot verify tokens; {mend}", path.display())]
    TokenKeys {
        path: PathBuf,
        mend: String,
        #[source]
        source: TokenError,
    },
    #[error("issue {}", path.display())]
    Issue {
        path: PathBuf,
        #[source]
        source: IssueError,
    },
    #[error("make a private key")]
    Generate(#[source] KeyError),
}

impl Directory {
    /// Opens the directory, making it, the authority and the token key where they are not there yet.
    pub fn open(path: &Path, now: Timestamp) -> Result<Directory, DirectoryError> {
        let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
        created
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
            .map_err(|source| DirectoryError::Create { path: path.to_owned(), source })?;
        let authority = open_authority(path, now)?;
        let tokens = open_tokens(path)?;
        Ok(Directory { path: path.to_owned(), authority, tokens })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub fn into_parts(self) -> (Authority, TokenKeys) {
        (self.authority, self.tokens)
    }

    /// The keys that sign and verify service-account tokens.
    pub fn tokens(&self) -> &TokenKeys {
        &self.tokens
    }

    /// The certificate of a role: the stored one while it fits and is young enough, else a new one, stored.
    pub fn ensure(&self, profile: &Profile, now: Timestamp) -> Result<Issued, DirectoryError> {
        let stored = self.stored(&profile.file_stem())?;
        let (facts, key) = match stored {
            Some((certificate, key)) => {
                let key_matches = key.as_ref().is_some_and(|key| key.public_der() == certificate.public_key);
                (Some(Stored { certificate, key_matches }), key)
            }
            None => (None, None),
        };
        match (decide(facts.as_ref(), profile, now), facts, key) {
            (Decision::Keep, Some(facts), Some(key)) => {
                Ok(Issued { certificate: facts.certificate, above: Vec::new(), key })
            }
            _ => self.issue(profile, now),
        }
    }

    fn issue(&self, profile: &Profile, now: Timestamp) -> Result<Issued, DirectoryError> {
        let (crt, key) = pair(&self.path, &profile.file_stem());
        let issued = self.authority.issue(profile, now);
        let issued = issued.map_err(|source| DirectoryError::Issue { path: crt.clone(), source })?;
        write(&key, issued.key.to_pem().as_bytes(), 0o600)?;
        write(&crt, issued.certificate.to_pem().as_bytes(), 0o644)?;
        Ok(issued)
    }

    /// What is stored for a leaf: its certificate, which our authority signed, and its key if there is one.
    fn stored(&self, stem: &str) -> Result<Option<(Certificate, Option<Key>)>, DirectoryError> {
        let (crt, key) = pair(&self.path, stem);
        let Some(certificate) = read(&crt)? else { return Ok(None) };
        let mend = format!("remove it and {} to have them made again", key.display());
        let certificate = Certificate::from_pem(&certificate).map_err(|source| {
            DirectoryError::Certificate { path: crt.clone(), mend: mend.clone(), source }
        })?;
        if !certificate.is_signed_by(self.authority.certificate()) {
            let authority = pair(&self.path, AUTHORITY).0;
            return Err(DirectoryError::Foreign { path: crt, authority });
        }
        let mend = format!("remove it and {} to have them made again", crt.display());
        let pem = read_private(&key)?;
        let key = pem.map(|pem| Key::from_pem(&pem)).transpose();
        let key =
            key.map_err(|source| DirectoryError::Key { path: pair(&self.path, stem).1, mend, source })?;
        Ok(Some((certificate, key)))
    }
}

fn open_authority(path: &Path, now: Timestamp) -> Result<Authority, DirectoryError> {
    let (crt, key_path) = pair(path, AUTHORITY);
    let mend = || {
        "put it back from a backup, or remove the whole directory to start a new cluster identity".to_owned()
    };
    let key = read_private(&key_path)?.map(|pem| Key::from_pem(&pem)).transpose();
    let key = key.map_err(|source| DirectoryError::Key { path: key_path.clone(), mend: mend(), source })?;
    let Some(pem) = read(&crt)? else {
        let key = match key {
            Some(key) => key,
            None => new_key(&key_path)?,
        };
        let authority = Authority::self_signed(AUTHORITY_NAME, key, now)
            .map_err(|source| DirectoryError::Issue { path: crt.clone(), source })?;
        write(&crt, authority.certificate().to_pem().as_bytes(), 0o644)?;
        return Ok(authority);
    };
    let certificate = Certificate::from_pem(&pem).map_err(|source| DirectoryError::Certificate {
        path: crt.clone(),
        mend: mend(),
        source,
    })?;
    let Some(key) = key else {
        return Err(DirectoryError::NoAuthorityKey { certificate: crt, key: key_path });
    };
    let not_after = certificate.not_after;
    if not_after <= now {
        return Err(DirectoryError::AuthorityExpired { path: crt, not_after });
    }
    Authority::new(certificate, key).map_err(|error| match error {
        IssueError::KeyMismatch => DirectoryError::AuthorityMismatch { certificate: crt, key: key_path },
        IssueError::NotAuthority => DirectoryError::NotAuthority { path: crt },
        source => DirectoryError::Issue { path: crt, source },
    })
}

/// `sa.key` signs; `sa.pub` may hold further public keys whose tokens are still accepted.
fn open_tokens(path: &Path) -> Result<TokenKeys, DirectoryError> {
    let key_path = path.join(TOKEN_KEY);
    let public_path = path.join(TOKEN_PUBLIC);
    let mend =
        "put it back from a backup, or remove it and sa.pub: every token that it signed ends then".to_owned();
    let key = match read_private(&key_path)? {
        Some(pem) => Key::from_pem(&pem).map_err(|source| DirectoryError::Key {
            path: key_path.clone(),
            mend: mend.clone(),
            source,
        })?,
        // The private key is written first: a public one alone is of a key that was lost.
        None if read(&public_path)?.is_some() => {
            return Err(DirectoryError::NoTokenKey { public: public_path, key: key_path });
        }
        None => new_key(&key_path)?,
    };
    let public = match read(&public_path)? {
        Some(pem) => pem,
        None => {
            let pem = key.public_pem().into_bytes();
            write(&public_path, &pem, 0o644)?;
            pem
        }
    };
    let tokens = TokenKeys::new(&key)
        .map_err(|source| DirectoryError::TokenKeys { path: key_path, mend, source })?
        .accepting(&public);
    let mend = "remove it to have it made from sa.key".to_owned();
    tokens.map_err(|source| DirectoryError::TokenKeys { path: public_path, mend, source })
}

fn new_key(path: &Path) -> Result<Key, DirectoryError> {
    let key = Key::generate().map_err(DirectoryError::Generate)?;
    write(path, key.to_pem().as_bytes(), 0o600)?;
    Ok(key)
}

fn pair(directory: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (directory.join(format!("{stem}.crt")), directory.join(format!("{stem}.key")))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DirectoryError::Read { path: path.to_owned(), source }),
    }
}

/// Reads a private key, and closes it to others if a copy or a restore has left it open.
fn read_private(path: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    let tighten = || {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 == 0 { Ok(()) } else { fs::set_permissions(path, fs::Permissions::from_mode(0o600)) }
    };
    tighten().map_err(|source| DirectoryError::Read { path: path.to_owned(), source })?;
    Ok(Some(bytes))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DirectoryError> {
    write_atomically(path, bytes, mode)
        .map_err(|source| DirectoryError::Write { path: path.to_owned(), source })
}

/// Writes a file so that it is whole or absent, also after a power loss: beside its place, synced, renamed, and the
/// directory synced.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {} // what an interrupted write left
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Names;

    fn now() -> Timestamp {
        "2026-11-21T10:00:00Z".parse().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn server(names: &[&str]) -> Profile {
        Profile::ApiServer { names: Names::from_texts(names) }
    }

    #[test]
    fn a_second_start_finds_what_the_first_made() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("pki");
        let first = Directory::open(&path, now()).unwrap();
        let certificate = first.ensure(&server(&["a"]), now()).unwrap().certificate;
        let second = Directory::open(&path, now()).unwrap();
        assert_eq!(second.authority().certificate(), first.authority().certificate());
        assert_eq!(second.ensure(&server(&["a"]), now()).unwrap().certificate, certificate);
        let token = first.tokens().sign(&serde_json::json!({"iss": "x"})).unwrap();
        second.tokens().verify::<serde_json::Value>(&token).unwrap();
    }

    #[test]
    fn keys_and_the_directory_are_closed_to_others() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("pki");
        let directory = Directory::open(&path, now()).unwrap();
        directory.ensure(&Profile::Admin, now()).unwrap();
        assert_eq!(mode(&path), 0o700);
        for key in ["ca.key", "sa.key", "admin.key"] {
            assert_eq!(mode(&path.join(key)), 0o600, "{key}");
        }
        fs::set_permissions(path.join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
        Directory::open(&path, now()).unwrap();
        assert_eq!(mode(&path.join("ca.key")), 0o600);
    }

    #[test]
    fn new_names_and_age_renew_a_certificate() {
        let state = tempfile::tempdir().unwrap();
        let directory = Directory::open(state.path(), now()).unwrap();
        let first = directory.ensure(&server(&["a"]), now()).unwrap().certificate;
        let renamed = directory.ensure(&server(&["a", "b"]), now()).unwrap().certificate;
        assert_ne!(renamed, first);
        let later = now() + jiff::SignedDuration::from_hours(24 * 300);
        let renewed = directory.ensure(&server(&["a", "b"]), later).unwrap().certificate;
        assert_ne!(renewed, renamed);
        assert!(renewed.is_signed_by(directory.authority().certificate()));
    }

    #[test]
    fn a_token_key_that_was_lost_is_not_silently_replaced() {
        let state = tempfile::tempdir().unwrap();
        Directory::open(state.path(), now()).unwrap();
        fs::remove_file(state.path().join("sa.key")).unwrap();
        let error = Directory::open(state.path(), now()).unwrap_err().to_string();
        assert!(error.contains("sa.pub is there but") && error.contains("from a backup"), "{error}");
        assert!(!state.path().join("sa.key").exists());
        fs::remove_file(state.path().join("sa.pub")).unwrap();
        Directory::open(state.path(), now()).unwrap();
    }

    #[test]
    fn a_power_loss_between_key_and_certificate_is_mended() {
        let state = tempfile::tempdir().unwrap();
        let directory = Directory::open(state.path(), now()).unwrap();
        directory.ensure(&Profile::Admin, now()).unwrap();
        write(&state.path().join("admin.key"), Key::generate().unwrap().to_pem().as_bytes(), 0o600).unwrap();
        let mended = directory.ensure(&Profile::Admin, now()).unwrap();
        assert_eq!(mended.key.public_der(), mended.certificate.public_key);

        fs::remove_file(state.path().join("ca.crt")).unwrap();
        let key = fs::read(state.path().join("ca.key")).unwrap();
        let again = Directory::open(state.path(), now()).unwrap();
        assert_eq!(again.authority().certificate().public_key, Key::from_pem(&key).unwrap().public_der());
    }

    #[track_caller]
    fn refused(break_it: impl FnOnce(&Path), at: Timestamp, says: &[&str]) {
        let state = tempfile::tempdir().unwrap();
        Directory::open(state.path(), now()).unwrap().ensure(&Profile::Admin, now()).unwrap();
        break_it(state.path());
        let result =
            Directory::open(state.path(), at).and_then(|directory| directory.ensure(&Profile::Admin, at));
        let told = result.unwrap_err().to_string();
        for part in says {
            assert!(told.contains(part), "{part:?} is not in {told:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_with_its_mend() {
        let put = |name: &'static str, text: &'static str| {
            move |path: &Path| fs::write(path.join(name), text).unwrap()
        };
        refused(put("ca.crt", "x"), now(), &["ca.crt holds no usable certificate", "backup"]);
        refused(put("ca.key", "x"), now(), &["ca.key holds no usable private key", "backup"]);
        refused(put("sa.key", "x"), now(), &["sa.key holds no usable private key"]);
        refused(put("sa.pub", "x"), now(), &["sa.pub cannot verify tokens", "remove it"]);
        refused(put("admin.crt", "x"), now(), &["admin.crt holds no usable certificate", "admin.key"]);
        refused(
            |path| fs::remove_file(path.join("ca.key")).unwrap(),
            now(),
            &["ca.crt is there but", "ca.key is not"],
        );
        let end = now() + jiff::SignedDuration::from_hours(24 * 3651);
        refused(|_| {}, end, &["ca.crt expired at 2036"]);
    }

    #[test]
    fn a_foreign_pair_is_told_and_not_overwritten() {
        let foreign = |path: &Path| {
            let other = Authority::self_signed("other", Key::generate().unwrap(), now()).unwrap();
            let admin = other.issue(&Profile::Admin, now()).unwrap();
            fs::write(path.join("admin.crt"), admin.certificate.to_pem()).unwrap();
        };
        refused(foreign, now(), &["admin.crt was not signed by", "ca.crt"]);
        let mismatched = |path: &Path| {
            fs::write(path.join("ca.key"), Key::generate().unwrap().to_pem()).unwrap();
        };
        refused(mismatched, now(), &["ca.key does not belong to", "ca.crt"]);
        let leaf = |path: &Path| assert!(fs::copy(path.join("admin.crt"), path.join("ca.crt")).unwrap() > 0);
        refused(leaf, now(), &["does not belong"]);
    }
}
