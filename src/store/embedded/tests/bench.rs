//! A figure to compare with after a change: 10 000 keys of 1 KB, 8 clients.

use std::{
    fs,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Home, close, open};
use crate::{Compare, KeyRange, Op, RangeRequest, Store, Txn};

const KEYS: usize = 10_000;
const CLIENTS: usize = 8;

fn rss_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn say(what: &str, ops: usize, took: Duration) {
    let rate = ops as f64 / took.as_secs_f64();
    let rss = rss_kb();
    writeln!(std::io::stderr(), "{what}: {ops} in {took:.2?}, {rate:.0}/s, resident {rss} kB").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "benchmark; run by make bench"]
async fn ten_thousand_keys_of_a_kilobyte() {
    let home = Home::new();
    let (store, scope) = open(&crate::embedded::Options::new(home.options().dir));
    let store = Arc::new(store);
    say("start", 0, Duration::from_secs(1));
    for (what, rounds) in [("create", 1), ("update", 3)] {
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            let store = Arc::clone(&store);
            clients.spawn(async move {
                for n in (0..KEYS * rounds).filter(|n| n % CLIENTS == client) {
                    let key = format!("/registry/pods/default/pod-{}", n % KEYS);
                    let now = store.range(RangeRequest::new(KeyRange::key(key.clone()))).await.unwrap();
                    let held = now.kvs.first().map_or(crate::Revision::ZERO, |kv| kv.mod_revision);
                    let txn = Txn::when(
                        vec![Compare::mod_revision(key.clone(), held)],
                        vec![Op::put(key, vec![b'x'; 1000])],
                    );
                    assert!(store.txn(txn).await.unwrap().succeeded);
                }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        say(what, KEYS * rounds, started.elapsed());
    }
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(store.range(RangeRequest::new(KeyRange::all())).await.unwrap().kvs.len(), KEYS);
    }
    say("list of all", 100, started.elapsed());
    let store = Arc::into_inner(store).unwrap();
    close(store, scope).await;
    let started = Instant::now();
    let (store, scope) = open(&crate::embedded::Options::new(home.options().dir));
    say("open", 1, started.elapsed());
    close(store, scope).await;
}
