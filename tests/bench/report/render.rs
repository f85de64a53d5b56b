//! `results.json` as a page for people.
#![deny(clippy::disallowed_methods)]

use super::{
    results::{Aim, Measurement, Results, Unit},
    statistics::Series,
};

/// The whole of `RESULTS.md`. Every number on the page comes from `results`.
pub(crate) fn page(results: &Results) -> String {
    let run = &results.run;
    let mut page = format!(
        "# What was measured\n\n\
         Written by `make bench` from `results.json`, which holds every sample. Commit {}, {}, on {} cores and {} GB of \
         memory, kernel {}, containerd {}. Compare numbers of one run with each other, not with those of another machine.\n\n\
         Each number is a median; smallest and largest stand behind it, with the number of samples. “Against” is the same \
         work done without Coracle, or by upstream in its place, in the same run, in turns. The ratio is ours divided by \
         that: for times less is better, for rates more.\n\n",
        run.commit, run.date, run.cores, run.memory_gb, run.kernel, run.containerd
    );
    page += "| what | aim | ours | against | ratio | aim met |\n| --- | --- | --- | --- | --- | --- |\n";
    for measurement in &results.measurements {
        page += &row(measurement);
    }
    if !results.missing.is_empty() {
        page += "\nNot measured in this run:\n";
        for missing in &results.missing {
            page += &format!("- {}: {}\n", cell(&missing.what), cell(&missing.why));
        }
    }
    page += "\n## How\n\n";
    for measurement in &results.measurements {
        page += &format!("- **{}**: {}\n", cell(&measurement.what), cell(&measurement.how));
    }
    page
}

pub(crate) fn row(measurement: &Measurement) -> String {
    let unit = measurement.unit;
    let against = match &measurement.against {
        Some(against) => format!("{}: {}", cell(&against.who), spread(&against.series, unit)),
        None => String::new(),
    };
    let aim = match measurement.aim {
        Some(Aim::AtMost(limit)) => format!("≤ {}", amount(limit, unit)),
        Some(Aim::AtMostTimes(times)) => format!("≤ {times} ×"),
        Some(Aim::AtLeastTimes(times)) => format!("≥ {times} ×"),
        None => String::new(),
    };
    let met = match measurement.met() {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    let ratio = measurement.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let ours = spread(&measurement.ours, unit);
    format!("| {} | {aim} | {ours} | {against} | {ratio} | {met} |\n", cell(&measurement.what))
}

/// `163 ms (150 ms to 171 ms, 20 samples)`.
fn spread(series: &Series, unit: Unit) -> String {
    let [median, min, max] = [series.median, series.min, series.max].map(|value| amount(value, unit));
    match series.samples.len() {
        1 => format!("{median} (1 sample)"),
        samples => format!("{median} ({min} to {max}, {samples} samples)"),
    }
}

/// Three digits that mean something, as far as the unit has them.
pub(crate) fn amount(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Milliseconds if value >= 1000.0 => format!("{:.2} s", value / 1000.0),
        Unit::Milliseconds if value < 10.0 => format!("{value:.1} ms"),
        Unit::Milliseconds => format!("{value:.0} ms"),
        Unit::Megabytes => format!("{value:.1} MB"),
        Unit::PerSecond if value < 100.0 => format!("{value:.1} /s"),
        Unit::PerSecond => format!("{value:.0} /s"),
        Unit::GigabitsPerSecond => format!("{value:.1} Gbit/s"),
    }
}

/// Text that cannot end its cell or its line.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
