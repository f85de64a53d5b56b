//! What the ConfigMap kube-public/cluster-info says, for whoever may read it: where the cluster is, and who signs for it.
#![deny(clippy::disallowed_methods)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::ConfigMap;
use pki::Certificate;
use serde::Deserialize;

/// Read, and not yet believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterInfo {
    /// Its URL; empty where none is named.
    pub(crate) server: String,
    /// As it stands there.
    pub(crate) authority_pem: Vec<u8>,
    /// One or several.
    pub(crate) authorities: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    #[serde(default)]
    server: String,
    #[serde(default)]
    certificate_authority_data: String,
}

impl ClusterInfo {
    /// The kubeconfig in it, which is what tokens sign.
    ///
    /// # Errors
    /// What is wrong, to be put into a sentence.
    pub(crate) fn text(map: &ConfigMap) -> Result<&str, &'static str> {
        let text = map.data.as_ref().and_then(|data| data.get("kubeconfig"));
        text.map(String::as_str).ok_or("no kubeconfig")
    }

    /// # Errors
    /// As [`ClusterInfo::text`].
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let config: Kubeconfig = serde_saphyr::from_str(text).map_err(|_| "a wrong kubeconfig")?;
        let Cluster { server, certificate_authority_data } =
            config.clusters.into_iter().next().ok_or("no cluster")?.cluster;
        let data: String = certificate_authority_data.split_whitespace().collect();
        let authority_pem = STANDARD.decode(data).map_err(|_| "an authority that is not base64")?;
        let authorities = Certificate::all_from_pem(&authority_pem).unwrap_or_default();
        if authorities.is_empty() {
            return Err("no authority's certificate");
        }
        Ok(Self { server, authority_pem, authorities })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_apart() {
        let wrong = |text: &str| ClusterInfo::parse(text).unwrap_err();
        assert_eq!(ClusterInfo::text(&ConfigMap::default()), Err("no kubeconfig"));
        assert_eq!(wrong("clusters: ["), "a wrong kubeconfig");
        assert_eq!(wrong("clusters: []"), "no cluster");
        let with = |authority: &str| {
            wrong(&format!("clusters: [{{name: c, cluster: {{certificate-authority-data: '{authority}'}}}}]"))
        };
        assert_eq!(with("%"), "an authority that is not base64");
        assert_eq!(with("AAAA"), "no authority's certificate");
    }
}
