//! What a machine that has joined keeps: its certificates, what it was told, and a kubeconfig that is written last.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use pki::{Issued, PairError};
use serde_json::json;

use crate::{address::ServerAddress, pending::Pending};

const NODE_USER: &str = "system:node:";

/// Where it is kept. The names in `pki/` are upstream's kubelet's.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Whoever finds this file finds everything else.
    pub kubeconfig: PathBuf,
    /// The configuration that the cluster gave: below this machine's own.
    pub joined: PathBuf,
    pub client: PathBuf,
    pub serving: PathBuf,
    /// By which of its addresses this machine reached the server: [`keep_address`].
    pub address: PathBuf,
}

/// As whom this machine has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node_name: String,
    pub not_after: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("read {}; it must be readable by the user who runs this", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no certificate with its private key", path.display())]
    Pair {
        path: PathBuf,
        #[source]
        source: PairError,
    },
    #[error("{} is no certificate of a node with its key; `coracle reset --yes` and join again", path.display())]
    Member {
        path: PathBuf,
        #[source]
        source: PairError,
    },
    #[error("{} is the certificate of {name:?}, not of a node; `coracle reset --yes` and join again", path.display())]
    NoNode { path: PathBuf, name: String },
    #[error("write {}; the disk may be full or read-only", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("write {}; the disk may be full or read-only, and everything is as it was before", path.display())]
    NotJoined {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "write {}, and put {} back in its place: this machine is no member now; see that the disk is writable, then join again",
        path.display(), aside.display()
    )]
    NotPutBack {
        path: PathBuf,
        aside: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl FilesError {
    /// Of a file that `coracle join` wrote.
    fn of_member(self) -> Self {
        match self {
            Self::Pair { path, source } => Self::Member { path, source },
            other => other,
        }
    }
}

impl Paths {
    /// Everything below the state directory.
    #[must_use]
    pub fn of(state_dir: &Path) -> Paths {
        let pki = state_dir.join("pki");
        Paths {
            kubeconfig: state_dir.join("node.kubeconfig"),
            joined: state_dir.join("joined.yaml"),
            client: pki.join("kubelet-client-current.pem"),
            serving: pki.join("kubelet-server-current.pem"),
            address: state_dir.join("node-address"),
        }
    }

    /// Whether this machine has joined, by whatever certificate: the other files mean nothing alone.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.kubeconfig.exists()
    }

    /// As whom this machine has joined, if it has.
    ///
    /// # Errors
    /// When the files cannot be read, or are not those of a node.
    pub fn member(&self) -> Result<Option<Member>, FilesError> {
        if !self.is_member() {
            return Ok(None);
        }
        let Some(issued) = read_pair(&self.client).map_err(FilesError::of_member)? else { return Ok(None) };
        let name = issued.certificate.common_name;
        let Some(node) = name.strip_prefix(NODE_USER).filter(|node| !node.is_empty()) else {
            return Err(FilesError::NoNode { path: self.client.clone(), name });
        };
        Ok(Some(Member { node_name: node.to_owned(), not_after: issued.certificate.not_after }))
    }

    /// Makes this machine a member, wholly or not at all, and forgets the key that was asked with. What its server showed
    /// goes, since another authority may have signed it: the agent asks for another.
    ///
    /// # Errors
    /// Which file cannot be written, and whether everything is as it was.
    pub fn write(
        &self,
        server: &ServerAddress,
        authority_pem: &[u8],
        client: &Issued,
        joined: &str,
    ) -> Result<(), FilesError> {
        let kubeconfig = kubeconfig(server, authority_pem, &client.certificate.common_name);
        let files = [
            (self.client.as_path(), client.to_pem()),
            (&self.joined, joined.to_owned()),
            (&self.kubeconfig, kubeconfig),
        ];
        // Before: a crash in between leaves a node that asks for another, not one that nobody can verify.
        match fs::remove_file(&self.serving) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(FilesError::NotJoined { path: self.serving.clone(), source });
            }
            _ => {}
        }
        replace_all(&files)?;
        Pending::beside(&self.client).forget();
        Ok(())
    }
}

