//! ServiceAccount: every pod runs as an account of its namespace and finds that account's token.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Attributes, Operation, Plugin, Reader, is_mirror};
use crate::registry::strategy::fill;
use crate::status::{ApiError, GroupResource};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME: &str = "kube-api-access";
/// An hour, and seven seconds by which upstream tells such tokens from those that a pod asked for itself.
const TOKEN_SECS: i64 = 3607;

#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        operation == Operation::Create
            && *resource == GroupResource::new("", "pods")
            && subresource.is_empty()
    }

    fn mutate(&self, attributes: &mut Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        if is_mirror(&attributes.object) || !attributes.object["spec"].is_object() {
            return Ok(());
        }
        let spec = &mut attributes.object["spec"];
        fill::fill(spec, "serviceAccountName", "default");
        // The old name of the field.
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
        let account = account(attributes, reader)?;
        let spec = &mut attributes.object["spec"];
        if wants_token(spec, &account) {
            mount_token(spec, &volume_name(Uuid::new_v4().as_u128()));
        }
        let none = spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty);
        if none && account["imagePullSecrets"].as_array().is_some_and(|secrets| !secrets.is_empty()) {
            spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
        }
        Ok(())
    }

    fn validate(&self, attributes: &Attributes, reader: &dyn Reader) -> Result<(), ApiError> {
        if is_mirror(&attributes.object) {
            return mirror(attributes);
        }
        account(attributes, reader).map(|_account| ())
    }
}

fn account(attributes: &Attributes, reader: &dyn Reader) -> Result<std::sync::Arc<Value>, ApiError> {
    let accounts = GroupResource::new("", "serviceaccounts");
    let namespace = attributes.namespace.as_str();
    let name = attributes.object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    reader.get(&accounts, namespace, name).ok_or_else(|| {
        let missing = format!("serviceaccount {} not found", api::quote(name));
        attributes.forbidden(&format!("error looking up service account {namespace}/{name}: {missing}"))
    })
}

/// A name that no other volume of the pod has: five characters that spell no words.
fn volume_name(random: u128) -> String {
    const CHARS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let count = CHARS.len() as u128;
    let suffix = (0..5).scan(random, |rest, _| {
        let at = usize::try_from(*rest % count).unwrap_or(0);
        *rest /= count;
        Some(char::from(CHARS[at]))
    });
    format!("{VOLUME}-{}", suffix.collect::<String>())
}

/// The pod decides, then the account; nobody having said anything, there is a token.
fn wants_token(spec: &Value, account: &Value) -> bool {
    let said = |object: &Value| object["automountServiceAccountToken"].as_bool();
    said(spec).or_else(|| said(account)).unwrap_or(true)
}

/// Mounts the token in every container that has nothing at its place. A pod that brings such a volume keeps it.
fn mount_token(spec: &mut Value, new_volume: &str) {
    let own = spec["volumes"].as_array().into_iter().flatten().find_map(|volume| {
        let name = volume["name"].as_str()?;
        name.starts_with("kube-api-access-").then(|| name.to_owned())
    });
    let name = own.clone().unwrap_or_else(|| new_volume.to_owned());
    let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH});
    let mut mounted = false;
    for list in ["initContainers", "containers"] {
        fill::each(spec, list, |container| {
            let taken = container["volumeMounts"]
                .as_array()
                .is_some_and(|mounts| mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH));
            if !taken && container.is_object() {
                mounted = true;
                append(container, "volumeMounts", mount.clone());
            }
        });
    }
    if own.is_none() && mounted {
        append(spec, "volumes", token_volume(&name));
    }
}

fn append(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(items) => items.push(item),
        None => object[field] = json!([item]),
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{
            "path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
        }]}},
    ]}})
}

/// A pod that a node runs on its own has no identity in the cluster.
fn mirror(attributes: &Attributes) -> Result<(), ApiError> {
    let spec = &attributes.object["spec"];
    if spec["serviceAccountName"].as_str().is_some_and(|name| !name.is_empty()) {
        return Err(attributes.forbidden("a mirror pod may not reference service accounts"));
    }
    let references = super::references(spec);
    if references.contains(&"secrets") {
        return Err(attributes.forbidden("a mirror pod may not reference secrets"));
    }
    if references.contains(&"serviceaccounts") {
        return Err(attributes.forbidden("a mirror pod may not use ServiceAccountToken volume projections"));
    }
    Ok(())
}
