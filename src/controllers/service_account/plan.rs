//! What a namespace lacks.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

pub(super) const ACCOUNT: &str = "default";
pub(super) const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";

/// Nothing can be created in a namespace that is going.
pub(super) fn takes_objects(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}

pub(super) fn account(namespace: &str) -> ServiceAccount {
    ServiceAccount { metadata: meta(namespace, ACCOUNT), ..ServiceAccount::default() }
}

#[derive(Debug, PartialEq)]
pub(super) enum Write {
    Create(Box<ConfigMap>),
    Update(Box<ConfigMap>),
}

/// None if `current` holds `ca` already.
pub(super) fn root_ca(namespace: &str, ca: &str, current: Option<&ConfigMap>) -> Option<Write> {
    let data = Some(BTreeMap::from([(CA_KEY.to_string(), ca.to_string())]));
    match current {
        None => Some(Write::Create(Box::new(ConfigMap {
            metadata: ObjectMeta {
                annotations: Some(BTreeMap::from([(
                    "kubernetes.io/description".to_string(),
                    "The certificate authority of the cluster's API server, for clients inside the cluster."
                        .to_string(),
                )])),
                ..meta(namespace, ROOT_CA)
            },
            data,
            ..ConfigMap::default()
        }))),
        Some(current) if current.data == data => None,
        Some(current) => Some(Write::Update(Box::new(ConfigMap { data, ..current.clone() }))),
    }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.into()), namespace: Some(namespace.into()), ..ObjectMeta::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_ca_is_made_mended_and_then_left_alone() {
        let Some(Write::Create(made)) = root_ca("ns", "CA", None) else { panic!("creates") };
        assert_eq!(root_ca("ns", "CA", Some(&made)), None);
        let Some(Write::Update(mended)) = root_ca("ns", "CA2", Some(&made)) else { panic!("updates") };
        assert_eq!(mended.data.unwrap()[CA_KEY], "CA2");
    }

    #[test]
    fn a_namespace_that_is_going_takes_nothing() {
        let namespace: Namespace =
            serde_json::from_value(serde_json::json!({"status": {"phase": "Terminating"}})).unwrap();
        assert!(!takes_objects(&namespace));
        assert!(takes_objects(&Namespace::default()));
    }
}
