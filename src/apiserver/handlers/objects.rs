//! Objects for actions: the same reads and writes, without admission.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    call::Api,
    delete::{Deleted, delete_object},
    metadata,
};
use crate::{
    cache::Selection,
    registry::{DeleteOptions, Objects, Precondition, Resource},
    status::{ApiError, GroupResource},
    transaction::Change,
};

/// Reads and writes in the name of an action.
#[derive(Debug)]
pub struct ApiObjects {
    api: Arc<Api>,
    now: Timestamp,
}

impl ApiObjects {
    pub fn new(api: Arc<Api>, now: Timestamp) -> Self {
        Self { api, now }
    }

    fn row(&self, what: &GroupResource) -> Result<Arc<Resource>, ApiError> {
        let rows = self.api.registry.rows();
        rows.stored(what).cloned().ok_or_else(|| ApiError::not_found(what, ""))
    }

    async fn read(&self, what: &GroupResource, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let row = self.row(what)?;
        self.api.cache.caught_up().await?;
        let entry = self.api.cache.resource(&row).and_then(|cache| cache.get(namespace, name));
        let entry = entry.ok_or_else(|| ApiError::not_found(what, name))?;
        entry.value().map_err(ApiError::internal)
    }

    async fn read_all(&self, what: &GroupResource, namespace: &str) -> Result<Vec<Value>, ApiError> {
        let row = self.row(what)?;
        self.api.cache.caught_up().await?;
        let cache = self.api.cache.resource(&row).ok_or_else(|| ApiError::not_found(what, ""))?;
        let entries = cache.list(&Selection::in_namespace(namespace), None, 0).entries;
        entries.iter().map(|entry| entry.value().map_err(ApiError::internal)).collect()
    }

    async fn insert(&self, what: &GroupResource, object: Value) -> Result<Value, ApiError> {
        let row = self.row(what)?;
        let mut object = object;
        row.strategy.defaults(&mut object);
        metadata::begin_create(&row, &mut object, uuid::Uuid::new_v4().to_string(), self.now);
        row.strategy.prepare_create(&mut object);
        let mut errors = metadata::validate_create(&row, &object);
        errors.extend(row.strategy.validate_create(&object));
        let name = metadata::text(&object, "name").to_string();
        if !errors.is_empty() {
            return Err(ApiError::invalid(&row.group_kind(), &name, &errors));
        }
        let namespace = metadata::text(&object, "namespace").to_string();
        let mut change = |old: Option<&Value>| match old {
            Some(_) => Err(ApiError::already_exists(what, &name)),
            None => Ok(Change::Put(object.clone())),
        };
        let precondition = Precondition::default();
        let outcome = self.api.writer.write(&row, &namespace, &name, &precondition, &mut change).await?;
        Ok(outcome.into_stored().value)
    }

    async fn change(
        &self,
        what: &GroupResource,
        (namespace, name): (&str, &str),
        precondition: Precondition,
        change: &mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
    ) -> Result<Value, ApiError> {
        let row = self.row(what)?;
        let mut write = |old: Option<&Value>| {
            let mut new = old.cloned().ok_or_else(|| ApiError::not_found(what, name))?;
            change(&mut new)?;
            let gone = metadata::is_being_deleted(&new)
                && metadata::finalizers(&new).is_empty()
                && new["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
                && !row.strategy.held(&new);
            Ok(if gone { Change::Remove(new) } else { Change::Put(new) })
        };
        let outcome = self.api.writer.write(&row, namespace, name, &precondition, &mut write).await?;
        Ok(outcome.into_stored().value)
    }

    async fn remove(
        &self,
        what: &GroupResource,
        (namespace, name): (&str, &str),
        options: DeleteOptions,
    ) -> Result<Value, ApiError> {
        let row = self.row(what)?;
        match delete_object(&self.api, &row, (namespace, name), &options, self.now, &|_| Ok(())).await? {
            Deleted::Object(outcome) => Ok(outcome.into_stored().value),
            Deleted::Status(status) => Ok(status),
        }
    }
}

impl Objects for ApiObjects {
    fn get<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        self.read(what, namespace, name).boxed()
    }

    fn list<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        self.read_all(what, namespace).boxed()
    }

    fn create<'a>(
        &'a self,
        what: &'a GroupResource,
        object: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        self.insert(what, object).boxed()
    }

    fn update<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        precondition: Precondition,
        change: &'a mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        self.change(what, (namespace, name), precondition, change).boxed()
    }

    fn delete<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        options: DeleteOptions,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        self.remove(what, (namespace, name), options).boxed()
    }
}
