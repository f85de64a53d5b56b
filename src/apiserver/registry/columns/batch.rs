//! Jobs and CronJobs.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use serde_json::Value;

use super::{NONE, age, boolean, containers, integer, list, name, number, selector, string, text, wide};
use crate::registry::Column;

pub(in crate::registry) fn jobs() -> Vec<Column> {
    vec![
        name(),
        text("Status", "Status of the job.", |object, _| status(object).into()),
        text("Completions", "How many pods have succeeded, of how many.", |object, _| completions(object)),
        text("Duration", "Time required to complete the job.", duration),
        age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            containers(object, "/spec/template/spec/containers", "name")
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            containers(object, "/spec/template/spec/containers", "image")
        })),
        wide(text("Selector", "Which pods are counted.", |object, _| selector(object, "/spec/selector"))),
    ]
}

fn status(object: &Value) -> &'static str {
    let holds = |word: &str| {
        list(object, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == word && condition["status"] == "True")
    };
    let going = !string(object, "/metadata/deletionTimestamp").is_empty();
    match () {
        () if holds("Complete") => "Complete",
        () if holds("Failed") => "Failed",
        () if going => "Terminating",
        () if holds("Suspended") => "Suspended",
        () if holds("FailureTarget") => "FailureTarget",
        () if holds("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(object: &Value) -> Value {
    let succeeded = number(object, "/status/succeeded");
    match (object["spec"]["completions"].as_i64(), number(object, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}").into(),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}").into(),
        (None, _) => format!("{succeeded}/1").into(),
    }
}

/// From the start to the end, or until now.
fn duration(object: &Value, now: Timestamp) -> Value {
    let time = |pointer| string(object, pointer).parse::<Timestamp>().ok();
    let Some(start) = time("/status/startTime") else { return "".into() };
    let end = time("/status/completionTime").unwrap_or(now);
    age::human(end.duration_since(start).as_secs()).into()
}

pub(in crate::registry) fn cron_jobs() -> Vec<Column> {
    const POD: &str = "/spec/jobTemplate/spec/template/spec/containers";
    vec![
        name(),
        text("Schedule", "When it runs.", |object, _| string(object, "/spec/schedule").into()),
        text("Timezone", "In which time zone that is.", |object, _| {
            object["spec"]["timeZone"].as_str().unwrap_or(NONE).into()
        }),
        boolean("Suspend", "Whether it pauses.", |object, _| {
            object["spec"]["suspend"]
                .as_bool()
                .map_or_else(|| "<unset>".into(), |paused| if paused { "True" } else { "False" }.into())
        }),
        integer("Active", "How many jobs of it run.", |object, _| {
            list(object, "/status/active").len().into()
        }),
        text("Last Schedule", "When it ran last.", |object, now| {
            let last = &object["status"]["lastScheduleTime"];
            if last.is_null() { NONE.into() } else { age::since(last, now).into() }
        }),
        age(),
        wide(text("Containers", "Names of each container in the template.", |object, _| {
            containers(object, POD, "name")
        })),
        wide(text("Images", "Images referenced by each container in the template.", |object, _| {
            containers(object, POD, "image")
        })),
        wide(text("Selector", "Which pods are counted.", |object, _| {
            selector(object, "/spec/jobTemplate/spec/selector")
        })),
    ]
}
