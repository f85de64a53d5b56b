//! Opening what is there: ours, damaged, foreign, newer, in use. Nothing is ever deleted or changed.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use lifecycle::Scope;

use super::{Home, close, open};
use crate::{
    KeyRange, Op, RangeRequest, Revision, Store, StoreError, Txn,
    embedded::{EmbeddedStore, OpenError},
};

/// A closed store with a few hundred small keys.
async fn filled(home: &Home) -> std::path::PathBuf {
    let (store, scope) = open(&home.options());
    for n in 0..50 {
        let ops = (0..10).map(|m| Op::put(format!("key/{n}/{m}"), vec![b'x'; 100])).collect();
        store.txn(Txn::always(ops)).await.unwrap();
    }
    close(store, scope).await;
    home.options().dir.join("store.db")
}

fn refusal(home: &Home) -> OpenError {
    let scope = Scope::root("store-test");
    EmbeddedStore::open(&home.options(), &scope).expect_err("the store is refused")
}

fn differing(a: &Option<Vec<u8>>, b: &Option<Vec<u8>>) -> Option<Vec<usize>> {
    let (a, b) = (a.as_ref()?, b.as_ref()?);
    Some(a.iter().zip(b).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).take(40).collect())
}

/// Opens what `spoil` made of a good file, and checks that the refusal left it alone.
async fn spoiled(spoil: impl FnOnce(&Path)) -> OpenError {
    let home = Home::new();
    let file = filled(&home).await;
    spoil(&file);
    let before = fs::read(&file).ok();
    let error = refusal(&home);
    let after = fs::read(&file).ok();
    assert!(
        after == before,
        "the file is left as it is: {:?} bytes of {:?} differ",
        differing(&before, &after),
        before.map(|b| b.len())
    );
    let text = error.to_string();
    assert!(text.contains(&*file.to_string_lossy()), "it names the file: {text}");
    error
}

#[tokio::test]
async fn a_store_comes_back_as_it_was() {
    let home = Home::new();
    filled(&home).await;
    let (store, scope) = open(&home.options());
    let found = store.range(RangeRequest::new(KeyRange::all())).await.unwrap();
    assert_eq!((found.count, found.revision), (500, Revision(51)));
    let stats = store.stats();
    assert_eq!((stats.size.live_keys, stats.size.past_versions, stats.watchers), (500, 0, 0));
    close(store, scope).await;
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    store.txn(Txn::always(vec![Op::put("a", "1")])).await.unwrap();
    let dir = home.options().dir;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    assert!(names.contains(&"store.db-wal".to_string()), "{names:?}");
    close(store, scope).await;
}

#[tokio::test]
async fn two_processes_cannot_open_one_store() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    let error = refusal(&home);
    assert!(matches!(error, OpenError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    close(store, scope).await;
    let (store, scope) = open(&home.options());
    close(store, scope).await;
}

#[tokio::test]
async fn a_foreign_file_is_refused() {
    let text = spoiled(|file| fs::write(file, "apiVersion: v1\nkind: Config\n".repeat(9)).unwrap()).await;
    assert!(matches!(text, OpenError::Foreign { found: "not an SQLite file", .. }), "{text:?}");
    let kine = spoiled(|file| {
        fs::remove_file(file).unwrap();
        let other = rusqlite::Connection::open(file).unwrap();
        other.execute_batch("CREATE TABLE kine (id INTEGER PRIMARY KEY)").unwrap();
    })
    .await;
    assert!(matches!(kine, OpenError::Foreign { .. }), "{kine:?}");
}

#[tokio::test]
async fn a_newer_format_is_refused() {
    let newer = spoiled(|file| {
        rusqlite::Connection::open(file).unwrap().pragma_update(None, "user_version", 2).unwrap();
    })
    .await;
    assert!(matches!(newer, OpenError::NewerFormat { found: 2, supported: 1, .. }), "{newer:?}");
    assert!(newer.to_string().contains("newer version"), "{newer}");
}

#[tokio::test]
async fn a_half_written_file_is_refused() {
    let cut = |len: u64| {
        move |file: &Path| fs::File::options().write(true).open(file).unwrap().set_len(len).unwrap()
    };
    for len in [0, 60, 4096, 5 * 4096, 5 * 4096 + 7] {
        let error = spoiled(cut(len)).await;
        assert!(matches!(error, OpenError::Damaged { .. }), "cut to {len} bytes: {error:?}");
        assert!(error.to_string().contains("restore a snapshot"), "{error}");
    }
}

#[tokio::test]
async fn damaged_pages_are_refused() {
    let error = spoiled(|file| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 8192].fill(0xa5);
        fs::write(file, bytes).unwrap();
    })
    .await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_log_without_its_database_is_refused() {
    let error = spoiled(|file| {
        fs::remove_file(file).unwrap();
        fs::write(file.with_file_name("store.db-wal"), "writes").unwrap();
    })
    .await;
    assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn a_store_that_was_never_finished_being_made_is_made_anew() {
    let home = Home::new();
    fs::create_dir_all(home.options().dir).unwrap();
    fs::write(home.options().dir.join("store.db.new"), "half").unwrap();
    let (store, scope) = open(&home.options());
    assert_eq!(store.current_revision().await.unwrap(), Revision(1));
    close(store, scope).await;
}

#[tokio::test]
async fn an_unusable_directory_is_named() {
    let home = Home::new();
    fs::write(home.options().dir, "a file").unwrap();
    let error = refusal(&home);
    assert!(matches!(error, OpenError::Directory { .. }), "{error:?}");
}

#[tokio::test]
async fn leases_survive_a_restart_and_end_afterwards() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    let lease = store.grant(None, Duration::from_secs(1)).await.unwrap();
    let long = store.grant(None, Duration::from_secs(600)).await.unwrap();
    store
        .txn(Txn::always(vec![Op::put_leased("a", "1", lease), Op::put_leased("b", "1", long)]))
        .await
        .unwrap();
    close(store, scope).await;
    let (store, scope) = open(&home.options());
    let mut watch = store.watch(KeyRange::all(), Some(Revision(3))).await.unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.revision, &batch.events[0].key()[..]), (Revision(3), &b"a"[..]));
    assert_eq!(store.keep_alive(long).await.unwrap(), Duration::from_secs(600));
    let another = store.grant(None, Duration::from_secs(600)).await.unwrap();
    assert!(another > long, "an id is never given twice");
    drop(watch);
    close(store, scope).await;
}

#[tokio::test]
async fn a_stopped_store_says_so() {
    let home = Home::new();
    let (store, scope) = open(&home.options());
    let mut watch = store.watch(KeyRange::all(), None).await.unwrap();
    assert!(scope.close(Duration::from_secs(20)).await);
    assert!(matches!(watch.next().await, Some(Err(StoreError::Stopped))));
    assert!(watch.next().await.is_none());
    let refused = store.txn(Txn::always(vec![Op::put("a", "1")])).await;
    assert!(matches!(refused, Err(StoreError::Stopped)), "{refused:?}");
}
