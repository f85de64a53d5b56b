//! Registry credentials from `imagePullSecrets`.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client};
use serde::Deserialize;
use tracing::warn;

use super::Credentials;
use crate::{pods::PodName, runtime::RegistryAuth};

/// Asks the API for the secrets that a pod names, when an image is pulled.
#[derive(Clone)]
pub struct PullSecrets(pub Client);

impl std::fmt::Debug for PullSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PullSecrets")
    }
}

impl Credentials for PullSecrets {
    fn for_image<'a>(&'a self, pod: &'a Pod, image: &'a str) -> BoxFuture<'a, Vec<RegistryAuth>> {
        Box::pin(async move {
            let PodName { namespace, .. } = PodName::of(pod);
            let api: Api<Secret> = Api::namespaced(self.0.clone(), &namespace);
            let mut auths = Vec::new();
            for reference in pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
                match api.get(&reference.name).await {
                    Ok(secret) => auths.extend(auths_of(&secret, image)),
                    // As upstream: the pull is tried with what there is.
                    Err(error) => {
                        warn!(
                            secret = reference.name,
                            error = &error as &dyn std::error::Error,
                            "cannot read a pull secret"
                        );
                    }
                }
            }
            auths
        })
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    auth: Option<String>,
}

/// Those whose registry (and path, if they name one) is the image's; the longest first.
fn auths_of(secret: &Secret, image: &str) -> Vec<RegistryAuth> {
    let data = secret.data.as_ref();
    let entry = |key: &str| data.and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let auths = match (entry(".dockerconfigjson"), entry(".dockercfg")) {
        (Some(json), _) => {
            serde_json::from_slice::<DockerConfig>(json).map(|config| config.auths).unwrap_or_default()
        }
        (None, Some(json)) => serde_json::from_slice(json).unwrap_or_default(),
        (None, None) => BTreeMap::new(),
    };
    let image = full_name(image);
    let mut found: Vec<(usize, RegistryAuth)> = auths
        .into_iter()
        .filter_map(|(server, auth)| {
            let prefix = registry(&server);
            let rest = image.strip_prefix(&prefix)?;
            (rest.is_empty() || rest.starts_with(['/', ':', '@']))
                .then(|| (prefix.len(), decoded(server, auth)))
        })
        .collect();
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn decoded(server: String, auth: DockerAuth) -> RegistryAuth {
    let pair = auth.auth.and_then(|auth| String::from_utf8(BASE64_STANDARD.decode(auth).ok()?).ok());
    match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => RegistryAuth {
            username: username.into(),
            password: password.trim_end_matches('\0').into(),
            server,
        },
        None => RegistryAuth { username: auth.username, password: auth.password, server },
    }
}

/// `https://index.docker.io/v1/` → `docker.io`.
fn registry(server: &str) -> String {
    let bare = server.trim_start_matches("https://").trim_start_matches("http://");
    let bare =
        bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    if bare == "index.docker.io" { "docker.io".into() } else { bare.into() }
}

fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.into(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn credentials_are_those_of_the_images_registry_the_most_exact_first() {
        let json = serde_json::json!({"auths": {
            "registry.example.org": {"username": "u", "password": "p"},
            "registry.example.org/team": {"auth": BASE64_STANDARD.encode("t:s")},
            "https://index.docker.io/v1/": {"username": "d", "password": "d"}
        }});
        let data = BTreeMap::from([(".dockerconfigjson".into(), ByteString(json.to_string().into_bytes()))]);
        let secret = Secret { data: Some(data), ..Secret::default() };
        let users = |image: &str| -> Vec<String> {
            auths_of(&secret, image).into_iter().map(|it| it.username).collect()
        };
        assert_eq!(users("registry.example.org/team/app:1"), ["t", "u"]);
        assert_eq!(users("registry.example.org/other"), ["u"]);
        assert_eq!(users("busybox"), ["d"]);
        assert_eq!(users("registry.example.organic/x"), Vec::<String>::new());
    }
}
