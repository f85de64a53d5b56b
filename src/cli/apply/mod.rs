//! `coracle apply -f FILE`: creates or updates the objects of a manifest, for machines without kubectl.
//!
//! Each object is created, or patched by a JSON merge patch (RFC 7386) where it exists: what the manifest
//! does not name stays. With `--wait`, Deployments become available before the command ends.

mod documents;

use std::{path::Path, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, TypeMeta},
    discovery::{Scope, pinned_kind},
};
use tokio::time::Instant;

use crate::CommandError;
use documents::documents;

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// As kubectl names it: `deployment.apps/demo`.
    pub what: String,
    pub change: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Configured,
    Unchanged,
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let change = match self.change {
            Change::Created => "created",
            Change::Configured => "configured",
            Change::Unchanged => "unchanged",
        };
        write!(f, "{} {change}", self.what)
    }
}

/// Applies every document of `file`, in its order; the first refusal ends it.
///
/// # Errors
/// When the file is no manifest, or the API server refuses an object.
pub async fn apply(
    client: &Client,
    file: &Path,
    mut told: impl FnMut(&Applied),
) -> Result<Vec<DynamicObject>, CommandError> {
    let name = file.display().to_string();
    let text =
        std::fs::read_to_string(file).map_err(|source| CommandError::Read { file: name.clone(), source })?;
    let mut objects = Vec::new();
    for (index, object) in documents(&text).enumerate() {
        let wrong =
            |reason: String| CommandError::Manifest { file: name.clone(), document: index + 1, reason };
        let object = object.map_err(wrong)?;
        let (object, applied) = apply_one(client, object).await?;
        told(&applied);
        objects.push(object);
    }
    Ok(objects)
}

async fn apply_one(client: &Client, object: DynamicObject) -> Result<(DynamicObject, Applied), CommandError> {
    let types = object.types.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let gvk = GroupVersionKind::try_from(&types)
        .map_err(|_| CommandError::BadReference { text: format!("{}/{}", types.api_version, types.kind) })?;
    let (resource, capabilities) = pinned_kind(client, &gvk).await.map_err(|error| match error {
        kube::Error::Discovery(_) => no_kind(&types),
        kube::Error::Api(status) if status.code == 404 => no_kind(&types),
        error => CommandError::api(format!("discover {}", types.kind))(error),
    })?;
    let api =
        api(client, &resource, capabilities.scope == Scope::Namespaced, object.metadata.namespace.as_deref());
    let what = format!("{}/{name}", full_kind(&resource));
    let before = api.get_opt(&name).await.map_err(CommandError::api(format!("get {what}")))?;
    let Some(before) = before else {
        let made = api
            .create(&PostParams::default(), &object)
            .await
            .map_err(CommandError::api(format!("create {what}")))?;
        return Ok((made, Applied { what, change: Change::Created }));
    };
    let patched = api
        .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
        .await
        .map_err(CommandError::api(format!("patch {what}")))?;
    let same = patched.metadata.resource_version == before.metadata.resource_version;
    let change = if same { Change::Unchanged } else { Change::Configured };
    Ok((patched, Applied { what, change }))
}

fn no_kind(types: &TypeMeta) -> CommandError {
    CommandError::NoKind { kind: types.kind.clone(), api_version: types.api_version.clone() }
}

fn api(
    client: &Client,
    resource: &ApiResource,
    namespaced: bool,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    if namespaced {
        Api::namespaced_with(client.clone(), namespace.unwrap_or("default"), resource)
    } else {
        Api::all_with(client.clone(), resource)
    }
}

/// `deployment.apps`, `service`.
fn full_kind(resource: &ApiResource) -> String {
    let kind = resource.kind.to_lowercase();
    if resource.group.is_empty() { kind } else { format!("{kind}.{}", resource.group) }
}

/// Waits until each Deployment among `objects` has all its replicas available.
///
/// # Errors
/// The state of the one that did not, when `deadline` passed.
pub async fn wait_available(
    client: &Client,
    objects: &[DynamicObject],
    deadline: Duration,
) -> Result<(), CommandError> {
    let until = Instant::now() + deadline;
    for object in objects.iter().filter(|o| o.types.as_ref().is_some_and(|t| t.kind == "Deployment")) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let api: Api<Deployment> =
            Api::namespaced(client.clone(), object.metadata.namespace.as_deref().unwrap_or("default"));
        loop {
            let deployment =
                api.get(&name).await.map_err(CommandError::api(format!("get deployment {name}")))?;
            let (available, wanted) = replicas(&deployment);
            if available >= wanted {
                break;
            }
            if Instant::now() >= until {
                return Err(CommandError::Timeout {
                    what: format!("deployment {name}"),
                    after: deadline,
                    state: format!(
                        "{available} of {wanted} replicas are available; `coracle status` says why"
                    ),
                });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

/// Available and wanted replicas; none available while the status is of an older spec.
fn replicas(deployment: &Deployment) -> (i32, i32) {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let current = status.observed_generation.unwrap_or(0) >= deployment.metadata.generation.unwrap_or(0);
    (
        if current {
            status.updated_replicas.unwrap_or(0).min(status.available_replicas.unwrap_or(0))
        } else {
            0
        },
        wanted,
    )
}

/// Where the Services among `objects` can be reached over HTTP from this machine.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn addresses(client: &Client, objects: &[DynamicObject]) -> Result<Vec<String>, CommandError> {
    let nodes: Api<v1::Node> = Api::all(client.clone());
    let nodes =
        nodes.list(&kube::api::ListParams::default()).await.map_err(CommandError::api("list nodes"))?.items;
    let node_ip = nodes.iter().find_map(|node| {
        node.status
            .as_ref()?
            .addresses
            .iter()
            .flatten()
            .find(|a| a.type_ == "InternalIP")
            .map(|a| a.address.clone())
    });
    let mut found = Vec::new();
    for object in objects.iter().filter(|o| o.types.as_ref().is_some_and(|t| t.kind == "Service")) {
        let spec: v1::ServiceSpec = serde_json::from_value(object.data["spec"].clone()).unwrap_or_default();
        let Some(cluster_ip) = spec.cluster_ip.filter(|ip| ip != "None") else { continue };
        for port in spec.ports.into_iter().flatten() {
            found.push(format!("http://{cluster_ip}:{}/", port.port));
            if let (Some(node_port), Some(ip)) = (port.node_port, &node_ip) {
                found.push(format!("http://{ip}:{node_port}/"));
            }
        }
    }
    Ok(found)
}
