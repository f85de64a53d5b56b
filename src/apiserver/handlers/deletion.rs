//! What a delete does to an object: upstream's `BeforeDelete` and its finalizers for garbage collection.
#![deny(clippy::disallowed_methods)]

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::metadata::{self, FOREGROUND, ORPHAN};
use crate::{
    registry::{DeleteOptions, Deletion, Propagation, Resource},
    status::{ApiError, GroupResource},
};

#[derive(Debug, PartialEq)]
pub(crate) enum Plan {
    /// Nothing holds it; this is its last state.
    Remove(Value),
    /// It stays, marked.
    Mark(Value),
    /// It is being deleted already, and not later than asked for.
    Pending,
}

pub(crate) fn plan(
    row: &Resource,
    object: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Plan, ApiError> {
    check_preconditions(row, object, options)?;
    let mut marked = object.clone();
    let graceful = match gracefully(row, &mut marked, options, now) {
        Grace::Pending => return Ok(Plan::Pending),
        Grace::None => false,
        Grace::Seconds(seconds) => seconds > 0,
    };
    let before_removal = marked.clone();
    let finalizers = collector_finalizers(row, &marked, options);
    metadata::set_finalizers(&mut marked, finalizers);
    let held = !metadata::finalizers(&marked).is_empty() || row.strategy.held(&marked);
    if !graceful && !held {
        return Ok(Plan::Remove(before_removal));
    }
    if !graceful {
        mark_now(row, &mut marked, now);
    }
    if !metadata::is_being_deleted(object) {
        row.strategy.prepare_deletion(&mut marked);
    }
    Ok(Plan::Mark(marked))
}

fn check_preconditions(row: &Resource, object: &Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let kind = GroupResource::new(row.group.as_ref(), row.kind.as_ref());
    let name = metadata::text(object, "name");
    let (uid, version) = (metadata::text(object, "uid"), metadata::text(object, "resourceVersion"));
    if let Some(wanted) = options.precondition_uid.as_deref().filter(|wanted| *wanted != uid) {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict(&kind, name, &why));
    }
    let wanted = options.precondition_resource_version.as_deref();
    if let Some(wanted) = wanted.filter(|wanted| *wanted != version) {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        );
        return Err(ApiError::conflict(&kind, name, &why));
    }
    Ok(())
}

enum Grace {
    None,
    Pending,
    Seconds(i64),
}

/// Marks an object that may finish by itself first.
fn gracefully(row: &Resource, object: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    if metadata::is_being_deleted(object) {
        return shorten(object, options, now);
    }
    let Deletion::Graceful { seconds } = row.strategy.deletion(object, options) else { return Grace::None };
    set_deletion(object, now + SignedDuration::from_secs(seconds), seconds);
    count(object);
    Grace::Seconds(seconds)
}

/// A second delete can only shorten the grace.
fn shorten(object: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    if grace == 0 {
        return Grace::None;
    }
    let Some(mut wanted) = options.grace_period_seconds else { return Grace::Pending };
    if wanted >= grace {
        return Grace::Pending;
    }
    let marked: Timestamp = metadata::text(object, "deletionTimestamp").parse().unwrap_or(now);
    let mut at = marked - SignedDuration::from_secs(grace) + SignedDuration::from_secs(wanted);
    if at < now {
        at = now;
        wanted = wanted.min(1); // the whole grace has passed, but whoever runs it still says when it is gone
    }
    set_deletion(object, at, wanted);
    Grace::Seconds(wanted)
}

