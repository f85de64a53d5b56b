//! Transactions and revisions.

use futures_util::future::join_all;

use super::{Test, show_kv, show_kvs, show_put};
use crate::{
    Compare, KeyRange, LeaseId, Op, OpResponse, Operator, RangeRequest, Revision, StoreError, Target, Txn,
};

pub(crate) async fn an_empty_store_is_at_revision_one(store: Test<'_>) {
    assert_eq!(store.revision().await, Revision(1));
    assert_eq!(store.put("a", "1").await, Revision(2));
    assert_eq!(store.revision().await, Revision(2));
}

pub(crate) async fn each_writing_transaction_is_one_revision(store: Test<'_>) {
    let done = store.ops(vec![Op::put("a", "1"), Op::put("b", "2"), Op::delete("c")]).await;
    assert_eq!((done.succeeded, done.revision), (true, Revision(2)));
    for key in ["a", "b"] {
        let kv = store.get(key).await.expect("written");
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(2), Revision(2), 1));
    }
    assert_eq!(store.ops(vec![Op::get("a")]).await.revision, Revision(2), "reading is no revision");
    assert_eq!(store.put("a", "1").await, Revision(3), "the same value again is a write");
}

pub(crate) async fn a_key_counts_its_versions_and_starts_anew_after_a_delete(store: Test<'_>) {
    store.put("a", "1").await;
    store.put("b", "1").await;
    store.put("a", "2").await;
    let kv = store.get("a").await.expect("written");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(2), Revision(4), 2));
    store.delete("a").await;
    assert_eq!(store.get("a").await, None);
    store.put("a", "3").await;
    let kv = store.get("a").await.expect("written");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (Revision(6), Revision(6), 1));
}

pub(crate) async fn deleting_what_is_absent_makes_no_revision(store: Test<'_>) {
    store.put("a", "1").await;
    let done = store.ops(vec![Op::delete("b"), Op::Delete(KeyRange::prefix("c"))]).await;
    assert_eq!(done.revision, Revision(2));
    assert_eq!(done.responses, [OpResponse::Delete { prev: vec![] }, OpResponse::Delete { prev: vec![] }]);
    assert_eq!(store.revision().await, Revision(2));
}

pub(crate) async fn a_failed_compare_runs_the_other_branch(store: Test<'_>) {
    store.put("a", "1").await;
    let create = Txn::when(vec![Compare::absent("a")], vec![Op::put("a", "2")]);
    let done = store.txn(create.clone()).await;
    assert_eq!((done.succeeded, done.revision, done.responses.len()), (false, Revision(2), 0));
    assert_eq!(show_kv(&store.get("a").await.expect("kept")), "a=1");

    let done = store.txn(create.or_else(vec![Op::get("a")])).await;
    let [OpResponse::Get(found)] = &done.responses[..] else { panic!("one read, got {:?}", done.responses) };
    assert_eq!(show_kvs(&found.kvs), ["a=1"]);
    assert_eq!(found.kvs[0].mod_revision, Revision(2));

    let update = Txn::when(vec![Compare::mod_revision("a", Revision(2))], vec![Op::put("a", "2")]);
    let done = store.txn(update.clone()).await;
    assert_eq!((done.succeeded, done.revision), (true, Revision(3)));
    assert_eq!(show_put(&done.responses[0]).as_deref(), Some("a=1"));
    assert!(!store.txn(update).await.succeeded, "the second writer with the same revision loses");

    let both = vec![Compare::mod_revision("a", Revision(3)), Compare::absent("a")];
    assert!(!store.txn(Txn::when(both, vec![])).await.succeeded, "all compares must hold");
}

pub(crate) async fn an_absent_key_compares_as_zero_and_never_by_value(store: Test<'_>) {
    let holds = |target, operator| store.txn(Txn::when(vec![Compare::new("a", target, operator)], vec![]));
    assert!(holds(Target::Version(0), Operator::Equal).await.succeeded);
    assert!(holds(Target::CreateRevision(Revision(0)), Operator::Equal).await.succeeded);
    assert!(holds(Target::ModRevision(Revision(1)), Operator::Less).await.succeeded);
    assert!(holds(Target::Lease(None), Operator::Equal).await.succeeded);
    assert!(!holds(Target::Value("".into()), Operator::Equal).await.succeeded);
    assert!(!holds(Target::Value("x".into()), Operator::NotEqual).await.succeeded);
}

