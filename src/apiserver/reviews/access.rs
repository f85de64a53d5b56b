//! May he: SubjectAccessReview and its kin, and what may I: SelfSubjectRulesReview.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::{ready, text, texts};
use crate::{
    authz::{Attributes, Authorization, Authorizer, Decision, Rules},
    registry::{Action, ActionContext, ActionRequest, Respond},
    status::{ApiError, FieldError, GroupKind},
    user::UserInfo,
};

const GROUP: &str = "authorization.k8s.io";

/// Whose rights are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// The spec names him.
    Named,
    /// The user of the request.
    Own,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Cluster,
    /// Only about resources of the request's namespace.
    Namespace,
}

pub(super) struct AccessReview {
    pub(super) authorization: Arc<Authorization>,
    pub(super) subject: Subject,
    pub(super) scope: Place,
}

impl Action for AccessReview {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        ready(self.review(&context.user, &request.info.namespace, request.object))
    }
}

impl AccessReview {
    pub(super) fn review(
        &self,
        own: &UserInfo,
        namespace: &str,
        mut object: Value,
    ) -> Result<Value, ApiError> {
        let errors = self.validate(&object);
        if !errors.is_empty() {
            let kind = text(&object, "/kind");
            return Err(ApiError::invalid(&GroupKind::new(GROUP, kind), "", &errors));
        }
        if self.scope == Place::Namespace && text(&object, "/metadata/namespace") != namespace {
            let message = format!("spec.resourceAttributes.namespace must match namespace: {namespace}");
            return Err(ApiError::bad_request(message));
        }
        let user = match self.subject {
            Subject::Own => own.clone(),
            Subject::Named => named(&object["spec"]),
        };
        let (what, problems) = attributes(&object["spec"]);
        let decision = self.authorization.authorize(&user, &what);
        object["status"] = status(&decision, &problems);
        Ok(object)
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let given = |field: &str| spec.get(field).is_some_and(Value::is_object);
        let (resource, other) = (given("resourceAttributes"), given("nonResourceAttributes"));
        let mut errors = Vec::new();
        if resource && other {
            let detail = "cannot be specified in combination with resourceAttributes";
            let value = spec["nonResourceAttributes"].clone();
            errors.push(FieldError::invalid("spec.nonResourceAttributes", value, detail));
        }
        if !resource && !other {
            let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid("spec.resourceAttributes", Value::Null, detail));
        }
        if self.subject == Subject::Named
            && text(spec, "/user").is_empty()
            && texts(spec, "/groups").is_empty()
        {
            errors.push(FieldError::invalid(
                "spec.user",
                "",
                "at least one of user or group must be specified",
            ));
        }
        for (field, at) in [("fieldSelector", "fieldSelector"), ("labelSelector", "labelSelector")] {
            errors.extend(validate_selector(&spec["resourceAttributes"][field], at));
        }
        errors.extend(self.validate_metadata(object));
        if self.scope == Place::Namespace {
            let (own, asked) =
                (text(object, "/metadata/namespace"), text(spec, "/resourceAttributes/namespace"));
            if resource && own != asked {
                let field = "spec.resourceAttributes.namespace";
                errors.push(FieldError::invalid(field, asked, "must match metadata.namespace"));
            }
            if other {
                let value = spec["nonResourceAttributes"].clone();
                let detail = "disallowed on this kind of request";
                errors.push(FieldError::invalid("spec.nonResourceAttributes", value, detail));
            }
        }
        errors
    }

    fn validate_metadata(&self, object: &Value) -> Option<FieldError> {
        let metadata = object.get("metadata")?.as_object()?;
        let local = self.scope == Place::Namespace;
        let allowed = |key: &str| key == "managedFields" || (local && key == "namespace");
        let empty = |value: &Value| value.is_null() || value.as_str() == Some("");
        let strange = metadata.iter().any(|(key, value)| !allowed(key) && !empty(value));
        let detail = if local { "must be empty except for namespace" } else { "must be empty" };
        strange.then(|| FieldError::invalid("metadata", object["metadata"].clone(), detail))
    }
}

fn validate_selector(selector: &Value, name: &str) -> Option<FieldError> {
    if !selector.is_object() {
        return None;
    }
    let raw = text(selector, "/rawSelector");
    let listed = selector["requirements"].as_array().is_some_and(|items| !items.is_empty());
    let path = format!("spec.resourceAttributes.{name}");
    match (raw.is_empty(), listed) {
        (false, true) => {
            let detail = "may not specified at the same time as requirements"; // upstream's words
            Some(FieldError::invalid(&format!("{path}.rawSelector"), raw, detail))
        }
        (true, false) => {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            Some(FieldError::required(&format!("{path}.requirements"), detail))
        }
        _ => None,
    }
}

/// The user that a spec describes. His groups are taken as they are.
fn named(spec: &Value) -> UserInfo {
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    let extra: BTreeMap<String, Vec<String>> =
        extra.map(|(key, _)| (key.to_lowercase(), texts(&spec["extra"][key], ""))).collect();
    UserInfo {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: texts(spec, "/groups"),
        extra,
    }
}

