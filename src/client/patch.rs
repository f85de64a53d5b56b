//! Small write protocols: status patches, and updates that survive a conflict.

use std::fmt::Debug;

use kube::{
    Api, Error,
    api::{Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

/// What an API error means to whoever decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// 404: the object is not there.
    NotFound,
    /// 409 because of a name that exists.
    AlreadyExists,
    /// 409 because somebody else wrote in between: read again and decide again.
    Conflict,
    /// 403 because the namespace is being deleted: nothing can be created in it.
    NamespaceTerminating,
    /// 403.
    Forbidden,
    /// 422 or 400: the same request will fail again.
    Invalid,
    /// 429, 5xx, a broken connection: try again.
    Unavailable,
    /// Anything else.
    Other,
}

#[must_use]
pub fn kind_of(error: &Error) -> ErrorKind {
    match error {
        Error::Api(status) if status.is_already_exists() => ErrorKind::AlreadyExists,
        Error::Api(status) => match status.code {
            404 => ErrorKind::NotFound,
            409 => ErrorKind::Conflict,
            403 if has_cause(status, "NamespaceTerminating") => ErrorKind::NamespaceTerminating,
            403 => ErrorKind::Forbidden,
            400 | 422 => ErrorKind::Invalid,
            429 | 500.. => ErrorKind::Unavailable,
            _ => ErrorKind::Other,
        },
        Error::HyperError(_) | Error::Service(_) | Error::ReadEvents(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

fn has_cause(status: &kube::core::Status, reason: &str) -> bool {
    status.details.as_ref().is_some_and(|details| details.causes.iter().any(|cause| cause.reason == reason))
}

/// Writes `status` (the content of the field) by merge patch.
///
/// # Errors
/// What the API answered.
pub async fn patch_status<K>(api: &Api<K>, name: &str, status: &impl Serialize) -> Result<K, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let patch = serde_json::json!({ "status": status });
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

/// Reads, changes and writes an object until no other writer comes in between; `change` says whether
/// there is anything to write. None if the object is not there.
///
/// # Errors
/// What the API answered, or the last conflict after a few rounds.
pub async fn update_on_conflict<K>(
    api: &Api<K>,
    name: &str,
    mut change: impl FnMut(&mut K) -> bool,
) -> Result<Option<K>, Error>
where
    K: Clone + Serialize + DeserializeOwned + Debug,
{
    const ROUNDS: usize = 5;
    let mut round = 0;
    loop {
        let Some(mut object) = api.get_opt(name).await? else { return Ok(None) };
        if !change(&mut object) {
            return Ok(Some(object));
        }
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(written) => return Ok(Some(written)),
            Err(error) if kind_of(&error) == ErrorKind::Conflict && round < ROUNDS => round += 1,
            Err(error) => return Err(error),
        }
    }
}
