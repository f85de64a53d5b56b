//! What a cluster says of itself in kubeadm's two ConfigMaps: its address ranges and its DNS.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

/// What a node has to know of its cluster. What the cluster does not say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterFacts {
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    pub cluster_domain: Option<String>,
    pub cluster_dns: Vec<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClusterConfiguration {
    networking: Option<Networking>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Networking {
    dns_domain: Option<String>,
    pod_subnet: Option<String>,
    service_subnet: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KubeletConfiguration {
    #[serde(rename = "clusterDNS")]
    cluster_dns: Option<Vec<IpAddr>>,
    #[serde(rename = "clusterDomain")]
    cluster_domain: Option<String>,
}

/// The document that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the cluster's ConfigMap kube-system/{map} cannot be read: {message}")]
pub struct FactsError {
    pub map: &'static str,
    pub message: String,
}

impl ClusterFacts {
    /// From `ClusterConfiguration` of kubeadm-config and `kubelet` of kubelet-config, as far as they are there.
    pub(crate) fn read(cluster: Option<&str>, kubelet: Option<&str>) -> Result<ClusterFacts, FactsError> {
        let cluster: ClusterConfiguration = document("kubeadm-config", cluster)?;
        let kubelet: KubeletConfiguration = document("kubelet-config", kubelet)?;
        let networking = cluster.networking.unwrap_or_default();
        Ok(ClusterFacts {
            pod_cidrs: ranges("kubeadm-config", networking.pod_subnet.as_deref())?,
            service_cidrs: ranges("kubeadm-config", networking.service_subnet.as_deref())?,
            cluster_domain: kubelet.cluster_domain.or(networking.dns_domain).filter(|text| !text.is_empty()),
            cluster_dns: kubelet.cluster_dns.unwrap_or_default(),
        })
    }
}

fn document<T: Default + for<'a> Deserialize<'a>>(
    map: &'static str,
    text: Option<&str>,
) -> Result<T, FactsError> {
    let Some(text) = text else { return Ok(T::default()) };
    serde_saphyr::from_str(text).map_err(|error| FactsError { map, message: error.to_string() })
}

/// One range, or one of each family.
fn ranges(map: &'static str, text: Option<&str>) -> Result<Vec<IpNet>, FactsError> {
    let parts = text.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty());
    let read = |part: &str| {
        let net: Result<IpNet, _> = part.parse();
        net.map(|net| net.trunc())
            .map_err(|_| FactsError { map, message: format!("{part:?} is not an address range") })
    };
    parts.map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_and_dns_are_read_and_the_rest_is_left() {
        let cluster = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\napiServer: {}\n\
                       networking: {dnsDomain: c.local, podSubnet: '10.244.0.0/16,fd00::/56', serviceSubnet: 10.96.0.0/12}\n";
        let kubelet = "kind: KubeletConfiguration\nclusterDNS: [10.96.0.10]\nauthentication: {anonymous: {enabled: false}}\n";
        let facts = ClusterFacts::read(Some(cluster), Some(kubelet)).unwrap();
        assert_eq!(facts.pod_cidrs, ["10.244.0.0/16".parse().unwrap(), "fd00::/56".parse().unwrap()]);
        assert_eq!(facts.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
        assert_eq!(facts.cluster_domain.as_deref(), Some("c.local"));
        assert_eq!(facts.cluster_dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(ClusterFacts::read(None, None), Ok(ClusterFacts::default()));
    }

    #[test]
    fn a_range_that_is_none_is_named_with_its_map() {
        let told = ClusterFacts::read(Some("networking: {podSubnet: everywhere}"), None).unwrap_err();
        assert_eq!(
            told.to_string(),
            "the cluster's ConfigMap kube-system/kubeadm-config cannot be read: \"everywhere\" is not an address range"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics_the_reader(text in "[ -~\n]{0,120}") {
            drop(ClusterFacts::read(Some(&text), Some(&text)));
        }
    }
}
