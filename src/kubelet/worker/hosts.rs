//! A pod's hostname and its /etc/hosts.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const MAX_HOSTNAME: usize = 63;

const LOCALHOST: &str = "127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
";

/// The pod's hostname, and the domain that its subdomain gives it.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.hostname_override.filter(|name| !name.is_empty()) {
        return (name, String::new());
    }
    let name = spec.hostname.filter(|name| !name.is_empty()).or_else(|| pod.metadata.name.clone());
    let mut name = name.unwrap_or_default();
    if name.len() > MAX_HOSTNAME {
        // What is cut off may not end in what a label may not end in.
        name = name[..MAX_HOSTNAME].trim_end_matches(['-', '.']).to_string();
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let domain = match spec.subdomain.filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{namespace}.svc.{cluster_domain}"),
        None => String::new(),
    };
    (name, domain)
}

/// What the kernel is told.
pub fn kernel_hostname(pod: &Pod, cluster_domain: &str) -> String {
    let (name, domain) = hostname(pod, cluster_domain);
    let full = pod.spec.as_ref().and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    if full && !domain.is_empty() { format!("{name}.{domain}") } else { name }
}

/// `of_host` is the node's own file, for pods on the node's network.
pub fn file(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, of_host: &str) -> String {
    let mut text;
    if pods::is_host_network(pod) {
        text = format!("# Kubernetes-managed hosts file (host network).\n{of_host}");
    } else {
        let (name, domain) = hostname(pod, cluster_domain);
        text = format!("# Kubernetes-managed hosts file.\n{LOCALHOST}");
        for ip in ips {
            if domain.is_empty() {
                text += &format!("{ip}\t{name}\n");
            } else {
                text += &format!("{ip}\t{name}.{domain}\t{name}\n");
            }
        }
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    if !aliases.is_empty() {
        text += "\n# Entries added by HostAliases.\n";
        for alias in aliases {
            text += &format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_with_a_subdomain_has_its_full_name_first() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"containers": [], "subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}
        }))
        .unwrap();
        let text = file(&pod, &["10.0.0.7".parse().unwrap()], "cluster.local", "");
        assert!(text.contains("10.0.0.7\tweb-0.web.shop.svc.cluster.local\tweb-0\n"), "{text}");
        assert!(text.ends_with("\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"), "{text}");
    }

    #[test]
    fn a_long_name_is_cut_to_a_legal_label() {
        let mut pod = Pod::default();
        pod.metadata.name = Some(format!("{}-x", "a".repeat(62)));
        assert_eq!(hostname(&pod, "c").0, "a".repeat(62));
    }

    #[test]
    fn an_override_is_the_whole_name_and_has_no_domain() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "shop"},
            "spec": {"containers": [], "hostname": "x", "subdomain": "web", "hostnameOverride": "a.example.host"}
        }))
        .unwrap();
        assert_eq!(kernel_hostname(&pod, "cluster.local"), "a.example.host");
        let text = file(&pod, &["10.0.0.7".parse().unwrap()], "cluster.local", "");
        assert!(text.ends_with("\n10.0.0.7\ta.example.host\n"), "{text}");
    }
}
