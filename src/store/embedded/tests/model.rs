//! Random histories against a model that keeps every revision whole.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Home, close, open};
use crate::{
    Compare, Event, KeyRange, KeyValue, LeaseId, Op, RangeRequest, Revision, Store, StoreError, Txn,
    WatchBatch, embedded::EmbeddedStore,
};

const LEASE: LeaseId = LeaseId(1);

#[derive(Clone, Debug)]
enum Step {
    /// Puts and deletes in one transaction, each key once.
    Write(Vec<(u8, Change)>),
    DeletePrefix(u8),
    /// A put that holds only if the key's mod revision is the given part of the history.
    Guarded {
        key: u8,
        revision: u16,
    },
    Revoke,
    Compact(u16),
    Read(u16),
    Watch(u16),
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Put { bytes: u16, leased: bool },
    Delete,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        3 => (0..6000_u16, any::<bool>()).prop_map(|(bytes, leased)| Change::Put { bytes, leased }),
        1 => Just(Change::Delete),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::btree_map(0..8_u8, change(), 1..4).prop_map(|c| Step::Write(c.into_iter().collect())),
        1 => (0..4_u8).prop_map(Step::DeletePrefix),
        2 => (0..8_u8, any::<u16>()).prop_map(|(key, revision)| Step::Guarded { key, revision }),
        1 => Just(Step::Revoke),
        1 => any::<u16>().prop_map(Step::Compact),
        3 => any::<u16>().prop_map(Step::Read),
        3 => any::<u16>().prop_map(Step::Watch),
        1 => Just(Step::Reopen),
    ]
}

/// Two keys under each of four prefixes.
fn key(n: u8) -> Bytes {
    format!("{}/{}", n % 4, n / 4).into()
}

fn prefix(n: u8) -> Bytes {
    format!("{n}/").into()
}

type Keys = BTreeMap<Bytes, KeyValue>;
type NewValue = (Bytes, Option<LeaseId>);

/// `revisions[n]` is the store at revision n, and what led to it.
struct Model {
    revisions: Vec<(Keys, Vec<Event>)>,
    compacted: Revision,
    writes: usize,
}

impl Model {
    fn new() -> Self {
        Self { revisions: vec![(Keys::new(), vec![]); 2], compacted: Revision::ZERO, writes: 0 }
    }

    fn current(&self) -> Revision {
        Revision(self.revisions.len() as i64 - 1)
    }

    fn keys(&self) -> &Keys {
        &self.revisions.last().unwrap().0
    }

    /// From before the first revision to one past the last.
    fn pick(&self, part: u16) -> Revision {
        Revision(i64::from(part) % (self.current().0 + 2))
    }

    fn write(&mut self, changes: Vec<(Bytes, Option<NewValue>)>) {
        let revision = self.current().next();
        let mut keys = self.keys().clone();
        let mut events = Vec::new();
        for (key, put) in changes {
            let prev = keys.get(&key).cloned();
            match put {
                Some((value, lease)) => {
                    let kv = KeyValue {
                        key: key.clone(),
                        value,
                        create_revision: prev.as_ref().map_or(revision, |kv| kv.create_revision),
                        mod_revision: revision,
                        version: prev.as_ref().map_or(1, |kv| kv.version + 1),
                        lease,
                    };
                    keys.insert(key, kv.clone());
                    events.push(Event::Put { kv, prev });
                }
                None if prev.is_some() => {
                    keys.remove(&key);
                    events.push(Event::Delete { key, prev });
                }
                None => {}
            }
        }
        if !events.is_empty() {
            self.revisions.push((keys, events));
        }
    }

    fn delete_where(&mut self, gone: impl Fn(&KeyValue) -> bool) {
        let keys = self.keys().values().filter(|kv| gone(kv)).map(|kv| (kv.key.clone(), None)).collect();
        self.write(keys);
    }

    /// Values differ from each other, and some are larger than a page of the file.
    fn value(&mut self, bytes: u16) -> Bytes {
        self.writes += 1;
        format!("{:>width$}", self.writes, width = usize::from(bytes)).into()
    }

    fn history(&self, range: &KeyRange, from: Revision) -> Vec<WatchBatch> {
        let from = from.max(Revision::FIRST).0 as usize;
        let batches =
            self.revisions.iter().enumerate().skip(from).map(|(revision, (_, events))| WatchBatch {
                revision: Revision(revision as i64),
                events: events.iter().filter(|event| range.contains(event.key())).cloned().collect(),
            });
        batches.filter(|batch| !batch.events.is_empty()).collect()
    }
}

fn readable(model: &Model, revision: Revision, error: &StoreError) {
    match error {
        StoreError::Compacted { compact_revision, .. } => {
            assert_eq!(*compact_revision, model.compacted);
            assert!(revision < model.compacted);
        }
        StoreError::FutureRevision { current, .. } => {
            assert_eq!(*current, model.current());
            assert!(revision > model.current());
        }
        other => panic!("{other}"),
    }
}

