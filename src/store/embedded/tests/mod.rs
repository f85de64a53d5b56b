//! Tests of the embedded engine: the contract, and what is its own.

mod bench;
mod crash;
mod disk;
mod model;
mod opening;
mod snapshot;

mod contract {
    //! The contract of every engine.
    use super::{Home, open};
    use crate::contract::Fixture;

    async fn fixture() -> Fixture {
        let home = Home::new();
        let (store, scope) = open(&home.options());
        Fixture { store: std::sync::Arc::new(store), _keep: Box::new((home, scope)) }
    }

    crate::contract::tests!(super::fixture);
}

use std::time::Duration;

use lifecycle::Scope;

use super::{EmbeddedStore, Options};

/// A directory for one store, removed at the end.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn options(&self) -> Options {
        Options { ring_bytes: 256 << 10, ..Options::new(self.0.path().join("store")) }
    }
}

fn open(options: &Options) -> (EmbeddedStore, Scope) {
    let scope = Scope::root("store-test");
    let store = EmbeddedStore::open(options, &scope).expect("the store opens");
    (store, scope)
}

async fn close(store: EmbeddedStore, scope: Scope) {
    drop(store);
    assert!(scope.close(Duration::from_secs(20)).await, "the store's threads end");
}