fn set_deletion(object: &mut Value, at: Timestamp, grace: i64) {
    let metadata = metadata::metadata_mut(object);
    metadata.insert("deletionTimestamp".into(), metadata::time_text(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn count(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    if generation > 0 {
        metadata::metadata_mut(object).insert("generation".into(), (generation + 1).into());
    }
}

/// Marks an object that only finalizers keep.
fn mark_now(row: &Resource, object: &mut Value, now: Timestamp) {
    if !metadata::is_being_deleted(object) {
        count(object);
    }
    let marked: Option<Timestamp> = metadata::text(object, "deletionTimestamp").parse().ok();
    let at = marked.filter(|marked| *marked <= now).unwrap_or(now);
    if row.strategy.held(object) {
        metadata::metadata_mut(object).insert("deletionTimestamp".into(), metadata::time_text(at).into());
    } else {
        set_deletion(object, at, 0);
    }
}

/// The finalizers with those of the garbage collector as the options want them.
fn collector_finalizers(row: &Resource, object: &Value, options: &DeleteOptions) -> Vec<String> {
    let existing = metadata::finalizers(object);
    let has = |finalizer: &str| existing.iter().any(|f| f == finalizer);
    let (orphan, foreground) = match options.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None if has(ORPHAN) || has(FOREGROUND) => (has(ORPHAN), has(FOREGROUND)),
        None => (row.strategy.orphans_by_default(), false),
    };
    let mut finalizers: Vec<String> =
        existing.iter().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    finalizers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::registry::{Plain, Strategy};

    struct Graceful;
    impl Strategy for Graceful {
        fn deletion(&self, _object: &Value, options: &DeleteOptions) -> Deletion {
            Deletion::Graceful { seconds: options.grace_period_seconds.unwrap_or(30) }
        }
    }

    const NOW: &str = "2026-01-01T00:00:00Z";

    fn run(strategy: Arc<dyn Strategy>, object: &Value, options: &DeleteOptions) -> Plan {
        let row = Resource::namespaced("", "v1", "Pod", "pods", strategy);
        plan(&row, object, options, NOW.parse().unwrap()).unwrap()
    }

    fn marked(plan: Plan) -> Value {
        match plan {
            Plan::Mark(object) => object["metadata"].clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_nothing_holds_is_removed() {
        let object = json!({"metadata": {"name": "a"}});
        assert_eq!(run(Arc::new(Plain), &object, &DeleteOptions::default()), Plan::Remove(object));
    }

    #[test]
    fn a_finalizer_keeps_the_object_marked() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["x/y"], "generation": 2}});
        assert_eq!(
            marked(run(Arc::new(Plain), &object, &DeleteOptions::default())),
            json!({"name": "a", "finalizers": ["x/y"], "generation": 3, "deletionTimestamp": NOW, "deletionGracePeriodSeconds": 0})
        );
    }

    #[test]
    fn propagation_becomes_a_finalizer_of_the_garbage_collector() {
        let object = json!({"metadata": {"name": "a", "finalizers": ["orphan"]}});
        let with = |propagation| DeleteOptions { propagation, ..DeleteOptions::default() };
        let plan = run(Arc::new(Plain), &object, &with(Some(Propagation::Foreground)));
        assert_eq!(marked(plan)["finalizers"], json!(["foregroundDeletion"]));
        assert!(matches!(
            run(Arc::new(Plain), &object, &with(Some(Propagation::Background))),
            Plan::Remove(_)
        ));
        assert_eq!(marked(run(Arc::new(Plain), &object, &with(None)))["finalizers"], json!(["orphan"]));
    }

    #[test]
    fn grace_is_given_once_and_can_only_shrink() {
        let object = json!({"metadata": {"name": "a"}});
        let first = run(Arc::new(Graceful), &object, &DeleteOptions::default());
        let metadata = marked(first);
        assert_eq!(metadata["deletionTimestamp"], "2026-01-01T00:00:30Z");
        let object = json!({ "metadata": metadata });
        assert_eq!(run(Arc::new(Graceful), &object, &DeleteOptions::default()), Plan::Pending);
        let grace =
            |seconds| DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() };
        assert_eq!(run(Arc::new(Graceful), &object, &grace(60)), Plan::Pending);
        assert_eq!(
            marked(run(Arc::new(Graceful), &object, &grace(5)))["deletionTimestamp"],
            "2026-01-01T00:00:05Z"
        );
        assert!(matches!(run(Arc::new(Graceful), &object, &grace(0)), Plan::Remove(_)));
    }

    #[test]
    fn a_precondition_that_does_not_hold_is_a_conflict() {
        let row = Resource::namespaced("", "v1", "Pod", "pods", Arc::new(Plain));
        let options = DeleteOptions { precondition_uid: Some("other".into()), ..DeleteOptions::default() };
        let object = json!({"metadata": {"name": "a", "uid": "u"}});
        let error = plan(&row, &object, &options, NOW.parse().unwrap()).unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on Pod \"a\": the UID in the precondition (other) does not match the UID in record (u). The object might have been deleted and then recreated"
        );
    }
}