/// Keeps by which address this machine reached the server, for a time at which nobody can tell.
///
/// # Errors
/// When the file cannot be written.
pub fn keep_address(path: &Path, ip: IpAddr) -> Result<(), FilesError> {
    make_parent(path)
        .and_then(|()| pki::write_atomically(path, format!("{ip}\n").as_bytes(), 0o600))
        .map_err(|source| FilesError::Write { path: path.to_owned(), source })
}

/// What [`keep_address`] kept; what cannot be read is not known.
#[must_use]
pub fn kept_address(path: &Path) -> Option<IpAddr> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A certificate and its key from one file; none if the file is not there.
pub(crate) fn read_pair(path: &Path) -> Result<Option<Issued>, FilesError> {
    let pem = match fs::read(path) {
        Ok(pem) => pem,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(FilesError::Read { path: path.to_owned(), source }),
    };
    Issued::from_pem(&pem).map(Some).map_err(|source| FilesError::Pair { path: path.to_owned(), source })
}

/// Replaces a certificate with its key. Upstream's `…-current.pem` is a link to a file with a date in its name: where it
/// is one it stays one, so that upstream's kubelet goes on with it.
pub(crate) fn replace_current(path: &Path, pem: &[u8], now: Timestamp) -> io::Result<()> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|there| there.is_symlink());
    if is_link { link_dated(path, pem, now) } else { pki::write_atomically(path, pem, 0o600) }
}

