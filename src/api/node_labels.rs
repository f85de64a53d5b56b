//! Which labels a node may give itself (KEP-279, `NodeRestriction`): none that would draw pods to it.
#![deny(clippy::disallowed_methods)]

/// Administrators isolate nodes by labels of this domain, so no node sets one.
const RESTRICTED: &str = "node-restriction.kubernetes.io";
/// Labels of Kubernetes' own domains that a node may set on itself.
const ALLOWED: [&str; 16] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "kubernetes.io/instance-type",
];
const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

/// Labels outside Kubernetes' own domains are anybody's.
pub fn may_set_itself(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within =
        |parent: &str| domain.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if within(RESTRICTED) {
        return false;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    !kubernetes || ALLOWED.contains(&label) || ALLOWED_DOMAINS.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::may_set_itself;

    #[test]
    fn a_node_labels_itself_outside_kubernetes_domains_and_where_these_allow_it() {
        for label in [
            "disk",
            "example.com/zone",
            "notkubernetes.io/a",
            "topology.kubernetes.io/zone",
            "a.node.kubernetes.io/x",
        ] {
            assert!(may_set_itself(label), "{label}");
        }
        for label in [
            "node-role.kubernetes.io/worker",
            "kubernetes.io/x",
            "k8s.io/x",
            "a.node-restriction.kubernetes.io/x",
        ] {
            assert!(!may_set_itself(label), "{label}");
        }
    }
}
