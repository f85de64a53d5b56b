//! Compare-and-swap of one object and its claims.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use serde_json::Value;
use store::{Compare, KeyRange, KeyValue, Op, OpResponse, RangeRequest, Revision, StoreError, Txn};
use tracing::warn;

use super::pools::{self, Exhausted, Pools};
use crate::{
    cache::{Cache, dispatcher_number as number},
    encode::object,
    registry::{Claim, ClaimValue, Precondition, Resource},
    status::{ApiError, Reason},
};

/// How often a write is tried when others are faster.
const TRIES: usize = 100;

/// Writes objects.
pub struct Writer {
    cache: Arc<Cache>,
    pools: Pools,
}

/// An object as it is stored: parsed, and as bytes, both with the resourceVersion.
#[derive(Clone, Debug)]
pub struct Stored {
    pub value: Value,
    pub bytes: Bytes,
}

/// What is to become of an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// Nothing: the stored object is the answer.
    Keep,
    Put(Value),
    /// Removes the object. The value is the answer.
    Remove(Value),
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    Kept(Stored),
    Created(Stored),
    Updated(Stored),
    Removed(Stored),
}

impl Outcome {
    pub fn stored(&self) -> &Stored {
        match self {
            Self::Kept(stored) | Self::Created(stored) | Self::Updated(stored) | Self::Removed(stored) => {
                stored
            }
        }
    }

    pub fn into_stored(self) -> Stored {
        match self {
            Self::Kept(stored) | Self::Created(stored) | Self::Updated(stored) | Self::Removed(stored) => {
                stored
            }
        }
    }
}

/// The object that is to be written, by its key.
struct Target<'a> {
    row: &'a Resource,
    key: String,
    name: &'a str,
}

/// What the store holds under the key.
struct Existing {
    /// As stored, without a resourceVersion.
    stored: Bytes,
    revision: u64,
    value: Value,
}

/// How a transaction went.
enum Attempt {
    Done(u64),
    /// The object is not what it was.
    ObjectChanged(Option<KeyValue>),
    /// These claimed values are taken, by their keys.
    Taken(Vec<String>),
}

impl Writer {
    pub fn new(cache: Arc<Cache>, pools: Pools) -> Self {
        Self { cache, pools }
    }

