//! Binding a pod to a node: `pods/binding`, and `bindings`, which names the pod in the body alone.

use futures_util::future::BoxFuture;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{pods, success};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::{Action, ActionContext, ActionRequest, Precondition, Respond};
use crate::status::{ApiError, GroupKind, GroupResource, Reason};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    named_by_path: bool,
}

impl Binding {
    /// `pods/NAME/binding`.
    pub fn of_pod() -> Self {
        Self { named_by_path: true }
    }

    /// `bindings`.
    pub fn by_name() -> Self {
        Self { named_by_path: false }
    }

    async fn bind(self, context: &ActionContext, request: ActionRequest) -> Result<Respond, ApiError> {
        let binding = request.object;
        let meta = &binding["metadata"];
        let text = |field: &str| meta[field].as_str().unwrap_or_default().to_owned();
        let name = if text("name").is_empty() { request.info.name.clone() } else { text("name") };
        if self.named_by_path && name != request.info.name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        check(&binding, &name)?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let precondition = Precondition {
            uid: some(text("uid")),
            resource_version: some(text("resourceVersion")),
            dry_run: request.dry_run,
        };
        let now = Timestamp::now();
        let mut change = |pod: &mut Value| assign(pod, &binding, now);
        context.objects.update(&pods(), &request.info.namespace, &name, precondition, &mut change).await?;
        Ok(Respond::Object(StatusCode::CREATED, success(201)))
    }
}

impl Action for Binding {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(self.bind(context, request))
    }
}

fn check(binding: &Value, name: &str) -> Result<(), ApiError> {
    let mut found = Findings::default();
    let target = At::root(binding).get("target");
    let (kind, node) = (target.get("kind"), target.get("name"));
    if !matches!(kind.text(), "" | "Node") {
        found.not_supported(&kind, &["Node", "<empty>"]);
    }
    if node.is_empty() {
        found.required(&node, "");
    }
    if found.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&GroupKind::new("", "Binding"), name, &found.into_errors()))
}

/// Writes the node into the pod, which must be waiting for one.
pub(super) fn assign(pod: &mut Value, binding: &Value, now: Timestamp) -> Result<(), ApiError> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let conflict = |why: String| ApiError::conflict(&GroupResource::new("", "pods/binding"), &name, &why);
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    if let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        return Err(conflict(format!("pod {name} is already assigned to node {node:?}")));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    if !pod["spec"].is_object() || !pod["metadata"].is_object() {
        return Err(ApiError::internal(format!("pod {name} is not a pod")));
    }
    pod["spec"]["nodeName"] = binding["target"]["name"].clone();
    for field in ["annotations", "labels"] {
        for (key, value) in binding["metadata"][field].as_object().into_iter().flatten() {
            pod["metadata"][field][key.as_str()] = value.clone();
        }
    }
    if pod["status"].is_null() {
        pod["status"] = json!({});
    }
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    scheduled(&mut pod["status"], now);
    Ok(())
}

fn scheduled(status: &mut Value, now: Timestamp) {
    let at = jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", now).unwrap_or_default();
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let position = conditions.iter().position(|condition| condition["type"] == "PodScheduled");
    let mut condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": at});
    match position {
        Some(i) => {
            if conditions[i]["status"] == "True" {
                condition["lastTransitionTime"] = conditions[i]["lastTransitionTime"].clone();
            }
            conditions[i] = condition;
        }
        None => conditions.push(condition),
    }
    status["conditions"] = conditions.into();
}

/// Whether an error says that somebody else was first.
pub(super) fn is_conflict(error: &ApiError) -> bool {
    error.reason == Reason::Conflict
}
