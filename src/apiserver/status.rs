//! Errors of the API: `metav1.Status` values with the reasons and the words of upstream
//! (`k8s.io/apimachinery/pkg/api/errors`, `pkg/util/validation/field`).

use std::fmt;

use http::StatusCode;
use serde_json::{Map, Value, json};

/// A failure as the API tells it. Everything that a request can fail with becomes one of these.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub code: StatusCode,
    pub reason: Reason,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// Also sent as the `Retry-After` header.
    pub retry_after_secs: Option<u32>,
    /// With which an expired list may go on (`metadata.continue`).
    pub continue_token: Option<String>,
}

/// `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    ServiceUnavailable,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Expired => "Expired",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// The plural resource name, or the kind for `Invalid`: as upstream.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
}

/// `metav1.StatusCause`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// A resource of a group, shown as `pods` or `deployments.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupResource {
    pub group: String,
    pub resource: String,
}

impl GroupResource {
    pub fn new(group: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { group: group.into(), resource: resource.into() }
    }
}

impl fmt::Display for GroupResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.resource)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

/// A kind of a group, shown as `Pod` or `Deployment.apps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupKind {
    pub group: String,
    pub kind: String,
}

impl GroupKind {
    pub fn new(group: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), kind: kind.into() }
    }
}

impl fmt::Display for GroupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

pub const OPTIMISTIC_LOCK: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl ApiError {
    pub fn new(code: StatusCode, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            retry_after_secs: None,
            continue_token: None,
        }
    }

    fn about(mut self, what: &GroupResource, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: what.group.clone(),
            kind: what.resource.clone(),
            ..Details::default()
        }));
        self
    }

    fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_secs = (seconds > 0).then_some(seconds);
        self.details.get_or_insert_default();
        self
    }

    /// Adds a cause to the details, e.g. `DisruptionBudget` of an eviction.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    pub fn not_found(what: &GroupResource, name: &str) -> Self {
        let message = format!("{what} {} not found", quote(name));
        Self::new(StatusCode::NOT_FOUND, Reason::NotFound, message).about(what, name)
    }

    /// A path that nothing serves.
    pub fn unknown_path() -> Self {
        let message = "the server could not find the requested resource";
        let mut error = Self::new(StatusCode::NOT_FOUND, Reason::NotFound, message);
        error.details = Some(Box::default());
        error
    }

    pub fn already_exists(what: &GroupResource, name: &str) -> Self {
        let message = format!("{what} {} already exists", quote(name));
        Self::new(StatusCode::CONFLICT, Reason::AlreadyExists, message).about(what, name)
    }

    pub fn generate_name_conflict(what: &GroupResource, name: &str) -> Self {
        let message = format!(
            "{what} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        Self::new(StatusCode::CONFLICT, Reason::AlreadyExists, message).about(what, name).retry_after(1)
    }

    /// `why` is [`OPTIMISTIC_LOCK`] for a stale resourceVersion.
    pub fn conflict(what: &GroupResource, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {what} {}: {why}", quote(name));
        Self::new(StatusCode::CONFLICT, Reason::Conflict, message).about(what, name)
    }

    /// 422 with one cause for each mistake.
    pub fn invalid(what: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let mut message = format!("{what} {} is invalid", quote(name));
        if !errors.is_empty() {
            message = format!("{message}: {}", aggregate(errors));
        }
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, Reason::Invalid, message);
        error.details = Some(Box::new(Details {
            name: name.into(),
            group: what.group.clone(),
            kind: what.kind.clone(),
            uid: String::new(),
            causes: errors.iter().map(FieldError::cause).collect(),
        }));
        error
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, Reason::BadRequest, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, Reason::Unauthorized, "Unauthorized")
    }

    /// `pods "x" is forbidden: why`; without a name `pods is forbidden: why`.
    pub fn forbidden(what: &GroupResource, name: &str, why: &str) -> Self {
        let message = if what.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {} is forbidden: {why}", quote(name))
        };
        Self::new(StatusCode::FORBIDDEN, Reason::Forbidden, message).about(what, name)
    }

    /// `action` is the verb that the resource does not have, or the method of a subresource.
    pub fn method_not_supported(what: &GroupResource, action: &str) -> Self {
        let message = format!("{action} is not supported on resources of kind {}", quote(&what.to_string()));
        Self::new(StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed, message).about(what, "")
    }

    /// The method has no meaning on this path at all.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut error = Self::new(StatusCode::METHOD_NOT_ALLOWED, Reason::MethodNotAllowed, message);
        error.details = Some(Box::default());
        error
    }

    /// 405 for a method that upstream's server would allow. `why` may be empty.
    pub fn method_not_served(why: &str) -> Self {
        let mut error = Self::method_not_allowed();
        if !why.is_empty() {
            error.message = format!("{}: {why}", error.message);
        }
        error
    }

    /// 410: a continue token or a watch's resourceVersion is no longer known.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, Reason::Expired, message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_secs: u32) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, Reason::TooManyRequests, message)
            .retry_after(retry_after_secs)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::UnsupportedMediaType, message)
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, Reason::NotAcceptable, message)
    }

    pub fn request_entity_too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestEntityTooLarge, message)
    }

    /// 504: the operation may still complete.
    pub fn timeout(message: &str, retry_after_secs: u32) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, Reason::Timeout, format!("Timeout: {message}"))
            .retry_after(retry_after_secs)
    }

    /// 500 `ServerTimeout`: a passing condition, the client should try again.
    pub fn server_timeout(what: &GroupResource, operation: &str, retry_after_secs: u32) -> Self {
        let message = format!(
            "The {operation} operation against {what} could not be completed at this time, please try again."
        );
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::ServerTimeout, message)
            .about(what, operation)
            .retry_after(retry_after_secs)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, Reason::ServiceUnavailable, message)
    }

    /// 501 for what this server does not do. `reason` is empty in upstream's answer too.
    pub fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, Reason::Unknown, message)
    }

    pub fn internal(message: impl fmt::Display) -> Self {
        let mut error = Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            Reason::InternalError,
            format!("Internal error occurred: {message}"),
        );
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        error.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        error
    }

    /// The `metav1.Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message,
        });
        if self.reason != Reason::Unknown {
            status["reason"] = self.reason.as_str().into();
        }
        if let Some(token) = &self.continue_token {
            status["metadata"]["continue"] = token.as_str().into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value(self.retry_after_secs);
        }
        status["code"] = self.code.as_u16().into();
        status
    }
}

