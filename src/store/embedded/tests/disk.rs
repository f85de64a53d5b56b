//! A disk that refuses.

use std::time::{Duration, Instant};

use super::{Home, close, open};
use crate::{
    Compactor, KeyRange, LeaseId, Op, RangeRequest, Revision, Store, StoreError, Txn, WriteFailure,
    embedded::{EmbeddedStore, Options},
};

const QUOTA_BYTES: u64 = 256 << 10;

fn small(home: &Home) -> Options {
    Options { quota_bytes: Some(QUOTA_BYTES), ..home.options() }
}

async fn put(store: &EmbeddedStore, key: &str, bytes: usize) -> Result<Revision, StoreError> {
    let ops = vec![Op::put(key.to_string(), vec![b'x'; bytes])];
    store.txn(Txn::always(ops)).await.map(|done| done.revision)
}

async fn keys(store: &EmbeddedStore) -> Vec<(bytes::Bytes, Revision)> {
    let found = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    found.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect()
}

/// Overwrites one key until the disk is full; answers the refusal.
async fn fill(store: &EmbeddedStore) -> StoreError {
    for _ in 0..1000 {
        if let Err(error) = put(store, "a", 8000).await {
            return error;
        }
    }
    panic!("the quota was never reached");
}

#[tokio::test]
async fn a_full_disk_refuses_the_write_and_changes_nothing() {
    let home = Home::new();
    let (store, scope) = open(&small(&home));
    let mut watch = store.watch(KeyRange::key("big"), None).await.unwrap();
    let error = fill(&store).await;
    assert!(error.is_retryable());
    assert!(
        matches!(&error, StoreError::Write { file, failure: WriteFailure::Full { quota_bytes: Some(QUOTA_BYTES) }, .. }
            if *file == home.options().dir.join("store.db")),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("store.db") && text.contains("free space"), "{text}");
    assert!(!store.stats().writable);

    let (before, current) = (keys(&store).await, store.current_revision().await.unwrap());
    let ops = vec![Op::put("small", "1"), Op::put("big", vec![b'x'; 100_000]), Op::delete("a")];
    store.txn(Txn::always(ops)).await.unwrap_err();
    assert_eq!(keys(&store).await, before, "a refused transaction is in no read");
    assert_eq!(store.current_revision().await.unwrap(), current);
    watch.progress().request();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.revision, batch.events.len()), (current, 0), "nor in any watch");
    let old = store.range(RangeRequest::new(KeyRange::all()).at(Revision(2))).await.unwrap();
    assert_eq!(old.count, 1, "reads go on, from the disk too");

    drop(watch);
    close(store, scope).await;
    let (store, scope) = open(&home.options());
    assert_eq!(keys(&store).await, before, "nor is it there after a restart");
    assert_eq!(put(&store, "more", 8000).await.unwrap(), current.next(), "its revision was never given away");
    close(store, scope).await;
}

/// Without the quota's help: the file system itself has no room for the write-ahead log. Needs root, for the mount.
#[test]
fn a_full_file_system_refuses_until_there_is_room() {
    // This thread's own mounts, and those of the store's threads, which it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root");
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let home = Home::new();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("store-test"), home.0.path(), Some("tmpfs"), flags, Some("size=2m")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (store, scope) = open(&home.options());
        let ballast = home.0.path().join("ballast");
        std::fs::write(&ballast, vec![0; 1 << 20]).unwrap();
        let error = fill(&store).await;
        assert!(
            matches!(error, StoreError::Write { failure: WriteFailure::Full { .. } | WriteFailure::Io, .. }),
            "{error:?}"
        );
        let (before, current) = (keys(&store).await, store.current_revision().await.unwrap());
        for _ in 0..3 {
            put(&store, "b", 8000).await.unwrap_err();
        }
        assert_eq!((keys(&store).await, store.stats().writable), (before, false));
        std::fs::remove_file(&ballast).unwrap();
        assert_eq!(put(&store, "b", 8000).await.unwrap(), current.next());
        assert!(store.stats().writable);
        let after = keys(&store).await;
        close(store, scope).await;
        let (store, scope) = open(&home.options());
        assert_eq!(keys(&store).await, after);
        close(store, scope).await;
    });
    nix::mount::umount(home.0.path()).unwrap();
}

#[tokio::test]
async fn the_compactor_compacts_what_is_due() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    for _ in 0..20 {
        put(&store, "a", 10).await.unwrap();
    }
    let (mut compactor, now) = (Compactor::new(Duration::from_secs(60)), Instant::now());
    assert_eq!(compactor.tick(&store, now).await.unwrap(), None);
    let later = now + Duration::from_secs(60);
    assert_eq!(compactor.tick(&store, later).await.unwrap(), Some(Revision(21)));
    assert_eq!(compactor.tick(&store, later).await.unwrap(), None);
    assert_eq!(store.stats().compacted, Revision(21));
    close(store, scope).await;
}

#[tokio::test]
async fn compaction_makes_room_and_writes_succeed_again() {
    let home = Home::new();
    let (store, scope) = open(&small(&home));
    fill(&store).await;
    let current = store.current_revision().await.unwrap();
    store.compact(current).await.unwrap();
    let again = async {
        loop {
            if let Ok(revision) = put(&store, "a", 8000).await {
                return revision;
            }
        }
    };
    let revision = tokio::time::timeout(Duration::from_secs(10), again).await.expect("room is made");
    assert_eq!(revision, current.next());
    assert!(store.stats().writable);
    close(store, scope).await;
}

#[tokio::test]
async fn a_refused_lease_is_not_there() {
    let home = Home::new();
    let (store, scope) = open(&small(&home));
    let lease = store.grant(None, Duration::from_secs(600)).await.unwrap();
    fill(&store).await;
    let leased = vec![Op::put_leased("leased", vec![b'x'; 100_000], lease)];
    store.txn(Txn::always(leased)).await.unwrap_err();
    store.compact(store.current_revision().await.unwrap()).await.unwrap();
    store.revoke(lease).await.unwrap();
    assert_eq!(keys(&store).await.len(), 1, "only the key that was stored");
    assert!(matches!(store.keep_alive(LeaseId(99)).await, Err(StoreError::LeaseNotFound(_))));
    close(store, scope).await;
}

#[tokio::test]
async fn compaction_shrinks_the_file_and_the_index() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    for _ in 0..400 {
        put(&store, "a", 8000).await.unwrap();
    }
    assert_eq!(store.stats().size.past_versions, 399);
    store.compact(store.current_revision().await.unwrap()).await.unwrap();
    assert_eq!(store.stats().size.past_versions, 0);
    close(store, scope).await; // also checkpoints
    let file = home.options().dir.join("store.db");
    let (store, scope) = open(&home.options());
    let shrunk = async {
        // Stopping leaves the rest of the sweep to the next start; each write gives it another turn.
        while std::fs::metadata(&file).unwrap().len() > 1 << 20 {
            put(&store, "b", 8000).await.unwrap();
            let connection = rusqlite::Connection::open(&file).unwrap();
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shrunk).await.expect("the file shrinks");
    close(store, scope).await;
}

#[tokio::test]
async fn a_request_beyond_the_limit_is_refused_at_the_door() {
    let home = Home::new();
    let (store, scope) = open(&Options { max_request_bytes: 1000, ..home.options() });
    put(&store, "a", 999).await.unwrap();
    let refused = put(&store, "a", 1000).await;
    assert!(
        matches!(refused, Err(StoreError::TooLarge { size_bytes: 1001, limit_bytes: 1000 })),
        "{refused:?}"
    );
    close(store, scope).await;
}
