//! Gets a machine its first certificate.

use std::time::Duration;

use client::{ErrorKind, kind_of};
use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::Api;
use pki::{Issued, Profile};

use crate::{
    discovery::Discovered,
    pending::Pending,
    request::{Ask, RequestError, obtain},
    trust::is_alive,
};

/// A person may have to approve it.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    #[error(
        "a node named {name:?} lives in this cluster already; choose another name (--node-name), or stop that machine and \
         wait until `kubectl get node {name}` says NotReady"
    )]
    Taken { name: String },
    #[error("read the node {name}")]
    Node {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(
        "the token may not ask for certificates; on a control plane of upstream's, `kubeadm init phase bootstrap-token` \
         makes the bindings that it needs"
    )]
    Forbidden(#[source] RequestError),
    #[error("this machine gets no certificate")]
    Request(#[source] RequestError),
}

/// A client certificate for the node `name`, with the key that is `pending`: what waits for somebody's approval, of which
/// `told` hears the name, is found again by the next time.
///
/// # Errors
/// When the name is a living node's, or no certificate is given.
pub async fn enroll(
    cluster: &Discovered,
    name: &str,
    expiration_seconds: Option<i32>,
    pending: &Pending,
    told: impl Fn(&str),
) -> Result<Issued, EnrollError> {
    if lives(cluster, name).await? {
        return Err(EnrollError::Taken { name: name.to_owned() });
    }
    let ask = Ask {
        profile: Profile::KubeletClient { node: name.to_owned() },
        prefix: "node-csr-",
        expiration_seconds,
        patience: Some(PATIENCE),
        pending: pending.clone(),
    };
    obtain(&cluster.client, &ask, told).await.map_err(|error| match error.kind() {
        Some(ErrorKind::Forbidden) => EnrollError::Forbidden(error),
        _ => EnrollError::Request(error),
    })
}

/// Whether somebody uses the name. What the token may not read does not stand in the way.
async fn lives(cluster: &Discovered, name: &str) -> Result<bool, EnrollError> {
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = match nodes.get(name).await {
        Ok(node) => node,
        Err(error) if matches!(kind_of(&error), ErrorKind::NotFound | ErrorKind::Forbidden) => {
            return Ok(false);
        }
        Err(source) => return Err(EnrollError::Node { name: name.to_owned(), source: Box::new(source) }),
    };
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = leases.get(name).await.ok();
    Ok(is_alive(&node, lease.as_ref(), Timestamp::now()))
}
