//! What every write goes through between its bytes and the store: defaults, mutating admission, the strategy's
//! preparation and validation, validating admission.

use http::StatusCode;
use serde_json::{Value, json};

use super::{
    call::{Api, Call},
    metadata,
};
use crate::{
    admission::Operation,
    registry::{How, Strategy},
    status::{ApiError, FieldError, GroupKind, OPTIMISTIC_LOCK, Reason, quote},
    transaction::Change,
};

/// Which part of an object an update is for, and whose rules hold.
pub(crate) enum Part<'a> {
    Whole(&'a dyn Strategy),
    Status(&'a dyn Strategy),
    /// A subresource with rules of its own, which decides about everything itself.
    Own(&'a dyn Strategy),
}

fn part(call: &Call) -> Part<'_> {
    match call.row.subresource(&call.info.subresource).map(|sub| &sub.how) {
        Some(How::Status) => Part::Status(call.row.strategy.as_ref()),
        Some(How::Part(strategy)) => Part::Own(strategy.as_ref()),
        _ => Part::Whole(call.row.strategy.as_ref()),
    }
}

/// A new object (in the storage version), ready to be stored under `name`.
pub(crate) fn create(
    api: &Api,
    call: &Call,
    object: Value,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let strategy = &call.row.strategy;
    let mut object = object;
    strategy.defaults(&mut object);
    let mut attributes = call.attributes(Operation::Create, object, None, dry_run);
    attributes.name = metadata::text(&attributes.object, "name").to_string();
    api.mutate(&mut attributes)?;
    let mut object = std::mem::take(&mut attributes.object);
    metadata::ensure_namespace(&call.row, call.namespace(), &mut object)?;
    if metadata::text(&object, "name").is_empty() {
        let base = metadata::text(&object, "generateName").to_string();
        if !base.is_empty() {
            let name = metadata::generated_name(&base, uuid::Uuid::new_v4().as_u128());
            metadata::metadata_mut(&mut object).insert("name".into(), name.into());
        }
    }
    let uid = uuid::Uuid::new_v4().to_string();
    metadata::begin_create(&call.row, &mut object, uid, call.now);
    if call.row.has_status()
        && !strategy.keeps_status_on_create()
        && let Some(members) = object.as_object_mut()
    {
        members.insert("status".into(), json!({}));
    }
    strategy.prepare_create(&mut object);
    strategy.stamp(&mut object, None, call.now);
    let mut errors = metadata::validate_create(&call.row, &object);
    errors.extend(strategy.validate_create(&object));
    if !errors.is_empty() {
        let name = metadata::text(&object, "name");
        return Err(ApiError::invalid(&call.row.group_kind(), name, &errors));
    }
    warnings.extend(strategy.warnings(&object, None));
    attributes.name = metadata::text(&object, "name").to_string();
    attributes.object = object;
    api.validate(&attributes)?;
    warnings.append(&mut attributes.warnings);
    Ok(attributes.object)
}

/// A changed object (in the storage version, with the resourceVersion that the client knows), ready to be
/// stored in place of `old`.
pub(crate) fn update(
    api: &Api,
    call: &Call,
    new: Value,
    old: &Value,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> Result<Change, ApiError> {
    let strategy = &call.row.strategy;
    let mut new = new;
    check_version(call, &mut new, old)?;
    strategy.defaults(&mut new);
    let mut attributes = call.attributes(Operation::Update, new, Some(old), dry_run);
    api.mutate(&mut attributes)?;
    let mut new = std::mem::take(&mut attributes.object);
    metadata::ensure_namespace(&call.row, call.namespace(), &mut new)?;
    metadata::begin_update(&mut new, old);
    let errors = prepared(call, &mut new, old);
    if !errors.is_empty() {
        return Err(ApiError::invalid(&call.row.group_kind(), &call.info.name, &errors));
    }
    if let Part::Whole(strategy) | Part::Own(strategy) = part(call) {
        warnings.extend(strategy.warnings(&new, Some(old)));
    }
    attributes.object = new;
    api.validate(&attributes)?;
    warnings.append(&mut attributes.warnings);
    Ok(finished(call, attributes.object))
}

/// Makes `new` what may be stored in place of `old`, and finds the mistakes in it.
fn prepared(call: &Call, new: &mut Value, old: &Value) -> Vec<FieldError> {
    let specific = match part(call) {
        Part::Whole(strategy) => {
            if call.row.has_status() {
                take_over(new, old, "status");
            }
            strategy.prepare_update(new, old);
            strategy.stamp(new, Some(old), call.now);
            metadata::count_generation(&call.row, new, old);
            strategy.validate_update(new, old)
        }
        Part::Own(strategy) => {
            strategy.prepare_update(new, old);
            metadata::count_generation(&call.row, new, old);
            strategy.validate_update(new, old)
        }
        Part::Status(strategy) => {
            keep_desired(new, old);
            strategy.prepare_status(new, old);
            strategy.stamp(new, Some(old), call.now);
            strategy.validate_status(new, old)
        }
    };
    let mut errors = metadata::validate_update(new, old);
    errors.extend(specific);
    errors
}

/// An object that is being deleted goes with its last finalizer.
fn finished(call: &Call, new: Value) -> Change {
    let grace = new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let done = metadata::is_being_deleted(&new)
        && grace == 0
        && metadata::finalizers(&new).is_empty()
        && !call.row.strategy.held(&new);
    if done { Change::Remove(new) } else { Change::Put(new) }
}

fn check_version(call: &Call, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    let known = metadata::text(new, "resourceVersion").to_string();
    let current = metadata::text(old, "resourceVersion");
    if known.is_empty() || known == "0" {
        if !call.row.strategy.updates_unconditionally() {
            let why = "must be specified for an update";
            let error = FieldError::invalid("metadata.resourceVersion", 0, why);
            let kind = GroupKind::new(call.row.group.as_ref(), call.row.plural.as_ref());
            return Err(ApiError::invalid(&kind, &call.info.name, &[error]));
        }
        metadata::metadata_mut(new).insert("resourceVersion".into(), current.into());
        return Ok(());
    }
    if known.parse::<u64>().is_err() {
        let message = format!("strconv.ParseUint: parsing {}: invalid syntax", quote(&known));
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, message));
    }
    if known != current {
        return Err(ApiError::conflict(&call.row.group_resource(), &call.info.name, OPTIMISTIC_LOCK));
    }
    Ok(())
}

fn take_over(new: &mut Value, old: &Value, field: &str) {
    let Some(members) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => drop(members.insert(field.into(), value.clone())),
        None => drop(members.remove(field)),
    }
}

/// Everything but `status` and `metadata` is as before.
fn keep_desired(new: &mut Value, old: &Value) {
    let mut kept = old.clone();
    for field in ["metadata", "status"] {
        take_over(&mut kept, new, field);
    }
    *new = kept;
}