    /// Reads, changes and writes one object, again if somebody else wrote in between. `change` gets `None` where
    /// there is no object, and may be called several times; its error ends the write.
    ///
    /// # Errors
    /// `change`'s, a failed precondition, claims that cannot be met, and the store's.
    pub async fn write(
        &self,
        row: &Resource,
        namespace: &str,
        name: &str,
        precondition: &Precondition,
        change: &mut (dyn FnMut(Option<&Value>) -> Result<Change, ApiError> + Send),
    ) -> Result<Outcome, ApiError> {
        let target = Target { row, key: row.key(namespace, name), name };
        let mut existing = self.read(&target).await?;
        for _ in 0..TRIES {
            check(&target, existing.as_ref(), precondition)?;
            let old = existing.as_ref().map(|existing| &existing.value);
            let outcome = match (change(old)?, &existing) {
                (Change::Keep, Some(existing)) => return Ok(Outcome::Kept(existing.answer())),
                (Change::Keep, None) => return Err(ApiError::not_found(&row.group_resource(), name)),
                (Change::Remove(answer), None) => return Ok(Outcome::Removed(answer_of(&answer))),
                (Change::Remove(answer), Some(existing)) => {
                    self.remove(&target, existing, answer, precondition.dry_run).await?
                }
                (Change::Put(new), existing) => {
                    self.put(&target, existing.as_ref(), new, precondition.dry_run).await?
                }
            };
            match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(now) => existing = now.map(|kv| parse(&target, kv)).transpose()?,
            }
        }
        Err(ApiError::server_timeout(&row.group_resource(), "update", 1))
    }

    /// The object as it is now.
    async fn read(&self, target: &Target<'_>) -> Result<Option<Existing>, ApiError> {
        let request = RangeRequest::new(KeyRange::key(target.key.clone()));
        let range = self.cache.store().range(request).await.map_err(|error| store_error(target, error))?;
        range.kvs.into_iter().next().map(|kv| parse(target, kv)).transpose()
    }

    async fn put(
        &self,
        target: &Target<'_>,
        existing: Option<&Existing>,
        mut new: Value,
        dry_run: bool,
    ) -> Result<Result<Outcome, Option<KeyValue>>, ApiError> {
        let held = existing.map(|existing| target.row.strategy.claims(&existing.value)).unwrap_or_default();
        let mut taken = BTreeSet::new();
        for _ in 0..TRIES {
            let asks = target.row.strategy.claims(&new).iter().any(|claim| claim.value == ClaimValue::Any);
            let mut candidate = if asks { new.clone() } else { std::mem::take(&mut new) };
            let claims = self.choose(target, &mut candidate, &held, &taken)?;
            let stored = object::to_stored(&candidate);
            if let Some(existing) = existing.filter(|existing| existing.stored == stored) {
                return Ok(Ok(Outcome::Kept(existing.answer())));
            }
            if dry_run {
                let revision = existing.map(|existing| existing.revision);
                return Ok(Ok(written(candidate, &stored, revision, existing.is_some())));
            }
            let (reserve, release) = difference(&claims, &held);
            let txn = transaction(target, existing, Some(stored.clone()), &reserve, &release);
            match self.attempt(target, existing, &reserve, txn).await? {
                Attempt::Done(revision) => {
                    return Ok(Ok(written(candidate, &stored, Some(revision), existing.is_some())));
                }
                Attempt::ObjectChanged(now) => return Ok(Err(now)),
                Attempt::Taken(keys) => {
                    self.refuse_exact(target, if asks { &new } else { &candidate }, &keys)?;
                    self.note_taken(target, &keys, &mut taken).await?;
                }
            }
        }
        Err(ApiError::server_timeout(&target.row.group_resource(), "create", 1))
    }

    async fn remove(
        &self,
        target: &Target<'_>,
        existing: &Existing,
        answer: Value,
        dry_run: bool,
    ) -> Result<Result<Outcome, Option<KeyValue>>, ApiError> {
        if dry_run {
            return Ok(Ok(Outcome::Removed(answer_of(&answer))));
        }
        let held = target.row.strategy.claims(&existing.value);
        let (_, release) = difference(&[], &held);
        let txn = transaction(target, Some(existing), None, &[], &release);
        match self.attempt(target, Some(existing), &[], txn).await? {
            Attempt::Done(_) => Ok(Ok(Outcome::Removed(answer_of(&answer)))),
            Attempt::ObjectChanged(now) => Ok(Err(now)),
            // Nothing was reserved, so nothing can have been taken: whatever this is, it is no removal.
            Attempt::Taken(_) => Err(ApiError::server_timeout(&target.row.group_resource(), "delete", 1)),
        }
    }

    /// Gives values to the claims that have none, and writes them into the object.
    fn choose(
        &self,
        target: &Target<'_>,
        object: &mut Value,
        held: &[Claim],
        taken: &BTreeSet<String>,
    ) -> Result<Vec<Claim>, ApiError> {
        let mut claims = target.row.strategy.claims(object);
        let mut errors = Vec::new();
        let mut given: BTreeSet<String> = taken.clone();
        given.extend(claims.iter().filter_map(|claim| exact(claim).map(str::to_string)));
        for claim in &mut claims {
            if let Some(value) = exact(claim) {
                let is_held =
                    held.iter().any(|other| other.pool == claim.pool && exact(other) == Some(value));
                if let Some(why) = self.pools.refuses(claim.pool, value).filter(|_| !is_held) {
                    errors.push(Pools::error(claim, shown(object, claim), &why));
                }
                continue;
            }
            match self.pools.choose(claim.pool, &given, uuid::Uuid::new_v4().as_u128()) {
                Ok(value) => {
                    given.insert(value.clone());
                    fill(object, claim, &value);
                    claim.value = ClaimValue::Exactly(value);
                }
                Err(Exhausted::Full) => {
                    errors.push(Pools::error(claim, shown(object, claim), "range is full"))
                }
                Err(Exhausted::NotConfigured) => {
                    errors.push(Pools::error(claim, shown(object, claim), "the cluster has no such range"));
                }
            }
        }
        if errors.is_empty() {
            return Ok(claims);
        }
        Err(ApiError::invalid(&target.row.group_kind(), target.name, &errors))
    }

    /// A taken value that was asked for by name is the client's mistake.
    fn refuse_exact(&self, target: &Target<'_>, object: &Value, taken: &[String]) -> Result<(), ApiError> {
        let mut errors = Vec::new();
        for claim in target.row.strategy.claims(object) {
            let Some(value) = exact(&claim) else { continue };
            if taken.contains(&pools::key(claim.pool, value)) {
                let why = match claim.pool {
                    crate::registry::Pool::NodePort => "provided port is already allocated",
                    _ => "provided IP is already allocated",
                };
                errors.push(Pools::error(&claim, shown(object, &claim), why));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(ApiError::invalid(&target.row.group_kind(), target.name, &errors))
    }

    /// Learns all that is taken in the pools where a choice went wrong.
    async fn note_taken(
        &self,
        target: &Target<'_>,
        keys: &[String],
        taken: &mut BTreeSet<String>,
    ) -> Result<(), ApiError> {
        let prefixes: BTreeSet<&str> =
            keys.iter().filter_map(|key| key.rfind('/').map(|at| &key[..=at])).collect();
        for prefix in prefixes {
            let request =
                RangeRequest::new(KeyRange::prefix(prefix.to_string())).content(store::Content::KeysOnly);
            let range =
                self.cache.store().range(request).await.map_err(|error| store_error(target, error))?;
            for kv in range.kvs {
                if let Some(value) = str::from_utf8(&kv.key).ok().and_then(|key| key.strip_prefix(prefix)) {
                    taken.insert(value.to_string());
                }
            }
        }
        Ok(())
    }

    async fn attempt(
        &self,
        target: &Target<'_>,
        existing: Option<&Existing>,
        reserve: &[Claim],
        txn: Txn,
    ) -> Result<Attempt, ApiError> {
        let response = self.cache.store().txn(txn).await.map_err(|error| store_error(target, error))?;
        if response.succeeded {
            let revision = number(response.revision);
            self.cache.wait_for(revision).await?;
            return Ok(Attempt::Done(revision));
        }
        let mut found = response.responses.into_iter().map(|response| match response {
            OpResponse::Get(range) => range.kvs.into_iter().next(),
            OpResponse::Put { .. } | OpResponse::Delete { .. } => None,
        });
        let now = found.next().flatten();
        if now.as_ref().map(|kv| number(kv.mod_revision)) != existing.map(|existing| existing.revision) {
            return Ok(Attempt::ObjectChanged(now));
        }
        let keys = reserve.iter().filter_map(claim_key).zip(found);
        Ok(Attempt::Taken(keys.filter_map(|(key, kv)| kv.map(|_| key)).collect()))
    }
}

impl Existing {
    fn answer(&self) -> Stored {
        Stored { value: self.value.clone(), bytes: object::with_version(&self.stored, self.revision) }
    }
}

fn parse(target: &Target<'_>, kv: KeyValue) -> Result<Existing, ApiError> {
    let revision = number(kv.mod_revision);
    let mut value: Value = serde_json::from_slice(&kv.value).map_err(|error| {
        warn!(key = target.key, error = &error as &dyn std::error::Error, "store: not an object");
        ApiError::internal(format!("unable to decode {}: {error}", target.key))
    })?;
    object::set_version(&mut value, &revision.to_string());
    Ok(Existing { stored: kv.value, revision, value })
}

fn check(
    target: &Target<'_>,
    existing: Option<&Existing>,
    precondition: &Precondition,
) -> Result<(), ApiError> {
    let Some(existing) = existing else { return Ok(()) };
    let metadata = |field: &str| existing.value["metadata"][field].as_str().unwrap_or_default();
    let shown_key = target.key.replacen("/registry/core/", "/registry/", 1);
    let failed = |what: &str, wanted: &str, is: &str| {
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {is}",
            shown_key
        );
        ApiError::conflict(&target.row.group_resource(), target.name, &why)
    };
    if let Some(uid) = precondition.uid.as_deref().filter(|uid| *uid != metadata("uid")) {
        return Err(failed("UID", uid, metadata("uid")));
    }
    let version = precondition.resource_version.as_deref();
    if let Some(version) = version.filter(|version| *version != metadata("resourceVersion")) {
        return Err(failed("ResourceVersion", version, metadata("resourceVersion")));
    }
    Ok(())
}

