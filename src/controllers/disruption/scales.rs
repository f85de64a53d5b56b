//! How many pods the owners of pods want.
//!
//! ReplicaSets, Deployments and ReplicationControllers are in the cache; any other kind is asked by its `scale`
//! subresource, as is what the cache does not have yet.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use api::{int_or_string::NotAPercentage, references::controller_of, selector::SelectorObjectError};
use client::{Client, ErrorKind, ObjectKey, Store, kind_of};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::{Pod, ReplicationController},
    },
    apimachinery::pkg::apis::meta::v1::{APIResource, OwnerReference},
};
use kube::{
    Api,
    api::DynamicObject,
    core::{ApiResource, GroupVersion},
};

use crate::error::message;

/// Why a budget cannot be computed: what its condition says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the selector is not valid: {0}")]
    Selector(SelectorObjectError),
    #[error("{0}")]
    Number(NotAPercentage),
    #[error("the controller of pod {pod:?}, {kind} {name:?}, was not found")]
    NoController { pod: String, kind: String, name: String },
    #[error("{resource} has no scale subresource")]
    NoScale { resource: String },
    #[error("kind {kind} of {api_version} is not known")]
    NoKind { api_version: String, kind: String },
    #[error("{verb} {what}: {}", message(.cause))]
    Api { verb: &'static str, what: String, cause: Box<kube::Error> },
}

/// Who may say how many pods are wanted.
pub(super) struct Scales {
    client: Client,
    pub(super) sets: Store<ReplicaSet>,
    pub(super) deployments: Store<Deployment>,
    pub(super) controllers: Store<ReplicationController>,
    /// By apiVersion and kind, those that have a scale. What was not found is asked for again.
    kinds: Mutex<HashMap<(String, String), ApiResource>>,
}

/// The pods' controllers, each once and with one of its pods; and how many pods have none.
pub(super) fn owners(pods: &[Arc<Pod>]) -> (Vec<(&OwnerReference, &Pod)>, usize) {
    let mut owners = BTreeMap::new();
    let mut unmanaged = 0;
    for pod in pods {
        match controller_of(&pod.metadata) {
            Some(owner) => drop(owners.entry(owner.uid.as_str()).or_insert((owner, &**pod))),
            None => unmanaged += 1,
        }
    }
    (owners.into_values().collect(), unmanaged)
}

impl Scales {
    pub(super) fn new(client: Client, cache: &client::Cache) -> Self {
        Self {
            client,
            sets: cache.store(),
            deployments: cache.store(),
            controllers: cache.store(),
            kinds: Mutex::default(),
        }
    }

    pub(super) async fn ready(&self) {
        self.sets.wait_synced().await;
        self.deployments.wait_synced().await;
        self.controllers.wait_synced().await;
    }

    /// What all of `owners` want together. A Deployment counts once, by whichever of its ReplicaSets it is met.
    pub(super) async fn sum(
        &self,
        namespace: &str,
        owners: &[(&OwnerReference, &Pod)],
    ) -> Result<i32, Failure> {
        let mut wanted: HashMap<String, i32> = HashMap::new();
        for (owner, pod) in owners {
            let scale = match self.cached(namespace, owner) {
                Some(scale) => Some(scale),
                None => self.ask(namespace, owner).await?,
            };
            let Some((uid, replicas)) = scale else {
                let pod = pod.metadata.name.clone().unwrap_or_default();
                return Err(Failure::NoController {
                    pod,
                    kind: owner.kind.clone(),
                    name: owner.name.clone(),
                });
            };
            wanted.insert(uid, replicas);
        }
        Ok(wanted.into_values().fold(0, i32::saturating_add))
    }

    /// UID and size of the owner, or of the Deployment that owns it.
    fn cached(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let key = |name: &str| ObjectKey::namespaced(namespace, name);
        match (group(&owner.api_version), owner.kind.as_str()) {
            ("", "ReplicationController") => {
                let found = self.controllers.get(&key(&owner.name))?;
                let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
                of(owner, found.metadata.uid.as_deref(), replicas)
            }
            ("apps" | "extensions", "ReplicaSet") => {
                let set = self.sets.get(&key(&owner.name))?;
                let above = controller_of(&set.metadata)
                    .filter(|above| above.kind == "Deployment" && is_of_apps(&above.api_version));
                let deployment = above.and_then(|above| self.deployments.get(&key(&above.name)));
                of_set(owner, &set, deployment.as_deref())
            }
            _ => None,
        }
    }

    /// By the scale subresource. None: there is no such object (any more).
    async fn ask(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, Failure> {
        let resource = self.resource(owner).await?;
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) => {
                let replicas = scale.spec.as_ref().map_or(0, |spec| spec.replicas.unwrap_or(0));
                Ok(of(owner, scale.metadata.uid.as_deref(), Some(replicas)))
            }
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Ok(None),
            Err(cause) => {
                let what = format!("{} {namespace}/{}", resource.plural, owner.name);
                Err(Failure::Api { verb: "read the scale of", what, cause: Box::new(cause) })
            }
        }
    }

    async fn resource(&self, owner: &OwnerReference) -> Result<ApiResource, Failure> {
        let name = (owner.api_version.clone(), owner.kind.clone());
        if let Some(resource) = self.kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(resource.clone());
        }
        let listed = if owner.api_version.contains('/') {
            self.client.list_api_group_resources(&owner.api_version).await
        } else {
            self.client.list_core_api_resources(&owner.api_version).await
        };
        let resources = match listed {
            Ok(list) => list.resources,
            Err(error) if kind_of(&error) == ErrorKind::NotFound => Vec::new(),
            Err(cause) => {
                let what = owner.api_version.clone();
                return Err(Failure::Api { verb: "discover", what, cause: Box::new(cause) });
            }
        };
        let resource = find(owner, &resources)?;
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(name, resource.clone());
        Ok(resource)
    }
}

