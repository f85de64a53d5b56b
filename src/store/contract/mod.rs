//! The contract: what every engine must do, as tests against `dyn Store`.
//!
//! `contract::tests!(open)` makes one test of each case for the engine that `open` gives: an async function that
//! answers a [`Fixture`] with an empty store.

pub(crate) mod compaction;
pub(crate) mod leases;
pub(crate) mod range;
pub(crate) mod txn;
pub(crate) mod watch;

use std::{sync::Arc, time::Duration};

use crate::{
    Event, KeyRange, KeyValue, Op, OpResponse, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn,
    TxnResponse, Watch, WatchBatch,
};

/// An empty store, and what must live as long as it.
pub(crate) struct Fixture {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) _keep: Box<dyn Send + Sync>,
}

/// Nothing in the contract takes longer than a lease of one second; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

macro_rules! tests {
    ($open:path; $($module:ident { $($case:ident),+ $(,)? })+) => {
        $(mod $module {
            $(#[tokio::test]
            async fn $case() {
                let fixture = $open().await;
                let test = $crate::contract::Test(fixture.store.as_ref());
                let case = $crate::contract::$module::$case(test);
                tokio::time::timeout($crate::contract::PATIENCE, case).await.expect("the case ends in time");
            })+
        })+
    };
    ($open:path) => {
        $crate::contract::tests! { $open;
            txn {
                an_empty_store_is_at_revision_one,
                each_writing_transaction_is_one_revision,
                a_key_counts_its_versions_and_starts_anew_after_a_delete,
                deleting_what_is_absent_makes_no_revision,
                a_failed_compare_runs_the_other_branch,
                an_absent_key_compares_as_zero_and_never_by_value,
                every_target_and_operator_compares,
                a_transaction_reads_its_own_writes,
                a_key_written_twice_is_refused_and_nothing_happens,
                a_range_delete_answers_what_it_deleted,
                of_many_concurrent_creates_one_wins,
            }
            range {
                keys_come_in_byte_order,
                spans_prefixes_and_single_keys_select,
                a_limit_tells_that_there_is_more,
                counts_and_keys_without_values,
                a_read_at_an_old_revision_sees_that_revision,
                a_limited_read_at_an_old_revision_pages_consistently,
                a_future_revision_is_refused,
            }
            watch {
                a_watch_sees_what_comes_after_it,
                a_watch_from_the_past_replays_then_follows,
                a_watch_from_the_future_waits_for_it,
                events_carry_the_previous_value,
                a_transaction_is_one_batch_of_what_is_in_range,
                a_long_history_replays_completely_and_in_order,
                a_watcher_that_lags_behind_misses_nothing,
                progress_tells_how_far_a_quiet_watch_has_seen,
                progress_comes_after_the_events_before_it,
            }
            compaction {
                what_the_compact_revision_needs_stays_readable,
                reads_and_watches_before_the_compact_revision_are_refused,
                a_watch_from_the_compact_revision_sees_it,
                compacting_twice_or_into_the_future_is_refused,
                a_deleted_key_stays_deleted,
            }
            leases {
                a_lease_that_ends_deletes_its_keys_in_one_revision,
                a_lease_that_is_kept_alive_does_not_end,
                a_revoked_lease_takes_its_keys_along,
                a_put_without_a_lease_detaches_the_key,
                an_unknown_lease_is_refused,
                a_lease_without_keys_ends_without_a_revision,
                a_chosen_id_is_taken_once,
            }
        }
    };
}
pub(crate) use tests;

/// The store under test, with answers unwrapped.
#[derive(Clone, Copy)]
pub(crate) struct Test<'a>(pub(crate) &'a dyn Store);

impl Test<'_> {
    pub(crate) async fn put(self, key: &'static str, value: impl Into<bytes::Bytes>) -> Revision {
        self.ops(vec![Op::put(key, value)]).await.revision
    }

    pub(crate) async fn delete(self, key: &'static str) -> Revision {
        self.ops(vec![Op::delete(key)]).await.revision
    }

    pub(crate) async fn ops(self, ops: Vec<Op>) -> TxnResponse {
        self.txn(Txn::always(ops)).await
    }

    pub(crate) async fn txn(self, txn: Txn) -> TxnResponse {
        self.0.txn(txn).await.expect("the transaction is done")
    }

    pub(crate) async fn get(self, key: &'static str) -> Option<KeyValue> {
        self.range(RangeRequest::new(KeyRange::key(key))).await.kvs.pop()
    }

    pub(crate) async fn range(self, request: RangeRequest) -> RangeResponse {
        self.0.range(request).await.expect("the range is read")
    }

    pub(crate) async fn revision(self) -> Revision {
        self.0.current_revision().await.expect("the revision is known")
    }

    pub(crate) async fn watch(self, range: KeyRange, from: Option<Revision>) -> Watch {
        self.0.watch(range, from).await.expect("the watch opens")
    }
}

pub(crate) async fn next(watch: &mut Watch) -> WatchBatch {
    watch.next().await.expect("the watch goes on").expect("the watch is well")
}

/// `key=value` of what a range or a batch holds, `-key` for a delete: short to compare.
pub(crate) fn show_kv(kv: &KeyValue) -> String {
    format!("{}={}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value))
}

pub(crate) fn show_kvs(kvs: &[KeyValue]) -> Vec<String> {
    kvs.iter().map(show_kv).collect()
}

pub(crate) fn show_batch(batch: &WatchBatch) -> (i64, Vec<String>) {
    let show = |event: &Event| match event {
        Event::Put { kv, .. } => show_kv(kv),
        Event::Delete { key, .. } => format!("-{}", String::from_utf8_lossy(key)),
    };
    (batch.revision.0, batch.events.iter().map(show).collect())
}

pub(crate) fn show_put(response: &OpResponse) -> Option<String> {
    match response {
        OpResponse::Put { prev } => prev.as_ref().map(show_kv),
        other => panic!("expected the answer to a put, got {other:?}"),
    }
}

/// Which revision an error says is compacted or in the future.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) -> (&'static str, i64) {
    match result {
        Err(StoreError::Compacted { compact_revision, .. }) => ("compacted", compact_revision.0),
        Err(StoreError::FutureRevision { current, .. }) => ("future", current.0),
        other => panic!("expected a revision to be refused, got {other:?}"),
    }
}
