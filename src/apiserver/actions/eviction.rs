//! `pods/eviction`: a delete that a PodDisruptionBudget may refuse.

use futures_util::future::BoxFuture;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::binding::is_conflict;
use super::{pods, success};
use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use crate::registry::strategy::meta;
use crate::registry::{
    Action, ActionContext, ActionRequest, DeleteOptions, Precondition, Propagation, Respond,
};
use crate::status::{ApiError, GroupKind, GroupResource, Reason};

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
/// Evictions that the disruption controller has not confirmed yet.
const MAX_UNCONFIRMED: usize = 2000;
const TRIES: usize = 20;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Eviction {}

/// What protects a pod.
enum Protection {
    /// Nothing, or nothing that counts in the pod's state.
    None,
    /// A budget that does not count this pod as long as it stays as it is: deleted only at this version.
    Unhealthy(String),
    /// The budget that has to allow it.
    Budget(String),
}

/// What became of an eviction that no budget has a word in.
enum Unprotected {
    Gone(Respond),
    /// The pod as it was read: it runs, and its budget decides.
    Serves(Value),
}

/// Why a pod is nobody's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It does not serve yet.
    Waits,
    /// It does not serve any more, or was asked to go already.
    Ends,
}

impl Action for Eviction {
    fn call<'a>(
        &'a self,
        context: &'a ActionContext,
        request: ActionRequest,
    ) -> BoxFuture<'a, Result<Respond, ApiError>> {
        Box::pin(evict(context, request))
    }
}

async fn evict(context: &ActionContext, request: ActionRequest) -> Result<Respond, ApiError> {
    let name = request.object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name != request.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    check(&request.object, &name)?;
    let namespace = request.info.namespace.as_str();
    let mut options = options(&request.object["deleteOptions"]);
    options.dry_run |= request.dry_run;
    let pod = match without_budget(context, namespace, &name, &options).await? {
        Unprotected::Gone(answer) => return Ok(answer),
        Unprotected::Serves(pod) => pod,
    };

    let pinned = options.precondition_resource_version.is_some();
    let budgets = context.objects.list(&budgets(), namespace).await?;
    let protection = protection(&pod, &budgets)?;
    match &protection {
        Protection::None => {}
        Protection::Unhealthy(_) => {
            if !pinned {
                options.precondition_resource_version = version(&pod);
            }
        }
        Protection::Budget(budget) => {
            let dry_run = options.dry_run;
            let precondition = Precondition { dry_run, ..Precondition::default() };
            let mut change = |budget: &mut Value| spend(budget, &name, Timestamp::now());
            context.objects.update(&self::budgets(), namespace, budget, precondition, &mut change).await?;
        }
    }
    match (delete(context, namespace, &name, options).await, protection) {
        (Err(error), Protection::Unhealthy(budget)) if is_conflict(&error) && !pinned => {
            Err(still_processed(&budget))
        }
        (outcome, _) => outcome,
    }
}

/// Deletes a pod that no budget protects in its state.
async fn without_budget(
    context: &ActionContext,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> Result<Unprotected, ApiError> {
    let pinned = options.precondition_resource_version.is_some();
    let mut tries = 1;
    loop {
        let pod = context.objects.get(&pods(), namespace, name).await?;
        let protected_once_ready = match unprotected(&pod) {
            Some(State::Waits) => true,
            Some(State::Ends) => false,
            None => return Ok(Unprotected::Serves(pod)),
        };
        // A pod that has not started may become ready meanwhile: then the budget counts it.
        let mut options = options.clone();
        if protected_once_ready && !pinned {
            options.precondition_resource_version = version(&pod);
        }
        match delete(context, namespace, name, options).await {
            Err(error) if is_conflict(&error) && !pinned && tries < TRIES => tries += 1,
            outcome => return outcome.map(Unprotected::Gone),
        }
    }
}

async fn delete(
    context: &ActionContext,
    namespace: &str,
    name: &str,
    options: DeleteOptions,
) -> Result<Respond, ApiError> {
    let mut options = options;
    if !options.dry_run {
        // The pod tells why it went, for those who count failures.
        let precondition = Precondition {
            uid: options.precondition_uid.clone(),
            resource_version: options.precondition_resource_version.clone(),
            dry_run: false,
        };
        let now = Timestamp::now();
        let mut change = |pod: &mut Value| {
            disrupted(pod, now);
            Ok(())
        };
        let told = context.objects.update(&pods(), namespace, name, precondition, &mut change).await?;
        // What was asked for at a version holds for what this wrote: the pod may become ready in between.
        if options.precondition_resource_version.is_some() {
            options.precondition_resource_version = version(&told);
        }
    }
    context.objects.delete(&pods(), namespace, name, options).await?;
    Ok(Respond::Object(StatusCode::CREATED, success(201)))
}

pub(super) fn disrupted(pod: &mut Value, now: Timestamp) {
    if pod["status"].is_null() {
        pod["status"] = json!({});
    }
    set_condition(
        &mut pod["status"],
        json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null,
        }),
        now,
    );
}

