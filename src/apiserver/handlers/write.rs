//! create, update and patch.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::{
    call::{Api, Call},
    metadata,
    options::WriteOptions,
    patch::Patch,
    prepare, respond,
};
use crate::{
    body::Body,
    registry::Precondition,
    status::{ApiError, Reason},
    transaction::{Change, Outcome},
};

/// How often another generated name is tried.
const NAME_TRIES: usize = 8;

pub(crate) async fn create(api: &Api, call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "CreateOptions")?;
    let mut warnings = Vec::new();
    let mut object = call.decode(&body, options.field_validation, &mut warnings)?;
    call.to_storage(&mut object);
    metadata::ensure_namespace(&call.row, call.namespace(), &mut object)?;
    if !matches!(metadata::text(&object, "resourceVersion"), "" | "0") {
        let message = "resourceVersion should not be set on objects to be created";
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, message));
    }
    let generates = metadata::text(&object, "name").is_empty();
    for attempt in 1.. {
        let mut said = Vec::new();
        let ready = prepare::create(api, call, object.clone(), options.dry_run, &mut said)?;
        match insert(api, call, ready, options.dry_run).await {
            Err(error) if generates && error.reason == Reason::AlreadyExists && attempt < NAME_TRIES => {}
            Err(error) if generates && error.reason == Reason::AlreadyExists => {
                let name = error.details.map(|details| details.name).unwrap_or_default();
                return Err(ApiError::generate_name_conflict(&call.row.group_resource(), &name));
            }
            Err(error) => return Err(error),
            Ok(outcome) => {
                warnings.append(&mut said);
                let response = respond::object(call, StatusCode::CREATED, &outcome.stored().bytes)?;
                return Ok(respond::warn(response, &warnings));
            }
        }
    }
    Err(ApiError::internal("no attempt was made"))
}

async fn insert(api: &Api, call: &Call, object: Value, dry_run: bool) -> Result<Outcome, ApiError> {
    let name = metadata::text(&object, "name").to_string();
    let what = call.row.group_resource();
    let precondition = Precondition { dry_run, ..Precondition::default() };
    let mut change = |old: Option<&Value>| match old {
        Some(_) => Err(ApiError::already_exists(&what, &name)),
        None => Ok(Change::Put(object.clone())),
    };
    api.writer.write(&call.row, call.namespace(), &name, &precondition, &mut change).await
}

pub(crate) async fn update(api: &Api, call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "UpdateOptions")?;
    let mut warnings = Vec::new();
    let mut object = call.decode(&body, options.field_validation, &mut warnings)?;
    check_name(call, &object)?;
    metadata::ensure_namespace(&call.row, call.namespace(), &mut object)?;
    call.to_storage(&mut object);
    let uid = metadata::text(&object, "uid");
    let uid = (!uid.is_empty()).then(|| uid.to_string());
    let precondition = Precondition { uid, dry_run: options.dry_run, ..Precondition::default() };
    let mut said = Vec::new();
    let mut change = |old: Option<&Value>| {
        said.clear();
        match old {
            Some(old) => prepare::update(api, call, object.clone(), old, options.dry_run, &mut said),
            None if call.row.strategy.creates_on_update() && call.info.subresource.is_empty() => {
                let mut object = object.clone();
                metadata::metadata_mut(&mut object).remove("resourceVersion");
                prepare::create(api, call, object, options.dry_run, &mut said).map(Change::Put)
            }
            None => Err(ApiError::not_found(&call.row.group_resource(), &call.info.name)),
        }
    };
    let written =
        api.writer.write(&call.row, call.namespace(), &call.info.name, &precondition, &mut change).await?;
    warnings.append(&mut said);
    answer(call, &written, &warnings)
}

pub(crate) async fn patch(api: &Api, call: &Call, body: Bytes) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::read(&call.info.query, "PatchOptions")?;
    let patch = Patch::read(&call.headers, &body, options.field_validation)?;
    let precondition = Precondition { dry_run: options.dry_run, ..Precondition::default() };
    let mut said = Vec::new();
    let mut change = |old: Option<&Value>| {
        said.clear();
        let Some(old) = old else {
            return Err(ApiError::not_found(&call.row.group_resource(), &call.info.name));
        };
        let mut new = old.clone();
        call.to_served(&mut new);
        let patched = patch.apply(&call.expected(), new)?;
        let patched = call.expected().conform_patched(patched, &patch, options.field_validation)?;
        said.extend(patched.warnings);
        let mut new = patched.value;
        metadata::drop_server_side(&mut new);
        check_name(call, &new)?;
        call.to_storage(&mut new);
        prepare::update(api, call, new, old, options.dry_run, &mut said)
    };
    let written =
        api.writer.write(&call.row, call.namespace(), &call.info.name, &precondition, &mut change).await?;
    said.extend(patch.warnings());
    answer(call, &written, &said)
}

fn answer(call: &Call, written: &Outcome, warnings: &[String]) -> Result<Response<Body>, ApiError> {
    let code = if matches!(written, Outcome::Created(_)) { StatusCode::CREATED } else { StatusCode::OK };
    let response = respond::object(call, code, &written.stored().bytes)?;
    Ok(respond::warn(response, warnings))
}

/// The object in a PUT is the one that the path names.
fn check_name(call: &Call, object: &Value) -> Result<(), ApiError> {
    let name = metadata::text(object, "name");
    if name.is_empty() {
        let message = format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            call.info.name
        );
        return Err(ApiError::bad_request(message));
    }
    if name != call.info.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.info.name
        );
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}
