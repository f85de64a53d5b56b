//! Logs as tables: what is in the file, what is asked for, what is seen.

use std::{
    fs,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    super::query::Query,
    choose,
    follow::{LogStream, Writing},
    options::{Invalid, LogOptions},
};
use crate::runtime::{ContainerState, Exit, ObservedContainer, PodObservation};

const FILE: &str = "\
2026-01-01T00:00:01.5Z stdout F one
2026-01-01T00:00:02.123456789Z stderr F two
2026-01-01T00:00:03Z stdout P thr
2026-01-01T00:00:03.1Z stdout F ee
what is this
2026-01-01T00:00:04+01:00 stdout F:x four
2026-01-01T00:00:05Z stdout F
2026-01-01T00:00:06Z stdout F five";

fn options(query: &str) -> LogOptions {
    LogOptions::read(&Query::parse(query), "2026-01-01T00:01:00Z".parse().unwrap()).unwrap()
}

fn never() -> Writing {
    Box::new(|| Box::pin(std::future::ready(false)))
}

async fn all(mut log: LogStream) -> String {
    let mut out = Vec::new();
    while let Some(piece) = log.next().await.unwrap() {
        out.extend_from_slice(&piece);
    }
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn a_log_is_read_as_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    // The empty line has a space at its end.
    fs::write(&path, FILE.replace("05Z stdout F\n", "05Z stdout F \n")).unwrap();
    for (query, seen) in [
        ("", "one\ntwo\nthree\nfour\n\nfive"),
        ("stream=Stderr", "two\n"),
        ("tailLines=0", ""),
        ("tailLines=1", "\nfive"),
        ("tailLines=4", "ee\nfour\n\nfive"),
        ("tailLines=100&limitBytes=6", "one\ntw"),
        ("limitBytes=1", "o"),
        ("sinceTime=2026-01-01T00:00:05Z", "\nfive"),
        ("sinceSeconds=54", "five"),
        (
            "timestamps=true&sinceTime=2026-01-01T00:00:02Z&limitBytes=100",
            "2026-01-01T00:00:02.123456789Z two\n2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:05.00000000",
        ),
        ("follow=true", "one\ntwo\nthree\nfour\n\nfive"),
    ] {
        let log = LogStream::open(&path, options(query), never()).await.unwrap();
        assert_eq!(all(log).await, seen, "{query}");
    }
}

#[tokio::test]
async fn a_log_is_followed_across_a_rotation_until_its_container_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (path, aside) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
    let write = |file: &mut fs::File, text: &str| {
        writeln!(file, "2026-01-01T00:00:01Z stdout F {text}").unwrap();
    };
    let mut file = fs::File::create(&path).unwrap();
    write(&mut file, "a");
    let runs = Arc::new(AtomicBool::new(true));
    let seen = Arc::clone(&runs);
    let writing: Writing = Box::new(move || Box::pin(std::future::ready(seen.load(Ordering::SeqCst))));
    let mut log = LogStream::open(&path, options("follow=true"), writing).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap(), "a\n");
    write(&mut file, "b");
    assert_eq!(log.next().await.unwrap().unwrap(), "b\n");
    fs::rename(&path, &aside).unwrap();
    write(&mut file, "c");
    let mut file = fs::File::create(&path).unwrap();
    write(&mut file, "d");
    assert_eq!(log.next().await.unwrap().unwrap(), "c\n");
    assert_eq!(log.next().await.unwrap().unwrap(), "d\n");
    write(&mut file, "e");
    runs.store(false, Ordering::SeqCst);
    drop(file);
    assert_eq!(all(log).await, "e\n");
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let read = |query: &str| LogOptions::read(&Query::parse(query), jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(read("tailLines=x"), Err(Invalid::Syntax));
    assert_eq!(read("tailLines=-1"), Err(Invalid::Value));
    assert_eq!(read("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z"), Err(Invalid::Value));
    assert_eq!(read("stream=Stdout&tailLines=1"), Err(Invalid::Value));
    assert_eq!(read("tail=all").unwrap().tail, None);
    assert_eq!(read("tail=3").unwrap().tail, Some(3));
}

fn instance(attempt: u32, state: ContainerState) -> ObservedContainer {
    ObservedContainer {
        id: format!("c{attempt}").as_str().into(),
        sandbox: "s".into(),
        name: "a".into(),
        attempt,
        hash: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        state,
        image: String::new(),
        image_id: String::new(),
        log_path: "/x".into(),
    }
}

#[test]
fn the_previous_instance_is_the_one_before_what_the_pod_shows() {
    let pod = |waiting: Option<&str>| -> k8s_openapi::api::core::v1::Pod {
        let state =
            waiting.map_or(serde_json::json!({}), |why| serde_json::json!({"waiting": {"reason": why}}));
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web"},
            "status": {"containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}
            ]}
        }))
        .unwrap()
    };
    let running = ContainerState::Running { started_at: jiff::Timestamp::UNIX_EPOCH };
    let exited = ContainerState::Exited(Exit {
        code: 1,
        reason: "Error".into(),
        message: String::new(),
        started_at: None,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
    });
    let told = |pod, containers: &[ObservedContainer], previous| {
        let observation = PodObservation { sandboxes: Vec::new(), containers: containers.to_vec() };
        choose::choose(&pod, &observation, "a", previous).map(|chosen| chosen.id.as_str().to_owned())
    };
    let twice = [instance(1, running), instance(0, exited.clone())];
    assert_eq!(told(pod(None), &twice, false), Ok("c1".into()));
    assert_eq!(told(pod(None), &twice, true), Ok("c0".into()));
    let ended = [instance(1, exited.clone()), instance(0, exited)];
    assert_eq!(told(pod(Some("CrashLoopBackOff")), &ended, true), Ok("c1".into()));
    assert_eq!(told(pod(None), &ended, true), Ok("c0".into()));
    assert_eq!(
        told(pod(None), &[], true),
        Err("previous terminated container \"a\" in pod \"web\" not found".into())
    );
    assert_eq!(
        told(pod(Some("ImagePullBackOff")), &[instance(0, ContainerState::Created)], false),
        Err("container \"a\" in pod \"web\" is waiting to start: trying and failing to pull image".into())
    );
}