async fn read(store: &EmbeddedStore, model: &Model, revision: Revision) {
    let request = RangeRequest::new(KeyRange::all()).at(revision);
    match store.range(request).await {
        Ok(found) => {
            assert!(revision >= model.compacted);
            let expected: Vec<KeyValue> = model.revisions[revision.0 as usize].0.values().cloned().collect();
            assert_eq!(found.kvs, expected);
        }
        Err(error) => readable(model, revision, &error),
    }
}

async fn watch(store: &EmbeddedStore, model: &Model, from: Revision) {
    let range = if from.0 % 2 == 0 { KeyRange::all() } else { KeyRange::prefix(prefix((from.0 % 4) as u8)) };
    let mut watch = match store.watch(range.clone(), Some(from)).await {
        Ok(watch) => watch,
        Err(error) => return readable(model, from, &error),
    };
    watch.progress().request();
    for expected in model.history(&range, from) {
        let mut batch = watch.next().await.unwrap().unwrap();
        if batch.revision == model.compacted {
            continue; // its previous values may be gone
        }
        batch.events.sort_by(|a, b| a.key().cmp(b.key()));
        let mut events = expected.events;
        events.sort_by(|a, b| a.key().cmp(b.key()));
        assert_eq!(batch, WatchBatch { revision: expected.revision, events });
    }
    let last = watch.next().await.unwrap().unwrap();
    assert_eq!(last, WatchBatch { revision: model.current(), events: vec![] });
}

async fn take(store: &EmbeddedStore, model: &mut Model, step: Step) {
    match step {
        Step::Write(changes) => {
            let mut ops = Vec::new();
            let mut expected = Vec::new();
            for (n, change) in changes {
                let key = key(n);
                match change {
                    Change::Put { bytes, leased } => {
                        let (value, lease) = (model.value(bytes), leased.then_some(LEASE));
                        ops.push(Op::Put(crate::Put { key: key.clone(), value: value.clone(), lease }));
                        expected.push((key, Some((value, lease))));
                    }
                    Change::Delete => {
                        ops.push(Op::delete(key.clone()));
                        expected.push((key, None));
                    }
                }
            }
            let done = store.txn(Txn::always(ops)).await.unwrap();
            model.write(expected);
            assert_eq!(done.revision, model.current());
        }
        Step::DeletePrefix(n) => {
            store.txn(Txn::always(vec![Op::Delete(KeyRange::prefix(prefix(n)))])).await.unwrap();
            model.delete_where(|kv| kv.key.starts_with(&prefix(n)));
        }
        Step::Guarded { key: n, revision } => {
            let (key, revision) = (key(n), model.pick(revision));
            let value = model.value(10);
            let compare = Compare::mod_revision(key.clone(), revision);
            let done =
                store.txn(Txn::when(vec![compare], vec![Op::put(key.clone(), value.clone())])).await.unwrap();
            let holds = model.keys().get(&key).map_or(Revision::ZERO, |kv| kv.mod_revision) == revision;
            assert_eq!(done.succeeded, holds);
            if holds {
                model.write(vec![(key, Some((value, None)))]);
            }
        }
        Step::Revoke => {
            store.revoke(LEASE).await.unwrap();
            store.grant(Some(LEASE), Duration::from_secs(600)).await.unwrap();
            model.delete_where(|kv| kv.lease == Some(LEASE));
        }
        Step::Compact(part) => {
            let revision = model.pick(part);
            match store.compact(revision).await {
                Ok(()) => model.compacted = revision,
                Err(StoreError::Compacted { .. }) => assert!(revision <= model.compacted),
                Err(error) => readable(model, revision, &error),
            }
        }
        Step::Read(part) => read(store, model, model.pick(part)).await,
        Step::Watch(part) => watch(store, model, model.pick(part)).await,
        Step::Reopen => unreachable!("the runner reopens"),
    }
}

async fn run(steps: Vec<Step>) {
    let home = Home::new();
    // So small that most watches read the log.
    let options = crate::embedded::Options { ring_bytes: 8 << 10, ..home.options() };
    let mut model = Model::new();
    let (mut store, mut scope) = open(&options);
    store.grant(Some(LEASE), Duration::from_secs(600)).await.unwrap();
    for step in steps {
        if let Step::Reopen = step {
            close(store, scope).await;
            (store, scope) = open(&options);
        } else {
            take(&store, &mut model, step).await;
        }
        let found = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
        assert_eq!(found.revision, model.current());
        assert_eq!(found.kvs, model.keys().values().cloned().collect::<Vec<_>>());
        let size = store.stats().size;
        assert_eq!(size.live_keys, model.keys().len());
        assert_eq!(
            size.live_bytes,
            model.keys().values().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>()
        );
    }
    close(store, scope).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_that_of_the_model(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
