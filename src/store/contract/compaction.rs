//! Compaction.

use super::{Test, next, refused, show_batch, show_kvs};
use crate::{KeyRange, RangeRequest, Revision};

async fn history(store: Test<'_>) {
    store.put("a", "1").await; // 2
    store.put("a", "2").await; // 3
    store.put("b", "1").await; // 4
    store.delete("a").await; // 5
    store.put("b", "2").await; // 6
}

async fn at(store: Test<'_>, revision: i64) -> Vec<String> {
    show_kvs(&store.range(RangeRequest::new(KeyRange::all()).at(Revision(revision))).await.kvs)
}

pub(crate) async fn what_the_compact_revision_needs_stays_readable(store: Test<'_>) {
    history(store).await;
    store.0.compact(Revision(4)).await.expect("compacted");
    assert_eq!(at(store, 4).await, ["a=2", "b=1"]);
    assert_eq!(at(store, 5).await, ["b=1"]);
    assert_eq!(at(store, 6).await, ["b=2"]);
    assert_eq!(store.revision().await, Revision(6), "compaction is no revision");
    store.0.compact(Revision(6)).await.expect("compacted");
    assert_eq!(at(store, 6).await, ["b=2"]);
}

pub(crate) async fn reads_and_watches_before_the_compact_revision_are_refused(store: Test<'_>) {
    history(store).await;
    store.0.compact(Revision(4)).await.expect("compacted");
    let read = store.0.range(RangeRequest::new(KeyRange::all()).at(Revision(3))).await;
    assert_eq!(refused(read), ("compacted", 4));
    // An engine may tell at once, or as the watch's only item.
    let watched = match store.0.watch(KeyRange::all(), Some(Revision(3))).await {
        Ok(mut watch) => watch.next().await.expect("an item").map(|batch| show_batch(&batch)),
        Err(error) => Err(error),
    };
    assert_eq!(refused(watched), ("compacted", 4));
}

pub(crate) async fn a_watch_from_the_compact_revision_sees_it(store: Test<'_>) {
    history(store).await;
    store.0.compact(Revision(5)).await.expect("compacted");
    let mut watch = store.watch(KeyRange::all(), Some(Revision(5))).await;
    assert_eq!(show_batch(&next(&mut watch).await), (5, vec!["-a".to_string()]));
    let batch = next(&mut watch).await;
    assert_eq!(show_batch(&batch), (6, vec!["b=2".to_string()]));
    assert_eq!(batch.events[0].prev().map(|kv| kv.mod_revision), Some(Revision(4)));
}

pub(crate) async fn compacting_twice_or_into_the_future_is_refused(store: Test<'_>) {
    history(store).await;
    store.0.compact(Revision(4)).await.expect("compacted");
    assert_eq!(refused(store.0.compact(Revision(4)).await), ("compacted", 4));
    assert_eq!(refused(store.0.compact(Revision(7)).await), ("future", 6));
}

pub(crate) async fn a_deleted_key_stays_deleted(store: Test<'_>) {
    history(store).await;
    store.0.compact(Revision(6)).await.expect("compacted");
    assert_eq!(store.get("a").await, None);
    store.put("a", "3").await;
    let kv = store.get("a").await.expect("written");
    assert_eq!((kv.create_revision, kv.version), (Revision(7), 1));
}
