//! delete and deletecollection.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{
    call::{Api, Call, success},
    decode,
    deletion::{self, Plan},
    metadata,
    options::{self, ListOptions},
    read, respond,
};
use crate::{
    admission::Operation,
    body::Body,
    registry::{DeleteOptions, Precondition, Resource},
    status::{ApiError, Reason},
    transaction::{Change, Outcome},
};

pub(crate) async fn delete(api: &Api, call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let options = read_options(call, &body)?;
    match remove(api, call, &call.info.name, &options).await? {
        Deleted::Object(outcome) => respond::object(call, StatusCode::OK, &outcome.stored().bytes),
        Deleted::Status(status) => Ok(respond::value(StatusCode::OK, call.wanted, &status)),
    }
}

pub(crate) async fn delete_collection(
    api: &Api,
    call: &Call,
    body: Bytes,
) -> Result<Response<Body>, ApiError> {
    let options = read_options(call, &body)?;
    let list = ListOptions::read(&call.info.query, false)?;
    let selection = read::selection(call, &list)?;
    let revision = api.cache.caught_up().await?;
    let selected = call.cache(api)?.list(&selection, None, list.limit).entries;
    let mut items = Vec::with_capacity(selected.len());
    for entry in selected {
        match remove_in(api, call, (&entry.header.namespace, &entry.header.name), &options).await {
            Ok(Deleted::Object(outcome)) => items.push(outcome.into_stored().value),
            Ok(Deleted::Status(_)) => items.push(entry.value().map_err(ApiError::internal)?),
            Err(error) if error.reason == Reason::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    items.iter_mut().for_each(|item| call.to_served(item));
    let list = json!({
        "kind": format!("{}List", call.row.kind), "apiVersion": call.version().api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    });
    Ok(respond::value(StatusCode::OK, call.wanted, &list))
}

fn read_options(call: &Call, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    if body.is_empty() {
        return options::delete_options(&call.info.query, &Value::Null);
    }
    options::delete_options(&call.info.query, &decode::delete_options(&call.headers, body)?)
}

/// What a delete answers.
pub(crate) enum Deleted {
    Object(Outcome),
    Status(Value),
}

async fn remove(api: &Api, call: &Call, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    remove_in(api, call, (call.namespace(), name), options).await
}

async fn remove_in(
    api: &Api,
    call: &Call,
    (namespace, name): (&str, &str),
    options: &DeleteOptions,
) -> Result<Deleted, ApiError> {
    let admit = |old: &Value| {
        let mut attributes = call.attributes(Operation::Delete, Value::Null, Some(old), options.dry_run);
        attributes.namespace = namespace.to_string();
        attributes.name = name.to_string();
        attributes.delete_options = Some(options.clone());
        api.mutate(&mut attributes)?;
        api.validate(&attributes)
    };
    delete_object(api, &call.row, (namespace, name), options, call.now, &admit).await
}

/// Deletes one object as its row, its finalizers and the options want it.
pub(crate) async fn delete_object(
    api: &Api,
    row: &Resource,
    (namespace, name): (&str, &str),
    options: &DeleteOptions,
    now: jiff::Timestamp,
    admit: &(dyn Fn(&Value) -> Result<(), ApiError> + Sync),
) -> Result<Deleted, ApiError> {
    let what = row.group_resource();
    let mut pending = false;
    let mut change = |old: Option<&Value>| {
        let old = old.ok_or_else(|| ApiError::not_found(&what, name))?;
        admit(old)?;
        let plan = deletion::plan(row, old, options, now)?;
        pending = plan == Plan::Pending;
        Ok(match plan {
            Plan::Remove(last) => Change::Remove(last),
            Plan::Mark(marked) => Change::Put(marked),
            Plan::Pending => Change::Keep,
        })
    };
    let precondition = Precondition { dry_run: options.dry_run, ..Precondition::default() };
    let outcome = api.writer.write(row, namespace, name, &precondition, &mut change).await?;
    let gone = matches!(outcome, Outcome::Removed(_)) || pending;
    if gone && !returns_deleted(row) {
        let uid = metadata::text(&outcome.stored().value, "uid");
        return Ok(Deleted::Status(success(&what, name, uid)));
    }
    Ok(Deleted::Object(outcome))
}

/// Upstream's kinds with `ReturnDeletedObject`.
fn returns_deleted(row: &Resource) -> bool {
    if let Some(decided) = row.strategy.returns_deleted() {
        return decided;
    }
    match row.group.as_ref() {
        "" => matches!(
            row.plural.as_ref(),
            "namespaces"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "podtemplates"
                | "resourcequotas"
                | "serviceaccounts"
                | "services"
        ),
        "storage.k8s.io" => row.plural != "csistoragecapacities",
        "resource.k8s.io" => true,
        _ => false,
    }
}
