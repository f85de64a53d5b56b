//! Reads a kubeconfig: clusters, users and contexts; relative paths are relative to the file.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::transport::{Credentials, Endpoint, Pem, Secret};

/// A kubeconfig file as written.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(rename = "current-context", default)]
    current_context: Option<String>,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
    username: Option<serde::de::IgnoredAny>,
    #[serde(rename = "as")]
    impersonate: Option<serde::de::IgnoredAny>,
}

/// Only that it is there: its fields are secrets.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    #[error("read kubeconfig {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("kubeconfig {path} is not valid: {message}")]
    Parse { path: PathBuf, message: String },
    #[error("kubeconfig {path} has no current-context: set one with `kubectl config use-context NAME`")]
    NoContext { path: PathBuf },
    #[error("kubeconfig {path} has no {kind} named {name:?}: it has {}", known.join(", "))]
    Missing { path: PathBuf, kind: &'static str, name: String, known: Vec<String> },
    #[error("kubeconfig {path}: the server of cluster {cluster:?} is no URL: {server:?}")]
    Server {
        path: PathBuf,
        cluster: String,
        server: String,
        #[source]
        source: http::uri::InvalidUri,
    },
    #[error("kubeconfig {path}: {field} of {name:?} is not base64")]
    Base64 {
        path: PathBuf,
        field: &'static str,
        name: String,
        #[source]
        source: base64::DecodeError,
    },
    #[error("kubeconfig {path}: user {name:?} has {has} without {lacks}")]
    Half { path: PathBuf, name: String, has: &'static str, lacks: &'static str },
    #[error("kubeconfig {path}: {field} of {name:?} is not supported; {mend}")]
    Unsupported { path: PathBuf, field: &'static str, name: String, mend: &'static str },
}

