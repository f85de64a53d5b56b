//! Watches.

use super::{Test, next, show_batch, show_kv};
use crate::{Event, KeyRange, Op, Revision};

pub(crate) async fn a_watch_sees_what_comes_after_it(store: Test<'_>) {
    store.put("a/1", "before").await;
    let mut watch = store.watch(KeyRange::prefix("a/"), None).await;
    store.put("a/1", "1").await;
    store.put("b", "elsewhere").await;
    store.delete("a/1").await;
    assert_eq!(show_batch(&next(&mut watch).await), (3, vec!["a/1=1".to_string()]));
    assert_eq!(show_batch(&next(&mut watch).await), (5, vec!["-a/1".to_string()]));
}

pub(crate) async fn a_watch_from_the_past_replays_then_follows(store: Test<'_>) {
    store.put("a", "1").await; // 2
    store.put("a", "2").await; // 3
    store.delete("a").await; // 4
    let mut watch = store.watch(KeyRange::key("a"), Some(Revision(3))).await;
    store.put("a", "3").await; // 5
    assert_eq!(show_batch(&next(&mut watch).await), (3, vec!["a=2".to_string()]));
    assert_eq!(show_batch(&next(&mut watch).await), (4, vec!["-a".to_string()]));
    assert_eq!(show_batch(&next(&mut watch).await), (5, vec!["a=3".to_string()]));
}

pub(crate) async fn a_watch_from_the_future_waits_for_it(store: Test<'_>) {
    let mut watch = store.watch(KeyRange::all(), Some(Revision(4))).await;
    for value in ["2", "3", "4", "5"] {
        store.put("a", value).await;
    }
    assert_eq!(show_batch(&next(&mut watch).await), (4, vec!["a=4".to_string()]));
    assert_eq!(show_batch(&next(&mut watch).await), (5, vec!["a=5".to_string()]));
}

pub(crate) async fn events_carry_the_previous_value(store: Test<'_>) {
    let mut live = store.watch(KeyRange::all(), None).await;
    store.put("a", "1").await;
    store.put("a", "2").await;
    store.delete("a").await;
    store.put("a", "3").await;
    let mut replay = store.watch(KeyRange::all(), Some(Revision(2))).await;
    for watch in [&mut live, &mut replay] {
        let mut prevs = Vec::new();
        for _ in 0..4 {
            let batch = next(watch).await;
            prevs.push(batch.events[0].prev().map(show_kv));
        }
        assert_eq!(prevs, [None, Some("a=1".to_string()), Some("a=2".into()), None]);
    }
}

pub(crate) async fn a_transaction_is_one_batch_of_what_is_in_range(store: Test<'_>) {
    let mut watch = store.watch(KeyRange::prefix("a/"), None).await;
    store.ops(vec![Op::put("a/2", "1"), Op::put("b", "1"), Op::put("a/1", "1")]).await;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, Revision(2));
    let mut keys: Vec<_> = batch.events.iter().map(Event::key).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["a/1", "a/2"]);
    let Event::Put { kv, .. } = &batch.events[0] else { panic!("a put, got {batch:?}") };
    assert_eq!((kv.mod_revision, kv.version), (Revision(2), 1));
}

/// Longer, and larger in bytes, than any engine keeps at hand.
const LONG: i64 = 1500;

pub(crate) async fn a_long_history_replays_completely_and_in_order(store: Test<'_>) {
    for n in 0..LONG {
        store.put(["a/1", "a/2", "b"][n as usize % 3], format!("{n:>4000}")).await;
    }
    let mut watch = store.watch(KeyRange::prefix("a/"), Some(Revision(2))).await;
    for n in (0..LONG).filter(|n| n % 3 != 2) {
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, Revision(n + 2));
        let Event::Put { kv, prev } = &batch.events[0] else { panic!("a put, got {batch:?}") };
        assert_eq!(kv.value, format!("{n:>4000}"));
        assert_eq!(prev.as_ref().map(|kv| kv.mod_revision.0), (n >= 3).then_some(n + 2 - 3));
    }
}

pub(crate) async fn a_watcher_that_lags_behind_misses_nothing(store: Test<'_>) {
    let mut watch = store.watch(KeyRange::key("a"), None).await;
    for n in 0..LONG {
        store.put(if n % 2 == 0 { "a" } else { "b" }, format!("{n:>4000}")).await;
    }
    for n in (0..LONG).step_by(2) {
        assert_eq!(next(&mut watch).await.revision, Revision(n + 2));
    }
    store.put("a", "live").await;
    assert_eq!(next(&mut watch).await.revision, Revision(LONG + 2));
}

pub(crate) async fn progress_tells_how_far_a_quiet_watch_has_seen(store: Test<'_>) {
    let mut watch = store.watch(KeyRange::prefix("a/"), None).await;
    let progress = watch.progress();
    progress.request();
    let batch = next(&mut watch).await;
    assert!(batch.events.is_empty() && batch.revision == Revision(1), "{batch:?}");

    let written = store.put("b", "elsewhere").await;
    assert!(store.revision().await >= written);
    progress.request();
    assert_eq!(show_batch(&next(&mut watch).await), (2, vec![]));
}

pub(crate) async fn progress_comes_after_the_events_before_it(store: Test<'_>) {
    let mut watch = store.watch(KeyRange::prefix("a/"), None).await;
    store.put("a/1", "1").await; // 2
    store.put("b", "1").await; // 3
    watch.progress().request();
    assert_eq!(show_batch(&next(&mut watch).await), (2, vec!["a/1=1".to_string()]));
    assert_eq!(show_batch(&next(&mut watch).await), (3, vec![]));
}
