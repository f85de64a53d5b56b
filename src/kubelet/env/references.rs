//! The ConfigMaps and Secrets that a pod refers to: what its node may read, and watches.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use crate::pods;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    ConfigMap,
    Secret,
}

impl ObjectKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        }
    }

    /// As the API's own errors name the resource.
    pub fn singular(self) -> &'static str {
        match self {
            ObjectKind::ConfigMap => "configmap",
            ObjectKind::Secret => "secret",
        }
    }
}

/// One object of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub kind: ObjectKind,
    pub name: String,
}

impl Reference {
    pub fn config_map(name: &str) -> Reference {
        Reference { kind: ObjectKind::ConfigMap, name: name.into() }
    }

    pub fn secret(name: &str) -> Reference {
        Reference { kind: ObjectKind::Secret, name: name.into() }
    }
}

/// All that the pod's volumes and containers refer to. Names that are empty refer to nothing.
pub fn of_pod(pod: &Pod) -> BTreeSet<Reference> {
    let mut all: BTreeSet<Reference> = pods::all_containers(pod).flat_map(of_container).collect();
    all.extend(pods::ephemeral_containers(pod).flat_map(|container| of_container(&container)));
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    all.extend(volumes.flat_map(of_volume));
    all
}

pub fn of_container(container: &Container) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    for from in container.env_from.iter().flatten() {
        all.extend(from.config_map_ref.iter().map(|it| Reference::config_map(&it.name)));
        all.extend(from.secret_ref.iter().map(|it| Reference::secret(&it.name)));
    }
    for from in container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
        all.extend(from.config_map_key_ref.iter().map(|it| Reference::config_map(&it.name)));
        all.extend(from.secret_key_ref.iter().map(|it| Reference::secret(&it.name)));
    }
    all.retain(|it| !it.name.is_empty());
    all
}

pub fn of_volume(volume: &Volume) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    all.extend(volume.config_map.iter().map(|it| Reference::config_map(&it.name)));
    all.extend(volume.secret.iter().filter_map(|it| it.secret_name.as_deref().map(Reference::secret)));
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        all.extend(source.config_map.iter().map(|it| Reference::config_map(&it.name)));
        all.extend(source.secret.iter().map(|it| Reference::secret(&it.name)));
    }
    all.retain(|it| !it.name.is_empty());
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_place_that_may_refer_to_an_object_is_looked_at_once() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": {
            "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c1"}}]}],
            "ephemeralContainers": [{"name": "e", "envFrom": [{"configMapRef": {"name": "c5"}}]}],
            "containers": [{"name": "c", "env": [
                {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
            ]}],
            "volumes": [
                {"name": "v1", "configMap": {"name": "c3"}}, {"name": "v2", "secret": {"secretName": "s2"}},
                {"name": "v3", "projected": {"sources": [{"configMap": {"name": "c4"}}, {"secret": {"name": "s3"}}]}},
                {"name": "v4", "emptyDir": {}},
            ],
        }}))
        .unwrap();
        let named = |kind| {
            of_pod(&pod).into_iter().filter(|it| it.kind == kind).map(|it| it.name).collect::<Vec<_>>()
        };
        assert_eq!(named(ObjectKind::ConfigMap), ["c1", "c2", "c3", "c4", "c5"]);
        assert_eq!(named(ObjectKind::Secret), ["s1", "s2", "s3"]);
    }
}