/// The owner's kind among the resources of its version; it must have a scale.
fn find(owner: &OwnerReference, resources: &[APIResource]) -> Result<ApiResource, Failure> {
    let of_kind =
        resources.iter().find(|resource| resource.kind == owner.kind && !resource.name.contains('/'));
    let (Some(found), Ok(version)) = (of_kind, owner.api_version.parse::<GroupVersion>()) else {
        let (api_version, kind) = (owner.api_version.clone(), owner.kind.clone());
        return Err(Failure::NoKind { api_version, kind });
    };
    let scale = format!("{}/scale", found.name);
    if !resources.iter().any(|resource| resource.name == scale && resource.kind == "Scale") {
        let group = &version.group;
        let resource = if group.is_empty() { found.name.clone() } else { format!("{}.{group}", found.name) };
        return Err(Failure::NoScale { resource });
    }
    Ok(ApiResource {
        group: version.group,
        version: version.version,
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        plural: found.name.clone(),
    })
}

/// A successor of the same name is not the owner.
fn of(owner: &OwnerReference, uid: Option<&str>, replicas: Option<i32>) -> Option<(String, i32)> {
    (uid == Some(owner.uid.as_str())).then(|| (owner.uid.clone(), replicas.unwrap_or(1)))
}

/// `deployment`: of the name that controls `set`, if a Deployment does.
fn of_set(
    owner: &OwnerReference,
    set: &ReplicaSet,
    deployment: Option<&Deployment>,
) -> Option<(String, i32)> {
    let own = of(owner, set.metadata.uid.as_deref(), set.spec.as_ref().and_then(|spec| spec.replicas))?;
    let above = controller_of(&set.metadata).zip(deployment).and_then(|(above, deployment)| {
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        of(above, deployment.metadata.uid.as_deref(), replicas)
    });
    Some(above.unwrap_or(own))
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn is_of_apps(api_version: &str) -> bool {
    matches!(group(api_version), "apps" | "extensions")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reference(api_version: &str, kind: &str, uid: &str) -> OwnerReference {
        let owner =
            json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": uid, "controller": true});
        serde_json::from_value(owner).unwrap()
    }

    fn pod(name: &str, owner: Option<&str>) -> Arc<Pod> {
        let owners: Vec<_> = owner.iter().map(|uid| reference("apps/v1", "ReplicaSet", uid)).collect();
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owners}})).unwrap(),
        )
    }

    fn set(replicas: Option<i32>, owner: Option<&str>) -> ReplicaSet {
        let owners: Vec<_> = owner.iter().map(|uid| reference("apps/v1", "Deployment", uid)).collect();
        serde_json::from_value(json!({"metadata": {"name": "o", "uid": "s", "ownerReferences": owners},
            "spec": {"replicas": replicas, "selector": {}}}))
        .unwrap()
    }

    #[test]
    fn owners_are_met_once_and_pods_without_one_are_counted() {
        let pods = [pod("a", Some("1")), pod("b", None), pod("c", Some("2")), pod("d", Some("1"))];
        let (owners, unmanaged) = owners(&pods);
        let met: Vec<_> =
            owners.iter().map(|(owner, pod)| (owner.uid.as_str(), pod.metadata.name.as_deref())).collect();
        assert_eq!((met, unmanaged), (vec![("1", Some("a")), ("2", Some("c"))], 1));
    }

    #[test]
    fn a_deployment_speaks_for_its_set_and_a_stranger_does_not() {
        let owner = reference("apps/v1", "ReplicaSet", "s");
        let deployment: Deployment = serde_json::from_value(json!({"metadata": {"name": "o", "uid": "d"},
            "spec": {"replicas": 7, "selector": {}, "template": {}}}))
        .unwrap();
        let own = Some(("s".to_string(), 3));
        assert_eq!(of_set(&owner, &set(Some(3), Some("d")), Some(&deployment)), Some(("d".into(), 7)));
        assert_eq!(of_set(&owner, &set(Some(3), Some("other")), Some(&deployment)), own);
        assert_eq!(of_set(&owner, &set(Some(3), Some("d")), None), own);
        assert_eq!(of_set(&owner, &set(None, None), None), Some(("s".into(), 1)));
        assert_eq!(of_set(&reference("apps/v1", "ReplicaSet", "old"), &set(Some(3), None), None), None);
    }

    #[test]
    fn a_kind_is_known_by_discovery_and_needs_a_scale() {
        let resource = |name: &str, kind: &str| -> Value {
            json!({"name": name, "kind": kind, "namespaced": true, "singularName": "", "verbs": []})
        };
        let listed: Vec<APIResource> = serde_json::from_value(json!([
            resource("webs", "Web"),
            resource("webs/scale", "Scale"),
            resource("webs/status", "Web"),
            resource("daemons", "Daemon"),
            resource("daemons/status", "Daemon")
        ]))
        .unwrap();
        let asked = |kind: &str| find(&reference("example.com/v1", kind, "u"), &listed);
        let web = asked("Web").unwrap();
        assert_eq!((web.plural.as_str(), web.group.as_str()), ("webs", "example.com"));
        assert_eq!(asked("Daemon").unwrap_err().to_string(), "daemons.example.com has no scale subresource");
        assert_eq!(asked("Other").unwrap_err().to_string(), "kind Other of example.com/v1 is not known");
    }
}
