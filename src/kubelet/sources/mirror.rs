//! Keeps the mirror pods of static pods in the API.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::merge::MirrorPlan;
use crate::pods::{PodName, PodUid, annotations};

const RETRY: Duration = Duration::from_secs(1);
/// A plan that was carried out and is still the plan: what was made is gone again, or was not seen yet.
const STILL_THE_PLAN: Duration = Duration::from_secs(10);

/// Carries out the newest plan, until nobody makes plans any more. An API that does not answer holds up nothing else.
pub async fn keep(
    client: Client,
    node: impl Fn() -> Option<Arc<Node>>,
    mut plans: watch::Receiver<MirrorPlan>,
) {
    loop {
        let plan = plans.borrow_and_update().clone();
        let wait = if plan == MirrorPlan::default() {
            None
        } else {
            let node = node();
            let ownerless = node.is_none() && !plan.create.is_empty();
            let done = !ownerless && reconcile(&client, &plan, node.as_deref()).await;
            Some(if done { STILL_THE_PLAN } else { RETRY })
        };
        let again = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

/// True when everything is as planned. Mirrors belong to their node: the API server demands it.
async fn reconcile(client: &Client, plan: &MirrorPlan, node: Option<&Node>) -> bool {
    let mut done = true;
    for (name, uid) in &plan.delete {
        let api: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
        let preconditions = Preconditions { uid: Some(uid.as_str().into()), resource_version: None };
        let params =
            DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default().grace_period(0) };
        match api.delete(&name.name, &params).await {
            Ok(_) => info!(pod = %name, "mirror pod deleted"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "cannot delete a mirror pod");
                done = false;
            }
        }
    }
    for pod in &plan.create {
        let name = PodName::of(pod);
        let api: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
        match api.create(&PostParams::default(), &mirror_of(pod, node)).await {
            Ok(_) => info!(pod = %name, "mirror pod created"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                warn!(pod = %name, error = &error as &dyn std::error::Error, "cannot create a mirror pod");
                done = false;
            }
        }
    }
    done
}

fn mirror_of(pod: &Pod, node: Option<&Node>) -> Pod {
    let mut mirror = pod.clone();
    let hash = PodUid::of(pod).as_str().to_string();
    let marks = mirror.metadata.annotations.get_or_insert_default();
    marks.insert(annotations::CONFIG_MIRROR.into(), hash);
    mirror.metadata.uid = None;
    mirror.status = None;
    mirror.metadata.owner_references = node.and_then(|node| {
        Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.metadata.name.clone()?,
            uid: node.metadata.uid.clone()?,
            controller: Some(true),
            ..OwnerReference::default()
        }])
    });
    mirror
}
