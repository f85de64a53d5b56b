//! What is made at the start.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::registry::{DeleteOptions, Objects, Precondition};
use crate::status::{ApiError, GroupResource};

type Key = (String, String, String);

/// A store of objects that counts writes.
#[derive(Default)]
struct Memory {
    objects: Mutex<BTreeMap<Key, Value>>,
    writes: Mutex<usize>,
}

fn key(what: &GroupResource, namespace: &str, name: &str) -> Key {
    (what.to_string(), namespace.to_owned(), name.to_owned())
}

impl Objects for Memory {
    fn get<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        let found = self.objects.lock().get(&key(what, namespace, name)).cloned();
        async move { found.ok_or_else(|| ApiError::not_found(what, name)) }.boxed()
    }

    fn list<'a>(
        &'a self,
        _what: &'a GroupResource,
        _namespace: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, ApiError>> {
        async move { Ok(Vec::new()) }.boxed()
    }

    fn create<'a>(
        &'a self,
        what: &'a GroupResource,
        object: Value,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        *self.writes.lock() += 1;
        self.objects.lock().insert(key(what, &text("namespace"), &text("name")), object.clone());
        async move { Ok(object) }.boxed()
    }

    fn update<'a>(
        &'a self,
        what: &'a GroupResource,
        namespace: &'a str,
        name: &'a str,
        _precondition: Precondition,
        change: &'a mut (dyn FnMut(&mut Value) -> Result<(), ApiError> + Send),
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        let mut objects = self.objects.lock();
        let outcome = match objects.get_mut(&key(what, namespace, name)) {
            Some(object) => change(object).map(|()| object.clone()),
            None => Err(ApiError::not_found(what, name)),
        };
        *self.writes.lock() += 1;
        async move { outcome }.boxed()
    }

    fn delete<'a>(
        &'a self,
        what: &'a GroupResource,
        _namespace: &'a str,
        name: &'a str,
        _options: DeleteOptions,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        async move { Err(ApiError::not_found(what, name)) }.boxed()
    }
}

fn place(address: &str) -> Place {
    Place {
        service_ip: "10.96.0.1".parse().unwrap(),
        service_port: 443,
        endpoint: Endpoint { addresses: vec![address.parse().unwrap()], port: 6443 },
    }
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let memory = Memory::default();
    let wanted = all(&place("192.0.2.1"));
    let first = ensure(&memory, &wanted).await;
    assert_eq!((first.created, first.repaired, first.failed.len()), (wanted.len(), 0, 0));
    let second = ensure(&memory, &wanted).await;
    assert_eq!((second.created, second.repaired, second.failed.len()), (0, 0, 0));
    assert_eq!(*memory.writes.lock(), wanted.len());
}

#[tokio::test]
async fn the_servers_new_address_replaces_the_old_one() {
    let memory = Memory::default();
    ensure(&memory, &all(&place("192.0.2.1"))).await;
    let moved = ensure(&memory, &all(&place("192.0.2.2"))).await;
    assert_eq!((moved.created, moved.repaired), (0, 2));
    let slice = memory.objects.lock()
        [&key(&GroupResource::new("discovery.k8s.io", "endpointslices"), "default", "kubernetes")]
        .clone();
    assert_eq!(slice["endpoints"], json!([{"addresses": ["192.0.2.2"], "conditions": {"ready": true}}]));
}

#[test]
fn the_objects_are_valid() {
    use crate::registry::strategy::service::Family;
    use crate::registry::table::{Actions, Cluster, rows};
    let (stored, _) =
        rows(&Cluster { service_families: vec![Family::V4], ..Cluster::default() }, &Actions::default());
    for wanted in all(&place("192.0.2.1")) {
        let row = stored.iter().find(|row| row.group_resource() == wanted.what).expect("a row");
        let mut object = wanted.object;
        row.strategy.defaults(&mut object);
        row.strategy.prepare_create(&mut object);
        assert_eq!(row.strategy.validate_create(&object), Vec::new(), "{object}");
        assert_eq!(object["apiVersion"], row.storage().api_version());
    }
}
