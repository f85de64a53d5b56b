//! Writes slices as planned.

use client::{Client, ErrorKind, ObjectKey, kind_of};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};

use super::slicing::Plan;
use crate::{
    error::{During, PassError},
    ledger::Ledger,
};

/// Creations before deletions, so that no endpoint is without a slice in between. All are tried; the
/// first failure is told.
pub(crate) async fn apply(
    client: &Client,
    key: &ObjectKey,
    plan: Plan,
    ledger: &Ledger<ObjectKey>,
) -> Result<(), PassError> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), key.namespace());
    let mut first = Ok(());
    for slice in &plan.create {
        match api.create(&PostParams::default(), slice).await {
            Ok(answer) => ledger.wrote(key, &answer.metadata),
            Err(error) if kind_of(&error) == ErrorKind::NamespaceTerminating => return Ok(()),
            Err(error) => first = first.and(Err(error).during("create endpoint slice for", key)),
        }
    }
    for slice in &plan.update {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        match api.replace(name, &PostParams::default(), slice).await {
            Ok(answer) => ledger.wrote(key, &answer.metadata),
            Err(error) => first = first.and(Err(error).during("update endpoint slice", name)),
        }
    }
    for slice in &plan.delete {
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        let uid = slice.metadata.uid.clone();
        let only = Preconditions { uid: uid.clone(), resource_version: None };
        match api.delete(name, &DeleteParams::default().preconditions(only)).await {
            Ok(_) => ledger.deleted(key, uid.as_deref().unwrap_or_default()),
            Err(error) if kind_of(&error) == ErrorKind::NotFound => {}
            Err(error) => first = first.and(Err(error).during("delete endpoint slice", name)),
        }
    }
    first
}
