//! What the API shows of a DaemonSet.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use api::pods;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::{
    placement::Verdict,
    rolling::Patience,
    survey::{Survey, is_updated},
};

/// The counts, by the first pod of each node. `acted`: whether this pass could act on what the spec asks for.
pub(super) fn status(
    set: &DaemonSet,
    survey: &Survey,
    hash: &str,
    patience: Patience,
    acted: bool,
) -> DaemonSetStatus {
    let (mut desired, mut current, mut astray) = (0, 0, 0);
    let (mut ready, mut available, mut updated) = (0, 0, 0);
    for place in survey.values() {
        match (place.verdict, place.pods.first()) {
            (Some(Verdict::Runs), first) => {
                desired += 1;
                let Some(pod) = first else { continue };
                current += 1;
                ready += i32::from(pods::is_ready(pod));
                available += i32::from(patience.is_available(pod));
                updated += i32::from(is_updated(pod, hash));
            }
            (Some(_), Some(_)) => astray += 1,
            (Some(_), None) | (None, _) => {}
        }
    }
    let known = set.status.clone().unwrap_or_default();
    DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: astray,
        number_ready: ready,
        number_available: Some(available),
        number_unavailable: Some(desired - available),
        updated_number_scheduled: Some(updated),
        observed_generation: if acted { set.metadata.generation } else { known.observed_generation },
        collision_count: known.collision_count,
        conditions: known.conditions,
    }
}

/// Whether two statuses say the same: the API leaves zeros out.
pub(super) fn same(a: &DaemonSetStatus, b: &DaemonSetStatus) -> bool {
    let plain = |status: &DaemonSetStatus| DaemonSetStatus {
        number_available: Some(status.number_available.unwrap_or(0)),
        number_unavailable: Some(status.number_unavailable.unwrap_or(0)),
        updated_number_scheduled: Some(status.updated_number_scheduled.unwrap_or(0)),
        observed_generation: Some(status.observed_generation.unwrap_or(0)),
        ..status.clone()
    };
    plain(a) == plain(b)
}

/// How long until the next ready pod has been ready for `minReadySeconds`.
pub(super) fn next_availability(survey: &Survey, patience: Patience) -> Option<Duration> {
    let waiting = survey.values().flat_map(|place| &place.alive).filter(|pod| !patience.is_available(pod));
    let left = waiting.filter_map(|pod| pods::ready_since(pod)).map(|since| {
        jiff::SignedDuration::from_secs(i64::from(patience.min_ready_seconds))
            - patience.now.duration_since(since)
    });
    left.min().map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1))
}
