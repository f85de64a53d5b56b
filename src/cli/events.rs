//! Events about an object: when each was last seen, and the newest warning.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;

/// When it was last seen: a series counts on, older writers move `lastTimestamp`.
pub(crate) fn time(event: &Event) -> Option<Timestamp> {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let exact = event.event_time.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(exact).or(created)
}

/// What the newest of the warnings says.
pub(crate) fn newest_warning<'a>(events: impl Iterator<Item = &'a Event>) -> Option<&'a str> {
    events
        .filter(|event| event.type_.as_deref() == Some("Warning"))
        .max_by_key(|event| time(event))?
        .message
        .as_deref()
}