impl Details {
    fn to_value(&self, retry_after_secs: Option<u32>) -> Value {
        let mut map = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if let Some(seconds) = retry_after_secs {
            map.insert("retryAfterSeconds".into(), seconds.into());
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        Value::Object(map)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// One mistake in one field. Shown as `spec.x: Invalid value: "v": detail`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    /// The path, e.g. `spec.containers[0].name`.
    pub field: String,
    /// `None` leaves the value out of the text.
    pub bad_value: Option<Value>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    TooLong,
    TooShort,
    TooMany,
    TooFew,
    NotFound,
    InternalError,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The cause's `reason` in a Status.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooShort => "FieldValueTooShort",
            Self::TooMany => "FieldValueTooMany",
            Self::TooFew => "FieldValueTooFew",
            Self::NotFound => "FieldValueNotFound",
            Self::InternalError => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooShort => "Too short",
            Self::TooMany => "Too many",
            Self::TooFew => "Too few",
            Self::NotFound => "Not found",
            Self::InternalError => "Internal error",
        }
    }

    /// Whether the text shows the bad value.
    fn shows_value(self) -> bool {
        !matches!(
            self,
            Self::Required | Self::Forbidden | Self::TooLong | Self::TooShort | Self::InternalError
        )
    }
}

impl FieldError {
    fn new(kind: FieldErrorKind, field: &str, bad_value: Option<Value>, detail: String) -> Self {
        Self { kind, field: field.into(), bad_value, detail }
    }

    pub fn required(field: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail.into())
    }

    pub fn invalid(field: &str, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.into()), detail.into())
    }

    pub fn type_invalid(field: &str, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, field, Some(value.into()), detail.into())
    }

    /// `supported` is listed in the order given: upstream sorts it where it comes from a set.
    pub fn not_supported(field: &str, value: impl Into<Value>, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|text| quote(text)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, field, Some(value.into()), detail)
    }

    pub fn forbidden(field: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail.into())
    }

    pub fn duplicate(field: &str, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.into()), String::new())
    }

    pub fn not_found(field: &str, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.into()), String::new())
    }

    pub fn too_long(field: &str, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::new(FieldErrorKind::TooLong, field, None, detail)
    }

    pub fn too_many(field: &str, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} item{}", if max == 1 { "" } else { "s" });
        Self::new(FieldErrorKind::TooMany, field, Some(actual.into()), detail)
    }

    pub fn internal(field: &str, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::InternalError, field, None, detail.into())
    }

    /// The text without the field.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_string();
        if self.kind.shows_value()
            && let Some(value) = &self.bad_value
        {
            let shown = match value {
                Value::String(string) => quote(string),
                other => other.to_string(),
            };
            text = format!("{text}: {shown}");
        }
        if !self.detail.is_empty() {
            text = format!("{text}: {}", self.detail);
        }
        text
    }

    fn cause(&self) -> Cause {
        Cause { reason: self.kind.cause().into(), message: self.body(), field: self.field.clone() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// One error as it is, several as `[a, b]`, repeated texts once.
fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::new();
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// A quoted string as Go's `%q` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn shows(error: &FieldError, text: &str) {
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn field_errors_read_as_upstreams() {
        shows(
            &FieldError::required("metadata.name", "name or generateName is required"),
            "metadata.name: Required value: name or generateName is required",
        );
        shows(&FieldError::invalid("spec.x", "v", "no"), "spec.x: Invalid value: \"v\": no");
        shows(
            &FieldError::invalid("spec.n", -1, "must be greater than or equal to 0"),
            "spec.n: Invalid value: -1: must be greater than or equal to 0",
        );
        shows(
            &FieldError::not_supported("spec.p", "x", &["A", "B"]),
            "spec.p: Unsupported value: \"x\": supported values: \"A\", \"B\"",
        );
        shows(&FieldError::duplicate("a[1]", json!({"k": 1})), "a[1]: Duplicate value: {\"k\":1}");
        shows(&FieldError::forbidden("spec", "is immutable"), "spec: Forbidden: is immutable");
        shows(
            &FieldError::too_long("metadata.annotations", 262144),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        );
    }

    #[test]
    fn an_invalid_status_lists_each_mistake_once_in_the_message_and_all_in_the_causes() {
        let errors =
            [FieldError::required("a", ""), FieldError::required("a", ""), FieldError::forbidden("b", "no")];
        let error = ApiError::invalid(&GroupKind::new("apps", "Deployment"), "web", &errors);
        assert_eq!(
            error.message,
            "Deployment.apps \"web\" is invalid: [a: Required value, b: Forbidden: no]"
        );
        insta::assert_json_snapshot!(error.to_value());
    }

    #[test]
    fn quoting_follows_go() {
        assert_eq!(quote("a\"b\\c\n\u{1}é"), r#""a\"b\\c\n\x01é""#);
    }
}
