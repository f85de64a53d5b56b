//! The certificates that a cluster needs, one variant each: who they name and what they may do.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr};

use crate::usages::Usages;

/// Subject alternative names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

impl Names {
    /// Sorts texts into addresses and host names.
    pub fn from_texts<S: AsRef<str>>(texts: &[S]) -> Names {
        let mut names = Names::default();
        for text in texts {
            match text.as_ref().parse() {
                Ok(ip) => names.ips.insert(ip),
                Err(_) => names.dns.insert(text.as_ref().to_owned()),
            };
        }
        names
    }

    /// What clients call the API server: inside the cluster by the `kubernetes` Service, here by localhost, and by
    /// `extra` (host name, node addresses, the first address of the service range).
    pub fn api_server<S: AsRef<str>>(cluster_domain: &str, extra: &[S]) -> Names {
        let mut names = Names::from_texts(extra);
        let service = "kubernetes.default.svc";
        names.dns.extend(["kubernetes", "kubernetes.default", service, "localhost"].map(str::to_owned));
        names.dns.insert(format!("{service}.{cluster_domain}"));
        names.ips.extend([IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]);
        names
    }
}

/// A certificate's role. File names are kubeadm's where it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What the API server shows to its clients.
    ApiServer { names: Names },
    /// What the API server shows to kubelets. Bound by RBAC to `system:kubelet-api-admin`, not a member of
    /// `system:masters`: a stolen one reaches kubelets, not the API.
    ApiServerKubeletClient,
    /// A person with every right, for the admin kubeconfig.
    Admin,
    /// A node agent as a client: `system:node:NAME` in `system:nodes`.
    KubeletClient { node: String },
    /// What a node agent shows on port 10250.
    KubeletServing { node: String, names: Names },
    /// A component in a process of its own, by its user name (`system:kube-scheduler`).
    Component { user: String },
}

impl Profile {
    /// The file's name without `.crt` and `.key`.
    pub fn file_stem(&self) -> String {
        match self {
            Profile::ApiServer { .. } => "apiserver".to_owned(),
            Profile::ApiServerKubeletClient => "apiserver-kubelet-client".to_owned(),
            Profile::Admin => "admin".to_owned(),
            Profile::KubeletClient { .. } => "kubelet-client".to_owned(),
            Profile::KubeletServing { .. } => "kubelet".to_owned(),
            Profile::Component { user } => user.replace([':', '/'], "-"),
        }
    }

    pub fn common_name(&self) -> String {
        match self {
            Profile::ApiServer { .. } => "kube-apiserver".to_owned(),
            Profile::ApiServerKubeletClient => "kube-apiserver-kubelet-client".to_owned(),
            Profile::Admin => "kubernetes-admin".to_owned(),
            Profile::KubeletClient { node } | Profile::KubeletServing { node, .. } => {
                format!("system:node:{node}")
            }
            Profile::Component { user } => user.clone(),
        }
    }

    /// The subject's organizations: for a client, its groups.
    pub fn organizations(&self) -> Vec<String> {
        match self {
            Profile::ApiServer { .. } | Profile::ApiServerKubeletClient | Profile::Component { .. } => {
                Vec::new()
            }
            Profile::Admin => vec!["system:masters".to_owned()],
            Profile::KubeletClient { .. } | Profile::KubeletServing { .. } => vec!["system:nodes".to_owned()],
        }
    }

    pub fn names(&self) -> Names {
        match self {
            Profile::ApiServer { names } | Profile::KubeletServing { names, .. } => names.clone(),
            Profile::ApiServerKubeletClient
            | Profile::Admin
            | Profile::KubeletClient { .. }
            | Profile::Component { .. } => Names::default(),
        }
    }

    pub(crate) fn usages(&self) -> Usages {
        match self {
            Profile::ApiServer { .. } | Profile::KubeletServing { .. } => Usages::server(),
            Profile::ApiServerKubeletClient
            | Profile::Admin
            | Profile::KubeletClient { .. }
            | Profile::Component { .. } => Usages::client(),
        }
    }
}
