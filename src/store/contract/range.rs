//! Reads.

use super::{Test, refused, show_kvs};
use crate::{Content, KeyRange, Op, RangeRequest, Revision};

async fn letters(store: Test<'_>) {
    store.ops(["c", "a", "b", "d"].map(|key| Op::put(key, key)).into()).await;
}

pub(crate) async fn keys_come_in_byte_order(store: Test<'_>) {
    store.ops(vec![Op::put("b", "1"), Op::put("a/b", "2"), Op::put("a", "3"), Op::put("a\x7f", "4")]).await;
    let found = store.range(RangeRequest::new(KeyRange::all())).await;
    assert_eq!(show_kvs(&found.kvs), ["a=3", "a/b=2", "a\x7f=4", "b=1"]);
    assert_eq!((found.revision, found.count, found.more), (Revision(2), 4, false));
}

pub(crate) async fn spans_prefixes_and_single_keys_select(store: Test<'_>) {
    letters(store).await;
    store.put("bb", "bb").await;
    let keys = async |range| show_kvs(&store.range(RangeRequest::new(range)).await.kvs);
    assert_eq!(keys(KeyRange::span("b", "d")).await, ["b=b", "bb=bb", "c=c"]);
    assert_eq!(keys(KeyRange::prefix("b")).await, ["b=b", "bb=bb"]);
    assert_eq!(keys(KeyRange::key("b")).await, ["b=b"]);
    assert_eq!(keys(KeyRange::from_key("c")).await, ["c=c", "d=d"]);
    assert!(keys(KeyRange::span("x", "a")).await.is_empty());
    assert!(keys(KeyRange::key("bbb")).await.is_empty());
}

pub(crate) async fn a_limit_tells_that_there_is_more(store: Test<'_>) {
    letters(store).await;
    let found = store.range(RangeRequest::new(KeyRange::all()).limit(3)).await;
    assert_eq!(show_kvs(&found.kvs), ["a=a", "b=b", "c=c"]);
    assert_eq!((found.more, found.count), (true, 4));
    let found = store.range(RangeRequest::new(KeyRange::all()).limit(4)).await;
    assert_eq!((found.kvs.len(), found.more, found.count), (4, false, 4));
}

pub(crate) async fn counts_and_keys_without_values(store: Test<'_>) {
    letters(store).await;
    store.delete("d").await;
    for revision in [None, Some(Revision(3))] {
        let all = || RangeRequest { revision, ..RangeRequest::new(KeyRange::all()) };
        let counted = store.range(all().content(Content::CountOnly)).await;
        assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 3, false));
        let keys = store.range(all().content(Content::KeysOnly)).await;
        assert_eq!(show_kvs(&keys.kvs), ["a=", "b=", "c="]);
        assert_eq!(keys.kvs[0].mod_revision, Revision(2));
    }
}

pub(crate) async fn a_read_at_an_old_revision_sees_that_revision(store: Test<'_>) {
    store.put("a", "1").await; // 2
    store.put("a", "2").await; // 3
    store.put("b", "1").await; // 4
    store.delete("a").await; // 5
    store.put("a", "3").await; // 6
    let at = async |revision| {
        let found = store.range(RangeRequest::new(KeyRange::all()).at(Revision(revision))).await;
        assert_eq!(found.revision, Revision(6), "the answer tells the store's revision");
        show_kvs(&found.kvs)
    };
    assert!(at(1).await.is_empty());
    assert_eq!(at(2).await, ["a=1"]);
    assert_eq!(at(3).await, ["a=2"]);
    assert_eq!(at(4).await, ["a=2", "b=1"]);
    assert_eq!(at(5).await, ["b=1"]);
    assert_eq!(at(6).await, ["a=3", "b=1"]);
    let old = store.range(RangeRequest::new(KeyRange::key("a")).at(Revision(3))).await;
    let kv = &old.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(2), Revision(3), 2));
}

pub(crate) async fn a_limited_read_at_an_old_revision_pages_consistently(store: Test<'_>) {
    letters(store).await;
    store.ops(vec![Op::delete("b"), Op::put("cc", "late"), Op::put("c", "late")]).await;
    let page = async |from| {
        let found = store.range(RangeRequest::new(KeyRange::from_key(from)).at(Revision(2)).limit(2)).await;
        (show_kvs(&found.kvs), found.more, found.count)
    };
    assert_eq!(page("a").await, (vec!["a=a".to_string(), "b=b".into()], true, 4));
    assert_eq!(page("b\0").await, (vec!["c=c".to_string(), "d=d".into()], false, 2));
}

pub(crate) async fn a_future_revision_is_refused(store: Test<'_>) {
    store.put("a", "1").await;
    let read = store.0.range(RangeRequest::new(KeyRange::all()).at(Revision(3))).await;
    assert_eq!(refused(read), ("future", 2));
}
