//! Snapshots.

use std::{fs, os::unix::fs::PermissionsExt};

use super::{Home, close, open};
use crate::{KeyRange, Op, RangeRequest, Revision, Store, StoreError, Txn};

#[tokio::test]
async fn a_snapshot_taken_under_load_is_a_store_of_its_revision() {
    let (home, other) = (Home::new(), Home::new());
    let (store, scope) = open(&home.options());
    let write = async |n: usize| {
        let ops = vec![Op::put(format!("a/{n}"), vec![b'x'; 2000]), Op::put("count", n.to_string())];
        store.txn(Txn::always(ops)).await.unwrap().revision
    };
    for n in 0..200 {
        write(n).await;
    }
    let path = home.0.path().join("copy.db");
    let snapshot = store.snapshot_to(&path);
    let writing = async {
        for n in 200..300 {
            write(n).await;
        }
    };
    let (snapshot, ()) = tokio::join!(snapshot, writing);
    let snapshot = snapshot.unwrap();
    assert!(snapshot >= Revision(201));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    fs::create_dir(other.options().dir).unwrap();
    fs::rename(&path, other.options().dir.join("store.db")).unwrap();
    let (restored, restored_scope) = open(&other.options());
    assert_eq!(restored.current_revision().await.unwrap(), snapshot);
    let there = restored.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    let then = store.range(RangeRequest::new(KeyRange::all()).at(snapshot)).await.unwrap();
    assert_eq!(there.kvs, then.kvs);
    close(restored, restored_scope).await;
    close(store, scope).await;
}

#[tokio::test]
async fn a_snapshot_never_overwrites_and_leaves_no_half_file() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    let path = home.0.path().join("copy.db");
    fs::write(&path, "precious").unwrap();
    let refused = store.snapshot_to(&path).await;
    assert!(matches!(refused, Err(StoreError::Snapshot { .. })), "{refused:?}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let nowhere = home.0.path().join("absent/copy.db");
    store.snapshot_to(&nowhere).await.unwrap_err();
    let left: Vec<_> = fs::read_dir(home.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    close(store, scope).await;
}
