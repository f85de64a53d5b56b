//! Upstream's TLS bootstrap: from a kubeconfig that may only ask for a certificate to one that has it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use client::{Credentials, Endpoint, ErrorKind, Kubeconfig, KubeconfigError, Pem};
use jiff::Timestamp;
use lifecycle::{Backoff, Scope};
use pki::{Certificate, Issued, Profile};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    files::{FilesError, link_dated, make_parent},
    pending::Pending,
    request::{Ask, RequestError, obtain},
};

const RETRY: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(30));
/// The certificate with its key, by upstream's name.
const CLIENT: &str = "kubelet-client-current.pem";

/// What a node without a certificate needs to get one.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub node_name: String,
    /// Written, unless it can be used as it is.
    pub kubeconfig: PathBuf,
    /// By what is asked.
    pub by: PathBuf,
    /// Where the certificate with its key is put.
    pub certificate_dir: PathBuf,
    /// What is asked for; the signer's own life without it.
    pub expiration_seconds: Option<i32>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kubeconfig could be used as it was.
    NotNeeded,
    /// There is a certificate, and the kubeconfig names it.
    Done,
    /// Told to stop first.
    Stopped,
}

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(
        "{} cannot be used ({why}), and neither can {}, by which another certificate would be asked for; make a token on the \
         control plane and write it there", kubeconfig.display(), by.display()
    )]
    NoWay {
        kubeconfig: PathBuf,
        by: PathBuf,
        why: Unusable,
        #[source]
        source: KubeconfigError,
    },
    #[error("connect by {}", by.display())]
    Connect {
        by: PathBuf,
        #[source]
        source: client::ConnectError,
    },
    #[error("the user of {} gets no certificate for the node {name}; is its token wrong, or expired?", by.display())]
    Request {
        by: PathBuf,
        name: String,
        #[source]
        source: RequestError,
    },
    #[error("keep the certificate")]
    Files(#[from] FilesError),
}

/// Why a kubeconfig leads nowhere yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    Absent,
    /// It, or a file that it names.
    Unreadable(String),
    /// It shows something else, or nothing.
    NoCertificate,
    Expired(Timestamp),
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("it is not there"),
            Self::Unreadable(why) => f.write_str(why),
            Self::NoCertificate => f.write_str("it has no client certificate"),
            Self::Expired(when) => write!(f, "its certificate expired at {when}"),
        }
    }
}

/// As upstream: a kubeconfig is used if it shows a client certificate that has not expired.
fn unusable(kubeconfig: &Path, now: Timestamp) -> Option<Unusable> {
    if !kubeconfig.exists() {
        return Some(Unusable::Absent);
    }
    let endpoint = match Kubeconfig::load(kubeconfig).and_then(|file| file.endpoint(None)) {
        Ok(endpoint) => endpoint,
        Err(error) => return Some(Unusable::Unreadable(error.to_string())),
    };
    let Credentials::Certificate { certificate, .. } = endpoint.credentials else {
        return Some(Unusable::NoCertificate);
    };
    let pem = match certificate {
        Pem::Data(data) => data,
        Pem::File(path) => match std::fs::read(&path) {
            Ok(data) => data,
            Err(error) => return Some(Unusable::Unreadable(format!("read {}: {error}", path.display()))),
        },
    };
    match Certificate::from_pem(&pem) {
        Ok(certificate) if certificate.not_after <= now => Some(Unusable::Expired(certificate.not_after)),
        Ok(_) => None,
        Err(error) => Some(Unusable::Unreadable(error.to_string())),
    }
}

/// Makes sure that the kubeconfig can be used. A server that does not answer is waited for, and so is an approval, of which
/// `told` hears the request's name.
///
/// # Errors
/// When the server refuses, or a file cannot be read or written.
pub async fn bootstrap(
    wanted: &Bootstrap,
    scope: &Scope,
    told: impl Fn(&str),
) -> Result<Outcome, BootstrapError> {
    let Some(why) = unusable(&wanted.kubeconfig, Timestamp::now()) else { return Ok(Outcome::NotNeeded) };
    let endpoint = Kubeconfig::load(&wanted.by).and_then(|file| file.endpoint(None)).map_err(|source| {
        let (kubeconfig, by) = (wanted.kubeconfig.clone(), wanted.by.clone());
        BootstrapError::NoWay { kubeconfig, by, why: why.clone(), source }
    })?;
    info!(
        node = wanted.node_name, server = %endpoint.server, kubeconfig = %wanted.kubeconfig.display(), reason = %why,
        "asking for a client certificate"
    );
    let connection = scope.child("bootstrap");
    let (client, _reconnect) = client::connect(endpoint.clone(), &connection)
        .map_err(|source| BootstrapError::Connect { by: wanted.by.clone(), source })?;
    let file = wanted.certificate_dir.join(CLIENT);
    let ask = Ask {
        profile: Profile::KubeletClient { node: wanted.node_name.clone() },
        prefix: "node-csr-",
        expiration_seconds: wanted.expiration_seconds,
        patience: None,
        pending: Pending::beside(&file),
    };
    let mut failures = 0;
    let issued = loop {
        let told = |name: &str| {
            info!(csr = name, "a signing request waits for its approval: kubectl certificate approve {name}");
            told(name);
        };
        let asked = tokio::select! {
            () = scope.cancelled() => return Ok(Outcome::Stopped),
            asked = obtain(&client, &ask, told) => asked,
        };
        let error = match asked {
            Ok(issued) => break issued,
            Err(error) if error.kind() == Some(ErrorKind::Unavailable) => error,
            // Upstream's control plane removes what nobody approved within a day.
            Err(error @ RequestError::Gone { .. }) => error,
            Err(source) => {
                let (by, name) = (wanted.by.clone(), wanted.node_name.clone());
                return Err(BootstrapError::Request { by, name, source });
            }
        };
        failures += 1;
        warn!(error = &error as &dyn std::error::Error, "no client certificate yet; asking again");
        tokio::select! {
            () = scope.cancelled() => return Ok(Outcome::Stopped),
            () = tokio::time::sleep(RETRY.delay(failures)) => {}
        }
    };
    connection.close(Duration::from_secs(1)).await;
    write(&wanted.kubeconfig, &file, &endpoint, &issued)?;
    ask.pending.forget();
    info!(node = wanted.node_name, not_after = %issued.certificate.not_after, "there is a client certificate");
    Ok(Outcome::Done)
}

