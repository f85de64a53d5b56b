//! Reads a pod, its node and its events.

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{Api, Client, api::ListParams};

use super::{Subject, plan::Observed};
use crate::CommandError;

/// # Errors
/// When there is no such object, or the API server cannot be asked.
pub async fn observe(client: &Client, namespace: &str, subject: &Subject) -> Result<Observed, CommandError> {
    let Subject::Pod { name } = subject;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = pods.get_opt(name).await.map_err(CommandError::api(format!("get pod {namespace}/{name}")))?;
    let Some(pod) = pod else {
        return Err(CommandError::NotFound {
            what: format!("pod {namespace}/{name}"),
            mend: "`coracle status` lists the pods there are; -n names another namespace".to_string(),
        });
    };
    let node = match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
        Some(name) => {
            let nodes: Api<Node> = Api::all(client.clone());
            nodes.get_opt(name).await.map_err(CommandError::api(format!("get node {name}")))?
        }
        None => None,
    };
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let events = events.list(&about).await.map_err(CommandError::api("list events"))?.items;
    Ok(Observed { pod, node, events })
}