/// Writes a file with a date in its name beside `path`, and makes `path` a link to it.
pub(crate) fn link_dated(path: &Path, pem: &[u8], now: Timestamp) -> io::Result<()> {
    make_parent(path)?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let dated = name.replace("current", &now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
    if dated == name {
        return pki::write_atomically(path, pem, 0o600);
    }
    pki::write_atomically(&parent.join(&dated), pem, 0o600)?;
    // Beside its place first: the name leads to a whole file at every moment.
    let beside = with_suffix(path, ".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(&dated, &beside)?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Takes a certificate over from a kubeconfig that holds it itself, to a file where it can be renewed; what is there
/// already and lives longer than `now` is kept.
///
/// # Errors
/// When they are no certificate and key, or the file cannot be written.
pub fn adopt(path: &Path, certificate: &[u8], key: &[u8], now: Timestamp) -> Result<Issued, FilesError> {
    let pair = [certificate, b"\n", key].concat();
    let given =
        Issued::from_pem(&pair).map_err(|source| FilesError::Pair { path: path.to_owned(), source })?;
    if let Ok(Some(kept)) = read_pair(path)
        && kept.certificate.not_after > now
        && kept.certificate.common_name == given.certificate.common_name
    {
        return Ok(kept);
    }
    link_dated(path, given.to_pem().as_bytes(), now)
        .map_err(|source| FilesError::Write { path: path.to_owned(), source })?;
    Ok(given)
}

/// Replaces files of which the last one makes the others count. It is the first one that is set aside: a machine that stops
/// in between finds it not there.
fn replace_all(files: &[(&Path, String)]) -> Result<(), FilesError> {
    let (mut aside, mut begun): (Vec<&Path>, Vec<&Path>) = (Vec::new(), Vec::new());
    let replaced = set_aside(files, &mut aside).and_then(|()| {
        files.iter().try_for_each(|(path, text)| {
            begun.push(path);
            make_parent(path)
                .and_then(|()| pki::write_atomically(path, text.as_bytes(), 0o600))
                .map_err(|source| (path.to_path_buf(), source))
        })
    });
    let Err((path, source)) = replaced else {
        // Also those of a time that was cut off.
        for (path, _) in files {
            drop(fs::remove_file(with_suffix(path, ".old")));
        }
        return Ok(());
    };
    // The last one first, and then back the way they came: at no time does it stand beside another's files.
    for new in begun.into_iter().rev() {
        drop(fs::remove_file(new));
        drop(fs::remove_file(with_suffix(new, ".new")));
    }
    for old in aside.iter().rev() {
        let beside = with_suffix(old, ".old");
        if fs::rename(&beside, old).is_err() {
            return Err(FilesError::NotPutBack { path, aside: beside, source });
        }
    }
    Err(FilesError::NotJoined { path, source })
}

/// `aside` is told of each that was there, in the order in which they went.
fn set_aside<'a>(
    files: &[(&'a Path, String)],
    aside: &mut Vec<&'a Path>,
) -> Result<(), (PathBuf, io::Error)> {
    for (path, _) in files.iter().rev() {
        match fs::rename(path, with_suffix(path, ".old")) {
            Ok(()) => aside.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err((path.to_path_buf(), source)),
        }
        sync_parent(path).map_err(|source| (path.to_path_buf(), source))?;
    }
    Ok(())
}

/// Makes the folder of a file, for its owner alone.
pub(crate) fn make_parent(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap_or(Path::new("/")))
}

/// What was renamed stays so after a power cut. A folder that is not there has nothing to keep.
fn sync_parent(path: &Path) -> io::Result<()> {
    match fs::File::open(path.parent().unwrap_or(Path::new("/"))) {
        Ok(folder) => folder.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The kubeconfig of a node: the authority in it, its certificate beside it, where renewals replace it.
fn kubeconfig(server: &ServerAddress, authority_pem: &[u8], user: &str) -> String {
    let (server, user) = (json!(server.url()), json!(user));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    certificate-authority-data: {}
    server: {server}
users:
- name: {user}
  user:
    client-certificate: pki/kubelet-client-current.pem
    client-key: pki/kubelet-client-current.pem
contexts:
- name: cluster
  context:
    cluster: cluster
    user: {user}
current-context: cluster
",
        STANDARD.encode(authority_pem)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use client::Kubeconfig;
    use pki::{Authority, Key, Profile};

    use super::*;

    fn issued() -> Issued {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        authority.issue(&Profile::KubeletClient { node: "b".into() }, now).unwrap()
    }

    fn server() -> ServerAddress {
        "192.0.2.1:6443".parse().unwrap()
    }

    #[test]
    fn a_member_is_known_by_its_files_and_they_are_its_own() {
        let state = tempfile::tempdir().unwrap();
        let paths = Paths::of(state.path());
        assert_eq!(paths.member().unwrap(), None);
        let issued = issued();
        paths.write(&server(), b"CA", &issued, "kind: CoracleConfiguration\n").unwrap();
        let member = paths.member().unwrap().unwrap();
        assert_eq!((member.node_name.as_str(), member.not_after), ("b", issued.certificate.not_after));
        for path in [&paths.client, &paths.joined, &paths.kubeconfig] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        }
        let endpoint = Kubeconfig::load(&paths.kubeconfig).unwrap().endpoint(None).unwrap();
        assert_eq!(endpoint.server, "https://192.0.2.1:6443/");
        assert!(format!("{:?}", endpoint.credentials).contains("kubelet-client-current.pem"));
    }

    #[test]
    fn a_link_to_a_dated_file_stays_one_and_a_file_stays_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pki/kubelet-client-current.pem");
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        link_dated(&path, b"one", at("2026-11-21T10:00:00Z")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("kubelet-client-2026-11-21-10-00-00.pem"));
        replace_current(&path, b"two", at("2026-11-22T10:00:00Z")).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new("kubelet-client-2026-11-22-10-00-00.pem"));
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        replace_current(&path, b"three", at("2026-11-23T10:00:00Z")).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_kubeconfigs_own_certificate_is_taken_over_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, now) =
            (dir.path().join("kubelet-client-current.pem"), "2026-11-21T10:00:00Z".parse().unwrap());
        let (given, later) = (issued(), "2026-11-21T10:00:01Z".parse().unwrap());
        let texts = |issued: &Issued| (issued.certificate.to_pem(), issued.key.to_pem());
        let (certificate, key) = texts(&given);
        let taken = adopt(&path, certificate.as_bytes(), key.as_bytes(), now).unwrap();
        assert_eq!(taken.certificate.der, given.certificate.der);
        // What is there is younger than what stands in the kubeconfig, or the same.
        let (other, other_key) = texts(&issued());
        let kept = adopt(&path, other.as_bytes(), other_key.as_bytes(), later).unwrap();
        assert_eq!(kept.certificate.der, given.certificate.der);
        let over = "2030-01-01T00:00:00Z".parse().unwrap();
        let taken = adopt(&path, other.as_bytes(), other_key.as_bytes(), over).unwrap();
        assert_ne!(taken.certificate.der, given.certificate.der);
        adopt(&path, certificate.as_bytes(), b"no key", now).unwrap_err();
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let state = tempfile::tempdir().unwrap();
        let paths = Paths::of(state.path());
        // The last file cannot be written: its name is a directory's.
        fs::create_dir_all(with_suffix(&paths.kubeconfig, ".new")).unwrap();
        let error = paths.write(&server(), b"CA", &issued(), "").unwrap_err();
        assert!(error.to_string().contains("node.kubeconfig"), "{error}");
        for path in [&paths.client, &paths.joined, &paths.kubeconfig] {
            assert!(!path.exists() && !with_suffix(path, ".new").is_file(), "{}", path.display());
        }
    }

    #[test]
    fn a_failure_puts_back_what_was_there_whichever_file_it_is() {
        for fails in 0..3 {
            let state = tempfile::tempdir().unwrap();
            let paths = Paths::of(state.path());
            let files = [&paths.client, &paths.joined, &paths.kubeconfig];
            let before = issued();
            paths.write(&server(), b"CA", &before, "before").unwrap();
            let texts = || files.map(|path| fs::read_to_string(path).unwrap());
            let kept = texts();
            // Not to be written, though all others are.
            fs::create_dir_all(with_suffix(files[fails], ".new")).unwrap();
            let error =
                paths.write(&"192.0.2.9:6443".parse().unwrap(), b"CB", &issued(), "after").unwrap_err();
            assert!(error.to_string().contains("as it was before"), "{error}");
            assert_eq!(texts(), kept, "{fails}");
            assert!(files.iter().all(|path| !with_suffix(path, ".old").exists()), "{fails}");
            assert_eq!(paths.member().unwrap().unwrap().not_after, before.certificate.not_after);
        }
    }

    #[test]
    fn a_machine_that_stopped_in_between_is_no_member_and_can_join_again() {
        let state = tempfile::tempdir().unwrap();
        let paths = Paths::of(state.path());
        paths.write(&server(), b"CA", &issued(), "before").unwrap();
        let files: Vec<(&Path, String)> = [&paths.client, &paths.joined, &paths.kubeconfig]
            .map(|path| (path.as_path(), String::new()))
            .into();
        // As far as each of its steps.
        set_aside(&files[2..], &mut Vec::new()).unwrap();
        assert!(!paths.is_member() && paths.client.exists());
        set_aside(&files[..2], &mut Vec::new()).unwrap();
        fs::write(&paths.client, "another's").unwrap();
        assert_eq!(paths.member().unwrap(), None);
        paths.write(&server(), b"CA", &issued(), "after").unwrap();
        assert_eq!(fs::read_to_string(&paths.joined).unwrap(), "after");
        assert!(paths.member().unwrap().is_some());
    }

    #[test]
    fn a_certificate_of_somebody_else_is_no_membership() {
        let state = tempfile::tempdir().unwrap();
        let paths = Paths::of(state.path());
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        let admin = authority.issue(&Profile::Admin, now).unwrap();
        paths.write(&server(), b"CA", &admin, "").unwrap();
        assert!(matches!(paths.member(), Err(FilesError::NoNode { .. })));
        fs::write(&paths.client, "torn").unwrap();
        assert!(paths.member().unwrap_err().to_string().contains("coracle reset"), "of a member");
        assert!(!read_pair(&paths.client).unwrap_err().to_string().contains("coracle"), "of anybody");
    }
}