/// What is asked, and which part of it could not be understood and is left out.
pub(super) fn attributes(spec: &Value) -> (Attributes, Vec<String>) {
    if let Some(other) = spec.get("nonResourceAttributes").filter(|other| other.is_object()) {
        let (verb, path) = (text(other, "/verb").to_owned(), text(other, "/path").to_owned());
        return (Attributes { verb, path, ..Attributes::default() }, Vec::new());
    }
    let asked = &spec["resourceAttributes"];
    let part = |field: &str| text(asked, field).to_owned();
    let version = part("/version");
    let mut problems = Vec::new();
    let mut selector = |field: &str, terms: fn(&Value) -> Option<String>| {
        let selector = asked.get(field).filter(|selector| selector.is_object())?;
        let raw = text(selector, "/rawSelector");
        let read = if raw.is_empty() { terms(selector) } else { Some(raw.to_owned()) };
        let readable = read.filter(|text| is_readable(field, text));
        if readable.is_none() {
            problems.push(format!("spec.resourceAttributes.{field} ignored due to parse error"));
        }
        readable
    };
    let what = Attributes {
        verb: part("/verb"),
        is_resource: true,
        namespace: part("/namespace"),
        group: part("/group"),
        version: if version.is_empty() { "*".to_owned() } else { version },
        resource: part("/resource"),
        subresource: part("/subresource"),
        name: part("/name"),
        path: String::new(),
        field_selector: selector("fieldSelector", field_terms),
        label_selector: selector("labelSelector", label_terms),
    };
    (what, problems)
}

fn is_readable(field: &str, selector: &str) -> bool {
    if field == "fieldSelector" {
        selector.parse::<api::selector::FieldSelector>().is_ok()
    } else {
        selector.parse::<api::selector::Selector>().is_ok()
    }
}

/// Field requirements as text: `In` and `NotIn` of one value each.
fn field_terms(selector: &Value) -> Option<String> {
    let terms = selector["requirements"].as_array()?.iter().map(|requirement| {
        let (key, values) = (text(requirement, "/key"), texts(requirement, "/values"));
        match (text(requirement, "/operator"), values.as_slice()) {
            ("In", [value]) => Some(format!("{key}={}", escape(value))),
            ("NotIn", [value]) => Some(format!("{key}!={}", escape(value))),
            _ => None,
        }
    });
    Some(terms.collect::<Option<Vec<_>>>()?.join(","))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn label_terms(selector: &Value) -> Option<String> {
    let terms = selector["requirements"].as_array()?.iter().map(|requirement| {
        let (key, values) = (text(requirement, "/key"), texts(requirement, "/values").join(","));
        Some(match text(requirement, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        })
    });
    Some(terms.collect::<Option<Vec<_>>>()?.join(","))
}

fn status(decision: &Decision, problems: &[String]) -> Value {
    let (allowed, denied, reason) = match decision {
        Decision::Allow(reason) => (true, false, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
        Decision::Deny(reason) => (false, true, reason),
    };
    let mut status = Map::from_iter([("allowed".to_owned(), json!(allowed))]);
    if denied {
        status.insert("denied".into(), json!(true));
    }
    for (field, text) in [("reason", reason.clone()), ("evaluationError", problems.join("; "))] {
        if !text.is_empty() {
            status.insert(field.into(), text.into());
        }
    }
    Value::Object(status)
}

/// SelfSubjectRulesReview.
pub(super) struct RulesReview {
    pub(super) authorization: Arc<Authorization>,
}

impl Action for RulesReview {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        let namespace = text(&request.object, "/spec/namespace").to_owned();
        if namespace.is_empty() {
            return ready(Err(ApiError::bad_request("no namespace on request")));
        }
        let mut object = request.object;
        object["spec"] = json!({}); // as upstream answers
        object["status"] = rules_status(&self.authorization.rules_for(&context.user, &namespace));
        ready(Ok(object))
    }
}

pub(super) fn rules_status(held: &Rules) -> Value {
    let resources = held.rules.iter().filter(|rule| !rule.resources.is_empty());
    let others = held.rules.iter().filter(|rule| !rule.urls.is_empty());
    let mut status = json!({
        "resourceRules": resources.map(|rule| {
            let mut value = json!({"verbs": rule.verbs, "apiGroups": rule.groups, "resources": rule.resources});
            if !rule.names.is_empty() {
                value["resourceNames"] = json!(rule.names);
            }
            value
        }).collect::<Vec<_>>(),
        "nonResourceRules": others.map(|rule| json!({"verbs": rule.verbs, "nonResourceURLs": rule.urls}))
            .collect::<Vec<_>>(),
        "incomplete": held.incomplete,
    });
    if !held.errors.is_empty() {
        status["evaluationError"] = held.errors.join(", ").into();
    }
    status
}