fn written(mut value: Value, stored: &[u8], revision: Option<u64>, existed: bool) -> Outcome {
    let bytes = match revision {
        Some(revision) => {
            object::set_version(&mut value, &revision.to_string());
            object::with_version(stored, revision)
        }
        None => Bytes::copy_from_slice(stored),
    };
    let stored = Stored { value, bytes };
    if existed { Outcome::Updated(stored) } else { Outcome::Created(stored) }
}

fn answer_of(value: &Value) -> Stored {
    let version = value["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok());
    let stored = object::to_stored(value);
    let bytes = match version {
        Some(version) => object::with_version(&stored, version),
        None => stored.into(),
    };
    Stored { value: value.clone(), bytes }
}

/// What to reserve and what to release.
fn difference(wanted: &[Claim], held: &[Claim]) -> (Vec<Claim>, Vec<Claim>) {
    let same = |a: &Claim, b: &Claim| a.pool == b.pool && a.value == b.value;
    let missing = |from: &[Claim], of: &[Claim]| {
        let mut out: Vec<Claim> = Vec::new();
        for claim in from {
            let known = of.iter().chain(&out).any(|other| same(claim, other));
            if !known && exact(claim).is_some() {
                out.push(claim.clone());
            }
        }
        out
    };
    (missing(wanted, held), missing(held, wanted))
}

fn transaction(
    target: &Target<'_>,
    existing: Option<&Existing>,
    put: Option<Vec<u8>>,
    reserve: &[Claim],
    release: &[Claim],
) -> Txn {
    let revision = existing
        .map_or(Revision::ZERO, |existing| Revision(i64::try_from(existing.revision).unwrap_or(i64::MAX)));
    let mut compares = vec![Compare::mod_revision(target.key.clone(), revision)];
    let mut then = vec![match put {
        Some(bytes) => Op::put(target.key.clone(), bytes),
        None => Op::delete(target.key.clone()),
    }];
    let mut otherwise = vec![Op::get(target.key.clone())];
    for key in reserve.iter().filter_map(claim_key) {
        compares.push(Compare::absent(key.clone()));
        then.push(Op::put(key.clone(), target.key.clone()));
        otherwise.push(Op::get(key));
    }
    then.extend(release.iter().filter_map(claim_key).map(Op::delete));
    Txn::when(compares, then).or_else(otherwise)
}

fn exact(claim: &Claim) -> Option<&str> {
    match &claim.value {
        ClaimValue::Exactly(value) => Some(value),
        ClaimValue::Any => None,
    }
}

fn claim_key(claim: &Claim) -> Option<String> {
    exact(claim).map(|value| pools::key(claim.pool, value))
}

/// The value that an error shows: the named field's, as upstream shows it.
fn shown(object: &Value, claim: &Claim) -> Value {
    let pointer = format!("/{}", pools::field(claim).replace(['.', '['], "/").replace(']', ""));
    match object.pointer(&pointer) {
        Some(value) => value.clone(),
        None if claim.pool == crate::registry::Pool::NodePort => 0.into(),
        None => Value::Null,
    }
}

/// Writes a chosen value where the claim says.
fn fill(object: &mut Value, claim: &Claim, value: &str) {
    let json = match claim.pool {
        crate::registry::Pool::NodePort => value.parse::<u16>().map_or(Value::Null, Value::from),
        _ => Value::from(value),
    };
    for pointer in &claim.write_to {
        set(object, pointer, json.clone());
    }
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, last)) = pointer.rsplit_once('/') else { return };
    if object.pointer(parent).is_none_or(Value::is_null) {
        let empty =
            if last.parse::<usize>().is_ok() { Value::Array(Vec::new()) } else { serde_json::json!({}) };
        set(object, parent, empty);
    }
    match object.pointer_mut(parent) {
        Some(Value::Object(members)) => drop(members.insert(last.to_string(), value)),
        Some(Value::Array(items)) => match last.parse::<usize>() {
            Ok(at) if at < items.len() => items[at] = value,
            Ok(at) if at == items.len() => items.push(value),
            _ => {}
        },
        _ => {}
    }
}

fn store_error(target: &Target<'_>, error: StoreError) -> ApiError {
    warn!(key = target.key, error = &error as &dyn std::error::Error, "store: request failed");
    match error {
        StoreError::TooLarge { .. } => {
            let message = format!("Request entity too large: {error}");
            ApiError::request_entity_too_large(message)
        }
        error if error.is_retryable() => {
            ApiError::new(http::StatusCode::INTERNAL_SERVER_ERROR, Reason::Unknown, error.to_string())
        }
        error => ApiError::internal(error),
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("pools", &self.pools).finish_non_exhaustive()
    }
}
