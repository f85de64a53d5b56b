//! The resolv.conf of a pod.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::Pod;

use crate::{config::KubeletConfig, pods, runtime::Dns};

/// What upstream lets through (libc's limits, and its own for searches).
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// `of_host` is the text of the node's resolv.conf. True beside it: the pod asked for the cluster's DNS, and there
/// is none.
pub fn dns(pod: &Pod, config: &KubeletConfig, of_host: &str) -> (Dns, bool) {
    let host = parse(of_host);
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let wants_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pods::is_host_network(pod),
        _ => false,
    };
    let missing = wants_cluster && config.cluster_dns.is_empty();
    let mut dns = match policy {
        "None" => Dns::default(),
        _ if wants_cluster && !missing => Dns {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: cluster_searches(pod, config, host.searches),
            options: vec!["ndots:5".into()],
        },
        _ if config.resolv_conf.is_none() => {
            Dns { servers: vec!["127.0.0.1".into()], searches: vec![".".into()], options: host.options }
        }
        _ => host,
    };
    if let Some(own) = &spec.dns_config {
        dns.servers = joined(dns.servers, own.nameservers.iter().flatten());
        dns.searches = joined(dns.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            dns.options.retain(|it| it.split(':').next() != Some(&name));
            dns.options.push(match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name,
            });
        }
    }
    dns.servers.truncate(MAX_SERVERS);
    dns.searches.truncate(MAX_SEARCHES);
    while dns.searches.join(" ").len() > MAX_SEARCH_CHARS {
        dns.searches.pop();
    }
    (dns, missing)
}

fn cluster_searches(pod: &Pod, config: &KubeletConfig, of_host: Vec<String>) -> Vec<String> {
    let domain = &config.cluster_domain;
    if domain.is_empty() {
        return of_host;
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let ours = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    joined(ours, of_host.iter())
}

fn joined<'a>(mut list: Vec<String>, more: impl Iterator<Item = &'a String>) -> Vec<String> {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    list
}

/// As libc reads it: the last `search` wins, options add up.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(String::from)),
            Some("search") => dns.searches = words.map(|it| trimmed(it).to_string()).collect(),
            Some("options") => {
                dns.options = joined(dns.options, words.map(String::from).collect::<Vec<_>>().iter())
            }
            _ => {}
        }
    }
    dns
}

fn trimmed(domain: &str) -> &str {
    if domain == "." { domain } else { domain.trim_end_matches('.') }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(spec: serde_json::Value, servers: &[&str], searches: &[&str], options: &[&str]) {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}))
                .unwrap();
        let mut config = KubeletConfig::new("n");
        config.cluster_dns = vec!["10.96.0.10".parse().unwrap()];
        let (dns, missing) = dns(&pod, &config, "nameserver 9.9.9.9\nsearch example.org.\noptions edns0\n");
        assert_eq!(
            (dns.servers, dns.searches, dns.options),
            (strings(servers), strings(searches), strings(options))
        );
        assert!(!missing);
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_policy_chooses_between_the_cluster_the_host_and_nothing() {
        let cluster = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"];
        check(json!({"containers": []}), &["10.96.0.10"], &cluster, &["ndots:5"]);
        check(json!({"containers": [], "hostNetwork": true}), &["9.9.9.9"], &["example.org"], &["edns0"]);
        check(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
            &["10.96.0.10"],
            &cluster,
            &["ndots:5"],
        );
        check(json!({"containers": [], "dnsPolicy": "Default"}), &["9.9.9.9"], &["example.org"], &["edns0"]);
        check(
            json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
                "nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}]
            }}),
            &["1.1.1.1"],
            &["a.b"],
            &["ndots:2", "rotate"],
        );
    }
}