/// Puts `condition` in the place of the one of its type. The time moves only with the status.
fn set_condition(status: &mut Value, mut condition: Value, now: Timestamp) {
    if !status.is_object() {
        return;
    }
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    condition["lastTransitionTime"] = time_text(now).into();
    match conditions.iter_mut().find(|old| old["type"] == condition["type"]) {
        Some(old) => {
            if old["status"] == condition["status"] && old["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    status["conditions"] = conditions.into();
}

fn time_text(time: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_default()
}

/// A pod whose stored form cannot be read is no pod that a budget could be asked about.
fn check(eviction: &Value, name: &str) -> Result<(), ApiError> {
    let at = At::root(eviction).get("deleteOptions").get("ignoreStoreReadErrorWithClusterBreakingPotential");
    if at.value() != &Value::Bool(true) {
        return Ok(());
    }
    let mut found = Findings::default();
    found.invalid(&at, "can not be set for pod eviction, try after removing the option");
    Err(ApiError::invalid(&GroupKind::new("policy", "Eviction"), name, &found.into_errors()))
}

fn budgets() -> GroupResource {
    GroupResource::new("policy", "poddisruptionbudgets")
}

fn version(object: &Value) -> Option<String> {
    object["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

/// `metav1.DeleteOptions` of the eviction.
fn options(options: &Value) -> DeleteOptions {
    let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    DeleteOptions {
        grace_period_seconds: options["gracePeriodSeconds"].as_i64(),
        precondition_uid: text("/preconditions/uid"),
        precondition_resource_version: text("/preconditions/resourceVersion"),
        propagation: match options["propagationPolicy"].as_str() {
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            _ => None,
        },
        dry_run: options["dryRun"][0] == "All",
    }
}

/// None: the pod runs.
pub(super) fn unprotected(pod: &Value) -> Option<State> {
    if pod["metadata"]["deletionTimestamp"].is_string() {
        return Some(State::Ends);
    }
    match pod["status"]["phase"].as_str().unwrap_or_default() {
        "Succeeded" | "Failed" => Some(State::Ends),
        "Pending" => Some(State::Waits),
        _ => None,
    }
}

fn protection(pod: &Value, budgets: &[Value]) -> Result<Protection, ApiError> {
    let labels = At::root(pod).get("metadata").get("labels");
    let selects = |budget: &&Value| {
        let selector = At::root(budget).get("spec").get("selector");
        selector.present() && meta::selects(&selector, &labels)
    };
    let mut selected = budgets.iter().filter(selects);
    let (Some(budget), another) = (selected.next(), selected.next()) else { return Ok(Protection::None) };
    if another.is_some() {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, message));
    }
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let ready = pod["status"]["conditions"]
        .as_array()
        .is_some_and(|list| list.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"));
    if !ready {
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let count = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
        let (current, desired) = (count("currentHealthy"), count("desiredHealthy"));
        if always || (current >= desired && desired > 0) {
            return Ok(Protection::Unhealthy(name));
        }
    }
    Ok(Protection::Budget(name))
}

fn still_processed(budget: &str) -> ApiError {
    let why = format!("The disruption budget {budget} is still being processed by the server.");
    ApiError::too_many_requests(VIOLATES, 10).with_cause(CAUSE, why, "")
}

/// Takes one disruption from the budget, or says why there is none.
pub(super) fn spend(budget: &mut Value, pod: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = budget["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let status = budget["status"].clone();
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    let what = GroupResource::new("policy", "poddisruptionbudget");
    if count("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or_default() {
        return Err(still_processed(&name));
    }
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return Err(ApiError::forbidden(&what, &name, "pdb disruptions allowed is negative"));
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_UNCONFIRMED) {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(&what, &name, why));
    }
    if allowed == 0 {
        let error = ApiError::too_many_requests(VIOLATES, 0);
        return Err(error.with_cause(CAUSE, refusal(&name, &status), ""));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if allowed == 1 {
        let none_left = json!({
            "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
            "observedGeneration": count("observedGeneration"),
        });
        set_condition(&mut budget["status"], none_left, now);
    }
    budget["status"]["disruptedPods"][pod] = time_text(now).into();
    Ok(())
}

fn refusal(name: &str, status: &Value) -> String {
    let count = |field: &str| status[field].as_i64().unwrap_or_default();
    let conditions = status["conditions"].as_array();
    let condition = conditions.and_then(|list| list.iter().find(|c| c["type"] == "DisruptionAllowed"));
    let told = condition
        .filter(|c| c["status"] == "False")
        .map(|c| (c["reason"].as_str().unwrap_or_default(), c["message"].as_str().unwrap_or_default()));
    let (current, desired) = (count("currentHealthy"), count("desiredHealthy"));
    match told.filter(|(_, message)| !message.is_empty()) {
        Some(("SyncFailed", message)) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some((reason, message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}
