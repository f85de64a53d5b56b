//! References between objects: owners, controllers, and what an event is about.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::{
    Resource,
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

/// The owner that controls this object, of which there is at most one.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object of this UID controls it.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

/// The reference by which `owner` controls what it makes; its deletion in the foreground waits for them.
pub fn controller_reference<K: Resource>(owner: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.into(),
        kind: K::KIND.into(),
        name: owner.name.clone().unwrap_or_default(),
        uid: owner.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an event about this object names.
pub fn object_reference<K: Resource>(meta: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::API_VERSION.into()),
        kind: Some(K::KIND.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};

    use super::*;

    #[test]
    fn only_a_controller_controls() {
        let owner = ObjectMeta { name: Some("rs".into()), uid: Some("u1".into()), ..ObjectMeta::default() };
        let controller = controller_reference::<ReplicaSet>(&owner);
        assert_eq!((controller.api_version.as_str(), controller.kind.as_str()), ("apps/v1", "ReplicaSet"));
        let plain = OwnerReference { uid: "u2".into(), controller: None, ..controller.clone() };
        let meta = ObjectMeta { owner_references: Some(vec![plain, controller]), ..ObjectMeta::default() };
        assert_eq!(controller_of(&meta).map(|c| c.uid.as_str()), Some("u1"));
        assert!(is_controlled_by(&meta, "u1") && !is_controlled_by(&meta, "u2") && is_owned_by(&meta, "u2"));
        assert!(controller_of(&ObjectMeta::default()).is_none());
    }

    #[test]
    fn an_event_names_the_object_and_its_version() {
        let meta = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("b".into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        };
        let reference = object_reference::<Pod>(&meta);
        assert_eq!(reference.kind.as_deref(), Some("Pod"));
        assert_eq!(reference.resource_version.as_deref(), Some("7"));
    }
}
