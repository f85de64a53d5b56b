//! A killed process loses nothing that it had answered.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

use super::{Home, close, open};
use crate::{KeyRange, Op, RangeRequest, Revision, Store, Txn};

const DIR: &str = "CORACLE_STORE_CRASH_DIR";
const WRITERS: usize = 8;

/// The process that is killed: says each write that was answered, and goes on for ever.
#[tokio::test]
#[ignore = "the child of what_was_answered_is_there_after_a_kill, which starts it"]
async fn child() {
    let dir = std::env::var(DIR).expect("started by the parent test");
    let (store, _scope) = open(&crate::embedded::Options::new(dir));
    let run = store.current_revision().await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0.. {
                let key = format!("{run}/{writer}/{n}");
                let ops = vec![Op::put(key.clone(), key.clone()), Op::put("last", key.clone())];
                let revision = store.txn(Txn::always(ops)).await.unwrap().revision;
                writeln!(std::io::stdout(), "ack {revision} {key}").unwrap();
                if n % 100 == 99 && writer == 0 {
                    store.compact(Revision(revision.0 - 50)).await.unwrap();
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_kill() {
    let home = Home::new();
    let dir = home.options().dir;
    let mut acked: Vec<(i64, String)> = Vec::new();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::tests::crash::child", "--ignored", "--nocapture"])
            .env(DIR, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // What the child wrote before it died is still in the pipe: read to its end.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut before = 0;
        while let Some(Ok(line)) = lines.next() {
            let Some((revision, key)) = line.strip_prefix("ack ").and_then(|ack| ack.split_once(' ')) else {
                continue;
            };
            acked.push((revision.parse().unwrap(), key.to_string()));
            before += 1;
            if before == 400 * round {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(before >= 400 * round, "the child ended by itself after {before} writes");

        let (store, scope) = open(&home.options());
        let current = store.current_revision().await.unwrap();
        for (revision, key) in &acked {
            let found = store.range(RangeRequest::new(KeyRange::key(key.clone()))).await.unwrap();
            let kv = found.kvs.first().unwrap_or_else(|| panic!("{key}, answered at {revision}, is lost"));
            assert_eq!((kv.mod_revision, &kv.value[..]), (Revision(*revision), key.as_bytes()));
            assert!(kv.mod_revision <= current);
        }
        close(store, scope).await;
    }
    let file = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    let verdict: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
}
