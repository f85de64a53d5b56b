//! Deletes what is in a namespace and says what is left.

use std::{collections::BTreeMap, time::Duration};

use client::{Client, ErrorKind, kind_of};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams},
};

use super::status::Remaining;
use crate::{
    error::message,
    resources::{Discovered, ResourceType},
};

/// One round over all resources of the namespace.
pub(super) async fn sweep(client: &Client, namespace: &str, discovered: &Discovered) -> Remaining {
    let mut remaining = Remaining { undiscovered: discovered.stale.clone(), ..Remaining::default() };
    let deletable = |found: &&ResourceType| found.namespaced && found.allows(&["list", "delete"]);
    let (pods, others): (Vec<&ResourceType>, Vec<&ResourceType>) =
        discovered.types.iter().filter(deletable).partition(|found| found.name() == "pods");
    for resource in pods {
        empty(client, namespace, resource, &mut remaining).await;
    }
    if !remaining.is_empty() {
        return remaining;
    }
    for resource in others {
        empty(client, namespace, resource, &mut remaining).await;
    }
    remaining
}

async fn empty(client: &Client, namespace: &str, resource: &ResourceType, remaining: &mut Remaining) {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource.resource);
    if let Err(error) = try_empty(&api, resource, remaining).await {
        match kind_of(&error) {
            // Discovery promised what is not there (any more): then nothing of it is left either.
            ErrorKind::NotFound => {}
            _ if matches!(&error, kube::Error::Api(status) if status.code == 405) => {}
            _ => remaining.failures.push(format!("{}: {}", resource.name(), message(&error))),
        }
    }
}

async fn try_empty(
    api: &Api<DynamicObject>,
    resource: &ResourceType,
    remaining: &mut Remaining,
) -> Result<(), kube::Error> {
    let params = ListParams::default();
    let found = api.list_metadata(&params).await?.items;
    if found.is_empty() {
        return Ok(());
    }
    let background = DeleteParams::background();
    if resource.allows(&["deletecollection"]) {
        api.delete_collection(&background, &params).await?;
    } else {
        for object in &found {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            match api.delete(name, &background).await {
                Err(error) if kind_of(&error) != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    let left = api.list_metadata(&params).await?.items;
    let mut finalizers: BTreeMap<String, usize> = BTreeMap::new();
    let mut grace = 0;
    for object in &left {
        for finalizer in object.metadata.finalizers.iter().flatten() {
            *finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        grace = grace.max(object.metadata.deletion_grace_period_seconds.unwrap_or(0));
    }
    if !left.is_empty() {
        remaining.resources.insert(resource.name(), left.len());
    }
    for (finalizer, count) in finalizers {
        *remaining.finalizers.entry(finalizer).or_default() += count;
    }
    remaining.grace = remaining.grace.max(Duration::from_secs(u64::try_from(grace).unwrap_or(0)));
    Ok(())
}