/// The certificate first: whoever finds the kubeconfig finds what it names.
fn write(kubeconfig: &Path, file: &Path, endpoint: &Endpoint, issued: &Issued) -> Result<(), FilesError> {
    link_dated(file, issued.to_pem().as_bytes(), Timestamp::now())
        .map_err(|source| FilesError::Write { path: file.to_owned(), source })?;
    make_parent(kubeconfig)
        .and_then(|()| pki::write_atomically(kubeconfig, naming(endpoint, file).as_bytes(), 0o600))
        .map_err(|source| FilesError::Write { path: kubeconfig.to_owned(), source })
}

/// A kubeconfig to the same cluster, with the certificate of a file that renewals replace.
fn naming(endpoint: &Endpoint, file: &Path) -> String {
    let mut cluster = format!("    server: {}\n", json!(endpoint.server.to_string().trim_end_matches('/')));
    match &endpoint.ca {
        Some(Pem::File(path)) => cluster.push_str(&format!("    certificate-authority: {}\n", json!(path))),
        Some(Pem::Data(pem)) => {
            cluster.push_str(&format!("    certificate-authority-data: {}\n", STANDARD.encode(pem)));
        }
        None => {}
    }
    if let Some(name) = &endpoint.tls_server_name {
        cluster.push_str(&format!("    tls-server-name: {}\n", json!(name)));
    }
    if endpoint.insecure {
        cluster.push_str("    insecure-skip-tls-verify: true\n");
    }
    let file = json!(file);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: default-cluster
  cluster:
{cluster}users:
- name: default-auth
  user:
    client-certificate: {file}
    client-key: {file}
contexts:
- name: default-context
  context:
    cluster: default-cluster
    user: default-auth
current-context: default-context
"
    )
}

#[cfg(test)]
mod tests {
    use pki::{Authority, Key};

    use super::*;

    const BY: &str = "
clusters:
- {name: c, cluster: {server: 'https://10.0.0.1:6443', certificate-authority: /etc/kubernetes/pki/ca.crt, tls-server-name: api}}
users:
- {name: u, user: {token: abcdef.0123456789abcdef}}
contexts:
- {name: x, context: {cluster: c, user: u}}
current-context: x
";

    fn issued(now: Timestamp) -> Issued {
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        authority.issue(&Profile::KubeletClient { node: "b".into() }, now).unwrap()
    }

    #[test]
    fn what_is_written_leads_to_the_same_cluster_and_can_be_used_until_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let (kubeconfig, file) = (dir.path().join("kubelet.conf"), dir.path().join("pki").join(CLIENT));
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        assert_eq!(unusable(&kubeconfig, now), Some(Unusable::Absent));
        let endpoint = Kubeconfig::parse(BY, Path::new("/b.conf")).unwrap().endpoint(None).unwrap();
        write(&kubeconfig, &file, &endpoint, &issued(now)).unwrap();
        assert_eq!(unusable(&kubeconfig, now), None);
        let again = Kubeconfig::load(&kubeconfig).unwrap().endpoint(None).unwrap();
        assert_eq!((again.server, again.tls_server_name), (endpoint.server, Some("api".into())));
        assert_eq!(format!("{:?}", again.ca), r#"Some(File("/etc/kubernetes/pki/ca.crt"))"#);
        let later: Timestamp = "2028-01-01T00:00:00Z".parse().unwrap();
        assert!(matches!(unusable(&kubeconfig, later), Some(Unusable::Expired(_))));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(unusable(&kubeconfig, now), Some(Unusable::Unreadable(_))));
        std::fs::write(&kubeconfig, BY).unwrap();
        assert_eq!(unusable(&kubeconfig, now), Some(Unusable::NoCertificate));
    }

    #[tokio::test]
    async fn without_a_bootstrap_kubeconfig_both_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Bootstrap {
            node_name: "b".into(),
            kubeconfig: dir.path().join("kubelet.conf"),
            by: dir.path().join("bootstrap.conf"),
            certificate_dir: dir.path().into(),
            expiration_seconds: None,
        };
        let error = bootstrap(&wanted, &Scope::root("test"), |_| {}).await.unwrap_err().to_string();
        assert!(error.contains("kubelet.conf cannot be used (it is not there)"), "{error}");
        assert!(error.contains("bootstrap.conf"), "{error}");
    }
}
