//! Writes kubeconfigs with everything in them: one cluster, one user, one context.
#![deny(clippy::disallowed_methods)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{authority::Issued, certificate::Certificate};

/// What a kubeconfig says.
#[derive(Debug)]
pub struct Kubeconfig<'a> {
    /// The name of the cluster and of the context.
    pub cluster: &'a str,
    /// `https://host:port`
    pub server: &'a str,
    pub authority: &'a Certificate,
    pub user: &'a str,
    pub client: &'a Issued,
}

/// The kubeconfig as YAML. It holds a private key: for a 0600 file.
pub fn yaml(config: &Kubeconfig<'_>) -> String {
    let Encoded { authority, certificate, key } = Encoded::new(config);
    let [cluster, server, user] = [config.cluster, config.server, config.user].map(|text| json!(text));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    certificate-authority-data: {authority}
    server: {server}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {user}
current-context: {cluster}
preferences: {{}}
"
    )
}

/// The same as [`yaml`], as a value.
pub fn json(config: &Kubeconfig<'_>) -> Value {
    let Encoded { authority, certificate, key } = Encoded::new(config);
    let Kubeconfig { cluster, server, user, .. } = config;
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": {"certificate-authority-data": authority, "server": server}}],
        "users": [{"name": user, "user": {"client-certificate-data": certificate, "client-key-data": key}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
        "preferences": {},
    })
}

struct Encoded {
    authority: String,
    certificate: String,
    key: String,
}

impl Encoded {
    fn new(config: &Kubeconfig<'_>) -> Encoded {
        Encoded {
            authority: STANDARD.encode(config.authority.to_pem()),
            certificate: STANDARD.encode(config.client.certificate.to_pem()),
            key: STANDARD.encode(config.client.key.to_pem()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Key, Profile};

    #[test]
    fn both_forms_embed_the_same_certificates() {
        let now = "2026-11-21T10:00:00Z".parse().unwrap();
        let authority = Authority::self_signed("kubernetes", Key::generate().unwrap(), now).unwrap();
        let client = authority.issue(&Profile::Admin, now).unwrap();
        let config = Kubeconfig {
            cluster: "coracle",
            server: "https://127.0.0.1:6443",
            authority: authority.certificate(),
            user: "kubernetes-admin",
            client: &client,
        };
        let (yaml, json) = (yaml(&config), json(&config));
        let key = json["users"][0]["user"]["client-key-data"].as_str().unwrap();
        assert!(yaml.contains(&format!("    client-key-data: {key}\n")));
        assert!(yaml.contains("\n    server: \"https://127.0.0.1:6443\"\n"));
        let pem = STANDARD.decode(key).unwrap();
        assert_eq!(Key::from_pem(&pem).unwrap().public_der(), client.certificate.public_key);
    }
}
