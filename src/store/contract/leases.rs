//! Leases. Times are in whole seconds, the least that etcd knows.

use std::time::Duration;

use super::{Test, next, show_batch, show_kvs};
use crate::{KeyRange, LeaseId, Op, RangeRequest, Revision, StoreError, Txn};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(600);

async fn grant(store: Test<'_>, ttl: Duration) -> LeaseId {
    store.0.grant(None, ttl).await.expect("granted")
}

pub(crate) async fn a_lease_that_ends_deletes_its_keys_in_one_revision(store: Test<'_>) {
    let lease = grant(store, SECOND).await;
    assert_eq!(store.revision().await, Revision(1), "a lease is no revision");
    let mut watch = store.watch(KeyRange::all(), None).await;
    store
        .ops(vec![Op::put_leased("a", "1", lease), Op::put_leased("b", "1", lease), Op::put("c", "1")])
        .await;
    assert_eq!(store.get("a").await.expect("written").lease, Some(lease));
    assert_eq!(next(&mut watch).await.revision, Revision(2));
    let batch = next(&mut watch).await;
    let (revision, mut events) = show_batch(&batch);
    events.sort();
    assert_eq!((revision, events), (3, vec!["-a".to_string(), "-b".into()]));
    assert!(batch.events.iter().all(|event| event.prev().is_some_and(|kv| kv.lease == Some(lease))));
    assert_eq!(show_kvs(&store.range(RangeRequest::new(KeyRange::all())).await.kvs), ["c=1"]);
    assert!(matches!(store.0.keep_alive(lease).await, Err(StoreError::LeaseNotFound(id)) if id == lease));
}

pub(crate) async fn a_lease_that_is_kept_alive_does_not_end(store: Test<'_>) {
    // The second lease is the clock: it ends after the first one would have.
    let kept = grant(store, 2 * SECOND).await;
    let clock = grant(store, 3 * SECOND).await;
    let mut watch = store.watch(KeyRange::key("clock"), None).await;
    store.ops(vec![Op::put_leased("kept", "1", kept), Op::put_leased("clock", "1", clock)]).await;
    next(&mut watch).await;
    let ended = async { next(&mut watch).await };
    tokio::pin!(ended);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            () = tokio::time::sleep(SECOND / 4) => {
                let ttl = store.0.keep_alive(kept).await.expect("alive");
                assert!(ttl >= 2 * SECOND);
            }
        }
    }
    assert!(store.get("kept").await.is_some());
}

pub(crate) async fn a_revoked_lease_takes_its_keys_along(store: Test<'_>) {
    let lease = grant(store, LONG).await;
    store.put("a", "1").await;
    store.ops(vec![Op::put_leased("a", "2", lease), Op::put_leased("b", "1", lease)]).await;
    store.0.revoke(lease).await.expect("revoked");
    assert_eq!(store.revision().await, Revision(4));
    assert_eq!(store.range(RangeRequest::new(KeyRange::all())).await.count, 0);
    assert!(matches!(store.0.revoke(lease).await, Err(StoreError::LeaseNotFound(_))));
}

pub(crate) async fn a_put_without_a_lease_detaches_the_key(store: Test<'_>) {
    let (first, second) = (grant(store, LONG).await, grant(store, LONG).await);
    assert_ne!(first, second);
    store.ops(vec![Op::put_leased("a", "1", first), Op::put_leased("b", "1", first)]).await;
    store.ops(vec![Op::put("a", "2"), Op::put_leased("b", "2", second)]).await;
    store.0.revoke(first).await.expect("revoked");
    assert_eq!(store.revision().await, Revision(3), "it held no key any more");
    assert_eq!(store.get("a").await.expect("kept").lease, None);
    store.0.revoke(second).await.expect("revoked");
    assert_eq!(show_kvs(&store.range(RangeRequest::new(KeyRange::all())).await.kvs), ["a=2"]);
}

pub(crate) async fn an_unknown_lease_is_refused(store: Test<'_>) {
    let ops = vec![Op::put("a", "1"), Op::put_leased("b", "1", LeaseId(77))];
    let refused = store.0.txn(Txn::always(ops)).await;
    assert!(matches!(refused, Err(StoreError::LeaseNotFound(LeaseId(77)))), "{refused:?}");
    assert_eq!(store.get("a").await, None);
    assert_eq!(store.revision().await, Revision(1));
}

pub(crate) async fn a_lease_without_keys_ends_without_a_revision(store: Test<'_>) {
    let lease = grant(store, LONG).await;
    store.0.revoke(lease).await.expect("revoked");
    assert_eq!(store.revision().await, Revision(1));
}

pub(crate) async fn a_chosen_id_is_taken_once(store: Test<'_>) {
    assert_eq!(store.0.grant(Some(LeaseId(5)), LONG).await.expect("granted"), LeaseId(5));
    let again = store.0.grant(Some(LeaseId(5)), LONG).await;
    assert!(matches!(again, Err(StoreError::LeaseExists(LeaseId(5)))), "{again:?}");
    store.0.revoke(LeaseId(5)).await.expect("revoked");
    store.0.grant(Some(LeaseId(5)), LONG).await.expect("free again");
}
