//! Actions: subresources and virtual resources that do something of their own.

use std::sync::Arc;

use http::{Response, request::Parts};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    call::{Api, Call},
    decode::Expected,
    objects::ApiObjects,
    options::WriteOptions,
    read_body, respond,
};
use crate::{
    admission::Operation,
    body::{self, Body},
    encode::accept::Wanted,
    registry::{Action, ActionContext, ActionRequest, Respond, Subresource, Virtual},
    request::RequestInfo,
    status::ApiError,
    user::UserInfo,
};

/// An acting subresource: its body is decoded, and passes admission.
pub(crate) async fn act(
    api: &Arc<Api>,
    call: &Call,
    sub: &Subresource,
    action: &Arc<dyn Action>,
    (parts, body): (Parts, Body),
) -> Result<Response<Body>, ApiError> {
    let bytes = read_body(body).await?;
    let options = WriteOptions::read(&call.info.query, "CreateOptions")?;
    let expected = match (sub.kind.0.as_ref(), sub.kind.1.as_ref(), sub.kind.2.as_ref()) {
        (_, _, "") => call.expected(),
        (group, version, kind) => Expected { group, version, kind },
    };
    let mut warnings = Vec::new();
    let mut object = Value::Null;
    if !bytes.is_empty() {
        let decoded = expected.decode(&call.headers, &bytes, options.field_validation)?;
        object = decoded.value;
        warnings.extend(decoded.warnings);
    }
    let mut dry_run = options.dry_run;
    let body_dry_run = object["deleteOptions"]["dryRun"].as_array();
    dry_run |= body_dry_run.is_some_and(|values| values.iter().any(|value| value == "All"));
    if let Some(operation) = operation(&call.info) {
        let mut attributes = call.attributes(operation, object, None, dry_run);
        api.mutate(&mut attributes)?;
        api.validate(&attributes)?;
        object = attributes.object;
        warnings.extend(attributes.warnings);
    }
    let request = ActionRequest { info: call.info.clone(), parts, object, body: body::empty(), dry_run };
    let response = answer(api, &call.user, action, request, call.wanted, call.now).await?;
    Ok(respond::warn(response, &warnings))
}

/// A connecting subresource: the action gets the body as it streams, and the upgrade.
pub(crate) async fn connect(
    api: &Arc<Api>,
    call: &Call,
    action: &Arc<dyn Action>,
    (parts, body): (Parts, Body),
) -> Result<Response<Body>, ApiError> {
    let mut attributes = call.attributes(Operation::Connect, Value::Null, None, false);
    api.mutate(&mut attributes)?;
    api.validate(&attributes)?;
    let request = ActionRequest { info: call.info.clone(), parts, object: Value::Null, body, dry_run: false };
    answer(api, &call.user, action, request, call.wanted, call.now).await
}

/// A virtual resource: what is created is answered.
pub(crate) async fn create_virtual(
    api: &Arc<Api>,
    row: &Virtual,
    (user, info, wanted): (UserInfo, RequestInfo, Wanted),
    (parts, body): (Parts, Body),
    now: Timestamp,
) -> Result<Response<Body>, ApiError> {
    if info.verb != "create" || !info.subresource.is_empty() {
        return Err(ApiError::method_not_allowed());
    }
    let bytes = read_body(body).await?;
    let options = WriteOptions::read(&info.query, "CreateOptions")?;
    let expected = Expected { group: &row.group, version: &row.version, kind: &row.kind };
    let decoded = expected.decode(&parts.headers, &bytes, options.field_validation)?;
    let object = decoded.value;
    let request = ActionRequest { info, parts, object, body: body::empty(), dry_run: options.dry_run };
    let response = answer(api, &user, &row.action, request, wanted, now).await?;
    Ok(respond::warn(response, &decoded.warnings))
}

async fn answer(
    api: &Arc<Api>,
    user: &UserInfo,
    action: &Arc<dyn Action>,
    request: ActionRequest,
    wanted: Wanted,
    now: Timestamp,
) -> Result<Response<Body>, ApiError> {
    let context = ActionContext {
        user: user.clone(),
        registry: api.registry.clone(),
        objects: Arc::new(ApiObjects::new(api.clone(), now)),
    };
    match action.call(&context, request).await? {
        Respond::Object(code, object) => Ok(respond::value(code, wanted, &object)),
        Respond::Raw(response) => Ok(response),
    }
}

fn operation(info: &RequestInfo) -> Option<Operation> {
    match info.verb.as_ref() {
        "create" => Some(Operation::Create),
        "update" | "patch" => Some(Operation::Update),
        "delete" => Some(Operation::Delete),
        _ => None,
    }
}
