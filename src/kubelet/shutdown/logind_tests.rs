//! The lock, over a bus that the test plays.

use super::*;
use crate::shutdown::{Period, testing::FakeLogind};

fn periods() -> Vec<Period> {
    Period::by_class(Duration::from_secs(30), Duration::from_secs(10))
}

/// What [`attend`] says while `watching` looks.
async fn attending(fake: &FakeLogind, watching: impl AsyncFnOnce(&FakeLogind, &Hold, watch::Receiver<bool>)) {
    let (hold, preparing) = (Hold::default(), watch::Sender::new(false));
    let (seen, settings) = (preparing.subscribe(), fake.settings(periods()));
    tokio::select! {
        () = attend(&settings, hold.clone(), preparing) => panic!("it attends for ever"),
        () = watching(fake, &hold, seen) => {}
    }
}

async fn becomes(seen: &mut watch::Receiver<bool>, value: bool) {
    let wait = seen.wait_for(|seen| *seen == value);
    let seen = tokio::time::timeout(Duration::from_secs(60), wait).await;
    seen.unwrap_or_else(|_| panic!("never {value}")).unwrap();
}

#[tokio::test]
async fn logind_is_told_to_wait_for_as_long_as_pods_and_their_statuses_take() {
    let fake = FakeLogind::start();
    attending(&fake, async |fake, hold, _| {
        fake.until("the lock is held", |fake| fake.locks() == [true]).await;
        let text = std::fs::read_to_string(fake.drop_in()).unwrap();
        assert!(text.ends_with("[Login]\nInhibitDelayMaxSec=35\n"), "{text}");
        fake.until("the time is known", |_| hold.available() == Duration::from_secs(30)).await;
    })
    .await;
    fake.until("the lock ends with the agent", |fake| fake.locks() == [false]).await;
    // What was written goes with a reset, and logind hears of it.
    let settings = fake.settings(periods());
    assert!(crate::shutdown::reset(&settings).await.unwrap() && !fake.drop_in().exists());
    assert_eq!(fake.calls("KillUnit"), 2);
    assert!(!crate::shutdown::reset(&settings).await.unwrap());
    fake.close().await;
}

#[tokio::test]
async fn a_logind_that_does_not_wait_so_long_is_held_up_for_as_long_as_it_does() {
    let fake = FakeLogind::start();
    fake.ignore_configuration();
    attending(&fake, async |fake, hold, _| {
        fake.until("the lock is held", |fake| fake.locks() == [true]).await;
        fake.until("the time is known", |_| hold.available() == Duration::from_millis(3_750)).await;
    })
    .await;
    fake.close().await;
}

#[tokio::test]
async fn a_signal_is_not_believed_and_a_cancelled_shutdown_is_held_up_the_next_time() {
    let fake = FakeLogind::start();
    attending(&fake, async |fake, hold, mut seen| {
        fake.until("the lock is held", |fake| fake.locks() == [true]).await;
        let asked = fake.calls("PreparingForShutdown");
        fake.signal(true).await;
        fake.until("logind is asked", |fake| fake.calls("PreparingForShutdown") > asked).await;
        hold.release();
        assert!(!*seen.borrow() && fake.locks() == [true], "nobody said that the machine goes down");
        fake.prepare(true).await;
        becomes(&mut seen, true).await;
        assert_eq!(fake.locks(), [true], "until everything is done");
        hold.release();
        assert_eq!(fake.locks(), [false]);
        fake.prepare(false).await;
        becomes(&mut seen, false).await;
        assert_eq!(fake.locks(), [false, true], "again, before anybody hears of it");
        fake.prepare(true).await;
        becomes(&mut seen, true).await;
        fake.prepare(false).await;
        becomes(&mut seen, false).await;
        hold.release();
        assert_eq!(fake.locks(), [false, true], "what was not let go is kept");
    })
    .await;
    fake.close().await;
}

#[tokio::test]
async fn after_a_broken_connection_there_is_a_new_lock_before_the_old_one_goes() {
    let fake = FakeLogind::start();
    attending(&fake, async |fake, _, _| {
        fake.until("the lock is held", |fake| fake.locks() == [true]).await;
        fake.hang_up().await;
        assert_eq!(fake.locks(), [true], "logind knows it by its file descriptor");
        fake.until("a new one is held", |fake| fake.locks().get(1) == Some(&true)).await;
        fake.until("the old one has gone", |fake| fake.locks() == [false, true]).await;
    })
    .await;
    fake.close().await;
}

#[tokio::test]
async fn who_is_started_while_the_machine_goes_down_knows_it() {
    let fake = FakeLogind::start();
    fake.set_preparing(true);
    attending(&fake, async |fake, _, mut seen| {
        becomes(&mut seen, true).await;
        assert_eq!((fake.locks(), fake.calls("Inhibit")), (vec![], 0), "there is no lock to be had");
        // It was cancelled.
        fake.prepare(false).await;
        becomes(&mut seen, false).await;
        assert_eq!(fake.locks(), [true]);
    })
    .await;
    fake.close().await;
}
