//! The options of requests, from their query (or a DeleteOptions body).
#![deny(clippy::disallowed_methods)]

use api::schema::FieldValidation;
use http::StatusCode;
use serde_json::Value;

use crate::{
    registry::{DeleteOptions, Propagation},
    request::Query,
    status::{ApiError, FieldError, GroupKind, Reason},
};

/// `metav1.CreateOptions`, `UpdateOptions`, `PatchOptions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_validation: FieldValidation,
}

/// `metav1.ListOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListOptions {
    pub(crate) labels: Option<String>,
    pub(crate) fields: Option<String>,
    pub(crate) resource_version: Version,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
    pub(crate) timeout_secs: Option<u64>,
}

/// A `resourceVersion` parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Version {
    #[default]
    Unset,
    /// `0`: any.
    Any,
    At(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Exact,
    NotOlderThan,
}

impl WriteOptions {
    /// `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`.
    pub(crate) fn read(query: &Query, kind: &str) -> Result<Self, ApiError> {
        let mut errors = Vec::new();
        let dry_run = read_dry_run(query.all("dryRun").map(str::to_string).collect(), &mut errors);
        let validation = query.get("fieldValidation").unwrap_or_default();
        let field_validation = FieldValidation::parse(validation).unwrap_or_else(|| {
            let allowed = ["", "Ignore", "Strict", "Warn"];
            errors.push(FieldError::not_supported("fieldValidation", validation, &allowed));
            FieldValidation::Warn
        });
        if query.get("fieldManager").is_some_and(|manager| manager.len() > 128) {
            errors.push(FieldError::too_long("fieldManager", 128));
        }
        refuse(kind, &errors)?;
        Ok(Self { dry_run, field_validation })
    }
}

fn read_dry_run(values: Vec<String>, errors: &mut Vec<FieldError>) -> bool {
    if values.iter().any(|value| value != "All") {
        errors.push(FieldError::not_supported("dryRun", Value::from(values.clone()), &["All"]));
    }
    !values.is_empty()
}

fn refuse(kind: &str, errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors))
}

impl ListOptions {
    pub(crate) fn read(query: &Query, watch: bool) -> Result<Self, ApiError> {
        let text = |key: &str| query.get(key).filter(|value| !value.is_empty()).map(ToString::to_string);
        let mut errors = Vec::new();
        let version = read_version(query.get("resourceVersion"));
        let resource_version = version.map_err(|error| match watch {
            true => error,
            false => ApiError::bad_request(format!("invalid resource version: {}", error.message)),
        })?;
        let options = Self {
            labels: text("labelSelector"),
            fields: text("fieldSelector"),
            resource_version,
            version_match: read_match(query.get("resourceVersionMatch"), watch, &mut errors),
            limit: usize::try_from(read_number(query, "limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: text("continue"),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events: query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents")),
            timeout_secs: read_number(query, "timeoutSeconds")?.and_then(|n| u64::try_from(n).ok()),
        };
        let given = query.get("resourceVersionMatch").is_some_and(|value| !value.is_empty());
        if watch {
            options.check_watch(given, &mut errors)
        } else {
            options.check_list(given, &mut errors)
        }
        refuse("ListOptions", &errors)?;
        Ok(options)
    }

