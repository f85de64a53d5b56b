//! What the cluster tells a machine that is about to join, in the objects and words that kubeadm uses.
//!
//! `kube-public/cluster-info` is read by everybody: the server's address and its authority; the bootstrap signer adds a
//! signature for each token. `kubeadm-config` and `kubelet-config` are read with a token: the cluster's address ranges
//! and its DNS.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::Wanted;
use crate::status::GroupResource;

/// The cluster, as it introduces itself.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// `https://host:port`, where machines reach the API server.
    pub server: String,
    /// The authority's certificate.
    pub authority_pem: String,
    /// `v1.36.3`
    pub version: String,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    pub cluster_domain: String,
    pub cluster_dns: Vec<IpAddr>,
}

/// The objects. Signatures, and whatever else somebody has added, stay.
pub fn introduction(cluster: &Introduction) -> Vec<Wanted> {
    let wanted = |namespace: &str, name: &str, key: &str, text: String| Wanted {
        what: GroupResource::new("", "configmaps"),
        object: json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace},
            "data": {key: text},
        }),
        repair: with_data,
    };
    vec![
        wanted("kube-public", "cluster-info", "kubeconfig", kubeconfig(cluster)),
        wanted("kube-system", "kubeadm-config", "ClusterConfiguration", cluster_configuration(cluster)),
        wanted("kube-system", "kubelet-config", "kubelet", kubelet_configuration(cluster)),
    ]
}

/// A kubeconfig without users: it gives nobody any right.
fn kubeconfig(cluster: &Introduction) -> String {
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {}
    server: {}
  name: \"\"
contexts: null
current-context: \"\"
kind: Config
preferences: {{}}
users: null
",
        STANDARD.encode(&cluster.authority_pem),
        cluster.server
    )
}

fn cluster_configuration(cluster: &Introduction) -> String {
    format!(
        "apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: {}
networking:
  dnsDomain: {}
  podSubnet: {}
  serviceSubnet: {}
",
        cluster.version, cluster.cluster_domain, cluster.pod_cidr, cluster.service_cidr
    )
}

fn kubelet_configuration(cluster: &Introduction) -> String {
    let mut text = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDomain: {}
rotateCertificates: true
serverTLSBootstrap: true
",
        cluster.cluster_domain
    );
    if !cluster.cluster_dns.is_empty() {
        text.push_str("clusterDNS:\n");
        text.extend(cluster.cluster_dns.iter().map(|ip| format!("- {ip}\n")));
    }
    text
}

/// The existing map with the wanted entries; `None` if it has them.
fn with_data(existing: &Value, wanted: &Value) -> Option<Value> {
    let mut repaired = existing.clone();
    for (key, value) in wanted["data"].as_object().into_iter().flatten() {
        repaired["data"][key.as_str()] = value.clone();
    }
    (repaired != *existing).then_some(repaired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(server: &str) -> Vec<Wanted> {
        introduction(&Introduction {
            server: server.to_owned(),
            authority_pem: "CA".to_owned(),
            version: "v1.36.3".to_owned(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec!["10.96.0.10".parse().unwrap()],
        })
    }

    #[test]
    fn a_moved_server_is_written_again_and_signatures_stay() {
        let mut existing = cluster("https://192.0.2.1:6443").remove(0).object;
        existing["data"]["jws-kubeconfig-abcdef"] = json!("signature");
        let moved = cluster("https://192.0.2.2:6443").remove(0);
        let repaired = with_data(&existing, &moved.object).unwrap();
        assert_eq!(repaired["data"]["kubeconfig"], moved.object["data"]["kubeconfig"]);
        assert_eq!(repaired["data"]["jws-kubeconfig-abcdef"], "signature");
        assert_eq!(with_data(&repaired, &moved.object), None);
    }

    #[test]
    fn every_text_is_yaml_of_its_kind() {
        let kinds = cluster("https://192.0.2.1:6443").into_iter().map(|wanted| {
            let text = wanted.object["data"].as_object().unwrap().values().next().unwrap().clone();
            let read: Value = serde_saphyr::from_str(text.as_str().unwrap()).unwrap();
            read["kind"].as_str().unwrap().to_owned()
        });
        assert_eq!(kinds.collect::<Vec<_>>(), ["Config", "ClusterConfiguration", "KubeletConfiguration"]);
    }
}
