//! The report, from its samples to its page. Needs nothing but a compiler: `cargo test --test bench_report`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "mod.rs"]
mod report;

use report::{
    render::{amount, page, row},
    results::{Aim, Measurement, Missing, Results, Run, Title, Unit},
    statistics::Series,
};

fn series(samples: &[f64]) -> Series {
    Series::of(samples).unwrap()
}

fn measurement(unit: Unit, aim: Option<Aim>, ours: f64, against: Option<f64>) -> Measurement {
    let title =
        Title { name: "pod-create-to-ready", what: "pod: create to Ready", how: "One at a time.", unit, aim };
    let against: Vec<f64> = against.into_iter().collect();
    title.measured(&[ours], Some(("CRI", &against))).unwrap()
}

fn run() -> Run {
    Run {
        commit: "0123abc".into(),
        date: "2026-01-31".into(),
        cores: 2,
        memory_gb: 24,
        kernel: "6.1.0".into(),
        containerd: "1.6.20".into(),
    }
}

#[test]
fn the_median_is_the_middle_and_order_does_not_matter() {
    let series = Series::of(&[9.0, 1.0, 4.0]).unwrap();
    assert_eq!((series.median, series.min, series.max), (4.0, 1.0, 9.0));
    assert_eq!(series.samples, [9.0, 1.0, 4.0], "the order of measuring is kept");
}

#[test]
fn the_median_of_an_even_number_is_between_the_two_in_the_middle() {
    assert_eq!(Series::of(&[4.0, 1.0, 2.0, 100.0]).unwrap().median, 3.0);
}

#[test]
fn one_outlier_does_not_move_the_median() {
    assert_eq!(Series::of(&[2.0, 2.0, 900.0]).unwrap().median, 2.0);
}

#[test]
fn nothing_measured_is_not_zero() {
    assert_eq!(Series::of(&[]), None);
}

#[test]
fn samples_are_kept_to_three_decimals() {
    assert_eq!(Series::of(&[1.234_567]).unwrap().samples, [1.235]);
}

#[test]
fn an_aim_is_held_against_the_median_or_the_ratio() {
    let met = |aim, ours, against| measurement(Unit::Milliseconds, aim, ours, against).met();
    assert_eq!(met(Some(Aim::AtMost(50.0)), 50.0, None), Some(true));
    assert_eq!(met(Some(Aim::AtMost(50.0)), 50.1, Some(90.0)), Some(false));
    assert_eq!(met(Some(Aim::AtMostTimes(1.2)), 119.0, Some(100.0)), Some(true));
    assert_eq!(met(Some(Aim::AtMostTimes(1.2)), 121.0, Some(100.0)), Some(false));
    assert_eq!(met(Some(Aim::AtMostTimes(1.2)), 121.0, None), None, "nothing to hold it against");
    assert_eq!(met(None, 121.0, Some(100.0)), None);
}

#[test]
fn without_samples_there_is_no_row_and_no_other_side() {
    let alone = measurement(Unit::PerSecond, None, 1.0, None);
    assert_eq!((alone.against, alone.ours), (None, series(&[1.0])));
    let title = Title { name: "", what: "", how: "", unit: Unit::PerSecond, aim: None };
    assert_eq!(title.measured(&[], Some(("CRI", &[1.0]))), None);
}

#[test]
fn what_is_written_is_read_back_the_same() {
    let results = Results {
        run: run(),
        measurements: vec![
            measurement(Unit::Milliseconds, Some(Aim::AtMostTimes(1.2)), 1.5, Some(1.0)),
            measurement(Unit::Megabytes, Some(Aim::AtMost(60.0)), 1.5, None),
            measurement(Unit::PerSecond, None, 1.5, None),
        ],
        missing: vec![Missing { what: "services".into(), why: "no time".into() }],
    };
    let text = serde_json::to_string(&results).unwrap();
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    assert!(text.contains(r#""aim":{"atMostTimes":1.2}"#), "{text}");
    assert!(text.contains(r#""memoryGB":24"#), "{text}");
}

#[test]
fn amounts_read_well_at_every_size() {
    for (value, unit, expected) in [
        (2940.0, Unit::Milliseconds, "2.94 s"),
        (163.4, Unit::Milliseconds, "163 ms"),
        (4.26, Unit::Milliseconds, "4.3 ms"),
        (58.25, Unit::Megabytes, "58.2 MB"),
        (12_345.6, Unit::PerSecond, "12346 /s"),
        (31.27, Unit::PerSecond, "31.3 /s"),
    ] {
        assert_eq!(amount(value, unit), expected);
    }
}

#[test]
fn a_row_shows_aim_spread_other_side_and_verdict() {
    let mut pod = measurement(Unit::Milliseconds, Some(Aim::AtMostTimes(1.2)), 0.0, Some(150.0));
    pod.ours = series(&[160.0, 200.0, 150.0]);
    assert_eq!(
        row(&pod),
        "| pod: create to Ready | ≤ 1.2 × | 160 ms (150 ms to 200 ms, 3 samples) | CRI: 150 ms (1 sample) | 1.07 | yes |\n"
    );
    let memory = measurement(Unit::Megabytes, Some(Aim::AtMost(60.0)), 61.0, None);
    assert_eq!(row(&memory), "| pod: create to Ready | ≤ 60.0 MB | 61.0 MB (1 sample) |  |  | **no** |\n");
}

#[test]
fn what_was_not_measured_is_told_on_the_page() {
    let mut results = Results {
        run: run(),
        measurements: vec![measurement(Unit::PerSecond, None, 900.0, None)],
        missing: vec![Missing { what: "services".into(), why: "the node|was\nnot Ready".into() }],
    };
    let said = page(&results);
    assert!(said.contains("\nNot measured in this run:\n- services: the node\\|was not Ready\n"), "{said}");
    assert!(
        said.contains("Commit 0123abc, 2026-01-31, on 2 cores and 24 GB of memory, kernel 6.1.0"),
        "{said}"
    );
    assert!(said.ends_with("- **pod: create to Ready**: One at a time.\n"), "{said}");
    results.missing.clear();
    assert!(!page(&results).contains("Not measured"));
}
