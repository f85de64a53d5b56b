//! Proves every ten seconds that the node lives.

use std::{sync::Arc, time::Duration};

use client::{LeaseHolder, LeaseName, Store};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use tracing::warn;

use crate::config::KubeletConfig;

/// Upstream renews four times in the Lease's duration, and tries a failed renewal again soon.
const PARTS: u32 = 4;
const RETRY: Duration = Duration::from_millis(500);

/// Runs until dropped.
pub async fn run(client: kube::Client, config: Arc<KubeletConfig>, node: Store<Node>) {
    let name = LeaseName { namespace: "kube-node-lease".into(), name: config.node_name.clone() };
    let seconds = i32::try_from(config.lease_duration.as_secs()).unwrap_or(40);
    let mut lease = LeaseHolder::new(client, name, &config.node_name, seconds);
    loop {
        let shown = node.get(&client::ObjectKey::cluster(&config.node_name));
        let owner = shown.as_deref().and_then(owner);
        let wait = match lease.renew(owner, Timestamp::now()).await {
            Ok(()) => config.lease_duration / PARTS,
            Err(error) => {
                warn!(
                    node = config.node_name,
                    error = &error as &dyn std::error::Error,
                    "cannot renew the node's lease"
                );
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

fn owner(node: &Node) -> Option<OwnerReference> {
    Some(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone()?,
        uid: node.metadata.uid.clone()?,
        ..OwnerReference::default()
    })
}