impl Kubeconfig {
    /// # Errors
    /// When the file cannot be read or is no kubeconfig.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| KubeconfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text, path)
    }

    /// `path` is where `text` comes from: for relative paths and for errors.
    ///
    /// # Errors
    /// When `text` is no kubeconfig.
    pub fn parse(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        // The parser would draw the lines around a mistake, and they may be a token or a key.
        let options = serde_saphyr::options! { with_snippet: false };
        let mut config: Self = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            KubeconfigError::Parse { path: path.to_path_buf(), message: error.to_string() }
        })?;
        config.path = path.to_path_buf();
        Ok(config)
    }

    /// Where the current context (or `context`) leads.
    ///
    /// # Errors
    /// When something that it names is not there or cannot be used.
    pub fn endpoint(&self, context: Option<&str>) -> Result<Endpoint, KubeconfigError> {
        let name = context
            .or(self.current_context.as_deref().filter(|name| !name.is_empty()))
            .ok_or_else(|| KubeconfigError::NoContext { path: self.path.clone() })?;
        let context = self
            .contexts
            .iter()
            .find(|known| known.name == name)
            .map(|found| &found.context)
            .ok_or_else(|| self.missing("context", name, self.contexts.iter().map(|c| &c.name)))?;
        let cluster = self
            .clusters
            .iter()
            .find(|known| known.name == context.cluster)
            .map(|found| &found.cluster)
            .ok_or_else(|| {
                self.missing("cluster", &context.cluster, self.clusters.iter().map(|c| &c.name))
            })?;
        let credentials = self.credentials(&context.user)?;
        self.reach(&context.cluster, cluster, credentials, context.namespace.clone())
    }

    fn reach(
        &self,
        name: &str,
        cluster: &Cluster,
        credentials: Credentials,
        namespace: Option<String>,
    ) -> Result<Endpoint, KubeconfigError> {
        if cluster.proxy_url.is_some() {
            return Err(self.unsupported("proxy-url", name, "name the server's own address"));
        }
        let server = cluster.server.parse().map_err(|source| KubeconfigError::Server {
            path: self.path.clone(),
            cluster: name.to_string(),
            server: cluster.server.clone(),
            source,
        })?;
        let ca = self.pem(
            "certificate-authority-data",
            name,
            cluster.certificate_authority_data.as_deref(),
            cluster.certificate_authority.as_deref(),
        )?;
        let mut endpoint = Endpoint::new(server, ca, credentials);
        endpoint.insecure = cluster.insecure_skip_tls_verify;
        endpoint.tls_server_name.clone_from(&cluster.tls_server_name);
        endpoint.namespace = namespace;
        Ok(endpoint)
    }

    fn credentials(&self, name: &str) -> Result<Credentials, KubeconfigError> {
        if name.is_empty() {
            return Ok(Credentials::None);
        }
        let known = self
            .users
            .iter()
            .find(|known| known.name == name)
            .ok_or_else(|| self.missing("user", name, self.users.iter().map(|user| &user.name)))?;
        let Some(user) = &known.user else { return Ok(Credentials::None) };
        let others = [
            (user.exec.is_some(), "exec", "put a token or a client certificate into the file"),
            (
                user.auth_provider.is_some(),
                "auth-provider",
                "put a token or a client certificate into the file",
            ),
            (user.username.is_some(), "username", "API servers take no passwords any more: use a token"),
            (user.impersonate.is_some(), "as", "use the credentials of that user"),
        ];
        for (given, field, mend) in others {
            if given {
                return Err(self.unsupported(field, name, mend));
            }
        }
        let certificate = self.pem(
            "client-certificate-data",
            name,
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key =
            self.pem("client-key-data", name, user.client_key_data.as_deref(), user.client_key.as_deref())?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => return Ok(Credentials::Certificate { certificate, key }),
            (Some(_), None) => return Err(self.half(name, "client-certificate", "client-key")),
            (None, Some(_)) => return Err(self.half(name, "client-key", "client-certificate")),
            (None, None) => {}
        }
        // As upstream: the file wins, since it can be rotated.
        if let Some(path) = user.token_file.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            return Ok(Credentials::TokenFile(self.beside(path)));
        }
        match user.token.as_deref().filter(|token| !token.is_empty()) {
            Some(token) => Ok(Credentials::Token(Secret::new(token.to_string()))),
            None => Ok(Credentials::None),
        }
    }

    /// Embedded data wins over a path, as upstream.
    fn pem(
        &self,
        field: &'static str,
        name: &str,
        data: Option<&str>,
        path: Option<&Path>,
    ) -> Result<Option<Pem>, KubeconfigError> {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            let data: String = data.split_whitespace().collect();
            let decoded = STANDARD.decode(data).map_err(|source| KubeconfigError::Base64 {
                path: self.path.clone(),
                field,
                name: name.to_string(),
                source,
            })?;
            return Ok(Some(Pem::Data(decoded)));
        }
        Ok(path.filter(|path| !path.as_os_str().is_empty()).map(|path| Pem::File(self.beside(path))))
    }

    fn beside(&self, path: &Path) -> PathBuf {
        self.path.parent().map_or_else(|| path.to_path_buf(), |folder| folder.join(path))
    }

    fn missing<'a>(
        &self,
        kind: &'static str,
        name: &str,
        known: impl Iterator<Item = &'a String>,
    ) -> KubeconfigError {
        let mut known: Vec<String> = known.cloned().collect();
        if known.is_empty() {
            known.push("none".to_string());
        }
        KubeconfigError::Missing { path: self.path.clone(), kind, name: name.to_string(), known }
    }

    fn half(&self, name: &str, has: &'static str, lacks: &'static str) -> KubeconfigError {
        KubeconfigError::Half { path: self.path.clone(), name: name.to_string(), has, lacks }
    }

    fn unsupported(&self, field: &'static str, name: &str, mend: &'static str) -> KubeconfigError {
        KubeconfigError::Unsupported { path: self.path.clone(), field, name: name.to_string(), mend }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r"
apiVersion: v1
kind: Config
clusters:
- name: home
  cluster: {server: 'https://10.0.0.1:6443', certificate-authority: pki/ca.crt}
users:
- name: admin
  user: {client-certificate-data: Y2VydA==, client-key: admin.key}
- name: robot
  user: {tokenFile: /var/run/token, token: ignored}
- name: cloud
  user: {exec: {command: aws}}
- name: torn
  user: {client-key-data: a2V5}
contexts:
- name: main
  context: {cluster: home, user: admin, namespace: web}
- name: robot
  context: {cluster: home, user: robot}
- name: cloud
  context: {cluster: home, user: cloud}
- name: torn
  context: {cluster: home, user: torn}
- name: lost
  context: {cluster: away, user: admin}
current-context: main
";

    fn load(context: Option<&str>) -> Result<Endpoint, KubeconfigError> {
        Kubeconfig::parse(FILE, Path::new("/etc/k/config")).unwrap().endpoint(context)
    }

    #[test]
    fn relative_paths_are_relative_to_the_file_and_data_wins() {
        let endpoint = load(None).unwrap();
        assert_eq!(endpoint.server, "https://10.0.0.1:6443/");
        assert_eq!(endpoint.namespace.as_deref(), Some("web"));
        assert_eq!(format!("{:?}", endpoint.ca), r#"Some(File("/etc/k/pki/ca.crt"))"#);
        assert_eq!(
            format!("{:?}", endpoint.credentials),
            r#"Certificate { certificate: Data(4 bytes), key: File("/etc/k/admin.key") }"#
        );
    }

    #[test]
    fn a_token_file_wins_over_a_token() {
        assert_eq!(
            format!("{:?}", load(Some("robot")).unwrap().credentials),
            r#"TokenFile("/var/run/token")"#
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_without_its_lines() {
        for broken in [
            "users:\n- name: a\n  user: {token: s3cret, tokenFile: [1]}\n",
            "users:\n- name: a\n  user:\n    client-key-data: s3cret\n   token: x\n",
            "users:\n- name: a\n  user: {token: s3cret\n",
            "users: s3cret\n",
            "users:\n- name: a\n  user: {token: [s3cret]}\n",
        ] {
            let told = Kubeconfig::parse(broken, Path::new("/k")).unwrap_err().to_string();
            assert!(told.contains("/k is not valid") && !told.contains("s3cret"), "{broken}: {told}");
        }
    }

    #[test]
    fn errors_name_the_file_the_entry_and_the_mend() {
        let words = |context| load(Some(context)).unwrap_err().to_string();
        assert_eq!(words("lost"), r#"kubeconfig /etc/k/config has no cluster named "away": it has home"#);
        assert_eq!(
            words("cloud"),
            r#"kubeconfig /etc/k/config: exec of "cloud" is not supported; put a token or a client certificate into the file"#
        );
        assert_eq!(
            words("torn"),
            r#"kubeconfig /etc/k/config: user "torn" has client-key without client-certificate"#
        );
        assert!(words("nowhere").contains(r#"no context named "nowhere": it has main, robot"#));
    }

    #[test]
    fn a_file_that_is_no_kubeconfig_is_told_with_its_name() {
        let error = Kubeconfig::parse("clusters: 7", Path::new("x.yaml")).unwrap_err().to_string();
        assert!(error.starts_with("kubeconfig x.yaml is not valid: "), "{error}");
    }
}