    fn check_list(&self, match_given: bool, errors: &mut Vec<FieldError>) {
        let field = "resourceVersionMatch";
        if match_given && self.resource_version == Version::Unset {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.insert(0, FieldError::forbidden(field, why));
        }
        if match_given && self.continue_token.is_some() {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if self.version_match == Some(VersionMatch::Exact) && self.resource_version == Version::Any {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(field, why));
        }
        if self.send_initial_events.is_some() {
            errors
                .push(FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
        }
    }

    fn check_watch(&self, match_given: bool, errors: &mut Vec<FieldError>) {
        let field = "resourceVersionMatch";
        if self.send_initial_events.is_some() && self.version_match != Some(VersionMatch::NotOlderThan) {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.insert(0, FieldError::forbidden(field, why));
        }
        if match_given && self.send_initial_events.is_none() {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(field, why));
        }
        if self.version_match == Some(VersionMatch::Exact) {
            errors.push(FieldError::not_supported(field, "Exact", &["NotOlderThan"]));
        }
        if match_given && self.continue_token.is_some() {
            errors.push(FieldError::forbidden(
                field,
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
    }
}

fn read_match(text: Option<&str>, watch: bool, errors: &mut Vec<FieldError>) -> Option<VersionMatch> {
    match text {
        None | Some("") => None,
        Some("Exact") => Some(VersionMatch::Exact),
        Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
        Some(other) => {
            let allowed: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
            errors.push(FieldError::not_supported("resourceVersionMatch", other, allowed));
            None
        }
    }
}

/// A `resourceVersion` parameter.
pub(crate) fn read_version(text: Option<&str>) -> Result<Version, ApiError> {
    match text {
        None | Some("") => Ok(Version::Unset),
        Some("0") => Ok(Version::Any),
        Some(text) => text.parse().map(Version::At).map_err(|_| {
            let quoted = crate::status::quote(text);
            let message = format!(
                "resourceVersion: Invalid value: {quoted}: strconv.ParseUint: parsing {quoted}: invalid syntax"
            );
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, message)
        }),
    }
}

fn read_number(query: &Query, key: &str) -> Result<Option<i64>, ApiError> {
    let Some(text) = query.get(key).filter(|text| !text.is_empty()) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let message = format!("strconv.ParseInt: parsing {}: invalid syntax", crate::status::quote(text));
        ApiError::new(StatusCode::BAD_REQUEST, Reason::BadRequest, message)
    })
}

/// From the body if there is one, else from the query.
pub(crate) fn delete_options(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
    let mut errors = Vec::new();
    let from_body = body.is_object();
    let (grace, policy, orphan, dry_run) = if from_body {
        let list = body["dryRun"].as_array().into_iter().flatten();
        (
            body["gracePeriodSeconds"].as_i64(),
            body["propagationPolicy"].as_str().map(ToString::to_string),
            body["orphanDependents"].as_bool(),
            list.filter_map(Value::as_str).map(ToString::to_string).collect(),
        )
    } else {
        (
            read_number(query, "gracePeriodSeconds")?,
            query.get("propagationPolicy").map(ToString::to_string),
            query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
            query.all("dryRun").map(ToString::to_string).collect(),
        )
    };
    if orphan.is_some()
        && let Some(policy) = &policy
    {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", policy.as_str(), why));
    }
    let propagation = match policy.as_deref() {
        None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            let allowed = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", other, &allowed));
            None
        }
    };
    let dry_run = read_dry_run(dry_run, &mut errors);
    refuse("DeleteOptions", &errors)?;
    let precondition = |key: &str| body["preconditions"][key].as_str().map(ToString::to_string);
    Ok(DeleteOptions {
        grace_period_seconds: grace.map(|seconds| if seconds < 0 { 1 } else { seconds }),
        precondition_uid: precondition("uid"),
        precondition_resource_version: precondition("resourceVersion"),
        propagation,
        dry_run,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_options_are_refused_in_upstreams_words() {
        let error =
            WriteOptions::read(&Query::parse("dryRun=x&fieldValidation=y"), "CreateOptions").unwrap_err();
        assert_eq!(
            error.message,
            "CreateOptions.meta.k8s.io \"\" is invalid: [dryRun: Unsupported value: [\"x\"]: supported values: \"All\", fieldValidation: Unsupported value: \"y\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"]"
        );
    }

    #[test]
    fn list_options_that_contradict_each_other_are_refused() {
        for (query, watch, message) in [
            (
                "resourceVersionMatch=Exact",
                false,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersionMatch=Exact&resourceVersion=0",
                false,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
            ),
            (
                "sendInitialEvents=true",
                true,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ),
            (
                "resourceVersionMatch=NotOlderThan&resourceVersion=1",
                true,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ] {
            assert_eq!(ListOptions::read(&Query::parse(query), watch).unwrap_err().message, message);
        }
    }

    #[test]
    fn delete_options_come_from_the_body_or_the_query() {
        let body = json!({"gracePeriodSeconds": -5, "propagationPolicy": "Foreground", "preconditions": {"uid": "u"}});
        let options = delete_options(&Query::default(), &body).unwrap();
        assert_eq!(options.grace_period_seconds, Some(1));
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!(options.precondition_uid.as_deref(), Some("u"));
        let options = delete_options(&Query::parse("gracePeriodSeconds=0&dryRun=All"), &Value::Null).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry_run), (Some(0), true));
    }
}
