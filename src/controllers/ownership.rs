//! Which objects belong to a controller: by controller reference, and by selector for those that have none.

use api::{references::controller_of, selector::Selector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{During, PassError};

/// What to do about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Ours,
    /// Nobody controls it and it matches: take it.
    Adopt,
    /// Ours, but it matches no more: let it go.
    Release,
    Ignore,
}

/// Decides; pure.
pub(crate) fn claim(owner: &ObjectMeta, selector: &Selector, object: &ObjectMeta) -> Claim {
    let matches = selector.matches(&object.labels);
    match controller_of(object) {
        Some(reference) if Some(&reference.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Ours,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.deletion_timestamp.is_some() || !matches => Claim::Ignore,
        None if object.deletion_timestamp.is_some() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// Makes `object` ours. `uid` guards against a successor of the same name.
pub(crate) async fn adopt<K>(
    api: &Api<K>,
    object: &ObjectMeta,
    owner: &OwnerReference,
) -> Result<(), PassError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {"ownerReferences": [owner], "uid": object.uid}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.during("adopt", name)?;
    Ok(())
}

/// The cache may not show yet that the owner is going; what it adopted then would be lost.
pub(crate) async fn check_alive<K>(api: &Api<K>, owner: &ObjectMeta, noun: &str) -> Result<(), PassError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = owner.name.as_deref().unwrap_or_default();
    let fresh = api.get(name).await.during("read", name)?;
    let fresh = fresh.meta();
    if fresh.uid != owner.uid || fresh.deletion_timestamp.is_some() {
        return Err(PassError::Replaced { what: format!("{noun} {name}") });
    }
    Ok(())
}

/// Removes our reference and leaves the others.
pub(crate) async fn release<K>(api: &Api<K>, object: &ObjectMeta, owner_uid: &str) -> Result<(), PassError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let name = object.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {
        "ownerReferences": [{"$patch": "delete", "uid": owner_uid}], "uid": object.uid}});
    match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        // Gone, or not ours any more: what we wanted.
        Err(error) => match client::kind_of(&error) {
            client::ErrorKind::NotFound | client::ErrorKind::Invalid => Ok(()),
            _ => Err(error).during("release", name),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(label: &str, controller: Option<&str>) -> ObjectMeta {
        let reference = |uid: &str| OwnerReference {
            uid: uid.into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        ObjectMeta {
            labels: Some([("app".to_string(), label.to_string())].into()),
            owner_references: controller.map(|uid| vec![reference(uid)]),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn objects_are_claimed_by_reference_first_and_by_selector_second() {
        let selector = Selector::of_set(&std::collections::BTreeMap::from([("app".into(), "web".into())]));
        let owner = ObjectMeta { uid: Some("me".into()), ..ObjectMeta::default() };
        let going =
            ObjectMeta { deletion_timestamp: Some(jiff_time()), uid: Some("me".into()), ..owner.clone() };
        let cases = [
            (&owner, meta("web", Some("me")), Claim::Ours),
            (&owner, meta("db", Some("me")), Claim::Release),
            (&owner, meta("web", Some("other")), Claim::Ignore),
            (&owner, meta("web", None), Claim::Adopt),
            (&owner, meta("db", None), Claim::Ignore),
            (
                &owner,
                ObjectMeta { deletion_timestamp: Some(jiff_time()), ..meta("web", None) },
                Claim::Ignore,
            ),
            (&going, meta("web", Some("me")), Claim::Ours),
            (&going, meta("db", Some("me")), Claim::Ignore),
            (&going, meta("web", None), Claim::Ignore),
        ];
        for (owner, object, expected) in cases {
            assert_eq!(claim(owner, &selector, &object), expected, "{object:?}");
        }
    }

    fn jiff_time() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH)
    }
}