pub(crate) async fn every_target_and_operator_compares(store: Test<'_>) {
    store.put("other", "").await; // 2
    store.put("a", "m").await; // 3
    store.put("a", "m").await; // 4: created 3, modified 4, version 2
    let cases = [
        (
            Target::CreateRevision(Revision(2)),
            Target::CreateRevision(Revision(3)),
            Target::CreateRevision(Revision(4)),
        ),
        (
            Target::ModRevision(Revision(3)),
            Target::ModRevision(Revision(4)),
            Target::ModRevision(Revision(5)),
        ),
        (Target::Version(1), Target::Version(2), Target::Version(3)),
        (Target::Value("l".into()), Target::Value("m".into()), Target::Value("ma".into())),
    ];
    for (below, same, above) in cases {
        for (target, truths) in [
            (below, [false, true, false, true]),
            (same, [true, false, false, false]),
            (above, [false, true, true, false]),
        ] {
            let operators = [Operator::Equal, Operator::NotEqual, Operator::Less, Operator::Greater];
            for (operator, truth) in operators.into_iter().zip(truths) {
                let compare = Compare::new("a", target.clone(), operator);
                let shown = format!("{compare:?}");
                assert_eq!(store.txn(Txn::when(vec![compare], vec![])).await.succeeded, truth, "{shown}");
            }
        }
    }
    let unleased = Compare::new("a", Target::Lease(Some(LeaseId(7))), Operator::Less);
    assert!(store.txn(Txn::when(vec![unleased], vec![])).await.succeeded);
}

pub(crate) async fn a_transaction_reads_its_own_writes(store: Test<'_>) {
    store.ops(vec![Op::put("a/1", "old"), Op::put("a/2", "old")]).await;
    let all = || Op::Get(RangeRequest::new(KeyRange::prefix("a/")));
    let done = store.ops(vec![all(), Op::put("a/0", "new"), Op::delete("a/1"), all()]).await;
    let (OpResponse::Get(before), OpResponse::Get(after)) = (&done.responses[0], &done.responses[3]) else {
        panic!("two reads, got {:?}", done.responses)
    };
    assert_eq!(show_kvs(&before.kvs), ["a/1=old", "a/2=old"]);
    assert_eq!(show_kvs(&after.kvs), ["a/0=new", "a/2=old"]);
    assert_eq!(after.kvs[0].mod_revision, done.revision);
}

pub(crate) async fn a_key_written_twice_is_refused_and_nothing_happens(store: Test<'_>) {
    for ops in [
        vec![Op::put("b", "1"), Op::put("a", "1"), Op::put("a", "2")],
        vec![Op::put("b", "1"), Op::put("a", "1"), Op::Delete(KeyRange::prefix("a"))],
    ] {
        let refused = store.0.txn(Txn::always(ops)).await;
        assert!(matches!(refused, Err(StoreError::DuplicateKey { .. })), "{refused:?}");
    }
    assert_eq!(store.get("b").await, None);
    assert_eq!(store.revision().await, Revision(1));
}

pub(crate) async fn a_range_delete_answers_what_it_deleted(store: Test<'_>) {
    store.ops(vec![Op::put("a/1", "1"), Op::put("a/2", "2"), Op::put("b", "3")]).await;
    let done = store.ops(vec![Op::Delete(KeyRange::prefix("a/"))]).await;
    let [OpResponse::Delete { prev }] = &done.responses[..] else { panic!("got {:?}", done.responses) };
    assert_eq!(show_kvs(prev), ["a/1=1", "a/2=2"]);
    assert_eq!(done.revision, Revision(3));
    assert_eq!(show_kvs(&store.range(RangeRequest::new(KeyRange::all())).await.kvs), ["b=3"]);
}

pub(crate) async fn of_many_concurrent_creates_one_wins(store: Test<'_>) {
    let creates =
        (0..32).map(|n| store.txn(Txn::when(vec![Compare::absent("a")], vec![Op::put("a", n.to_string())])));
    let done = join_all(creates).await;
    assert_eq!(done.iter().filter(|done| done.succeeded).count(), 1);
    assert_eq!(store.revision().await, Revision(2));
}
