//! Validation of probes and lifecycle hooks.

use crate::registry::strategy::at::At;
use crate::registry::strategy::findings::Findings;
use api::names;

const HANDLERS: [&str; 5] = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// `name` is the container's field that holds the probe.
pub(super) fn probe(probe: &At<'_>, name: &str, grace: Option<i64>, found: &mut Findings) {
    if !probe.present() {
        return;
    }
    handler(probe, grace, found);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        found.not_negative(&probe.get(field));
    }
    let own_grace = probe.get("terminationGracePeriodSeconds");
    if own_grace.int().is_some_and(|seconds| seconds <= 0) {
        found.invalid(&own_grace, "must be greater than 0");
    }
    if name == "readinessProbe" {
        if own_grace.present() {
            found.invalid(&own_grace, "must not be set for readinessProbes");
        }
    } else {
        let successes = probe.get("successThreshold");
        if successes.int().is_some_and(|count| count != 1) {
            found.invalid(&successes, "must be 1");
        }
    }
}

pub(super) fn lifecycle(lifecycle: &At<'_>, grace: Option<i64>, found: &mut Findings) {
    for hook in ["postStart", "preStop"].map(|name| lifecycle.get(name)) {
        if hook.present() {
            handler(&hook, grace, found);
        }
    }
}

fn handler(at: &At<'_>, grace: Option<i64>, found: &mut Findings) {
    let mut handlers = 0;
    for name in HANDLERS {
        let action = at.get(name);
        if !action.present() {
            continue;
        }
        handlers += 1;
        if handlers > 1 {
            found.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        match name {
            "exec" => {
                if action.get("command").is_empty() {
                    found.required(&action.get("command"), "");
                }
            }
            "httpGet" => http_get(&action, found),
            "sleep" => sleep(&action, grace, found),
            _ => port_or_name(&action.get("port"), found),
        }
    }
    if handlers == 0 {
        found.required(at, "must specify a handler type");
    }
}

fn http_get(action: &At<'_>, found: &mut Findings) {
    if action.get("path").is_empty() {
        found.required(&action.get("path"), "");
    }
    port_or_name(&action.get("port"), found);
    let scheme = action.get("scheme");
    if !["HTTP", "HTTPS"].contains(&scheme.text()) {
        found.not_supported(&scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.get("httpHeaders").items() {
        let name = header.get("name");
        // Upstream names the list and not the header here.
        let at = At::named(action.get("httpHeaders").path(), name.value());
        found.complaints(&at, names::http_header_name(name.text()));
    }
}

fn sleep(action: &At<'_>, grace: Option<i64>, found: &mut Findings) {
    let (Some(grace), Some(seconds)) = (grace, action.get("seconds").int()) else { return };
    if seconds < 0 || seconds > grace {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        found.invalid_value(action, seconds, &detail);
    }
}

/// A port number, or the name of a port of the container.
pub(super) fn port_or_name(at: &At<'_>, found: &mut Findings) {
    match at.int() {
        Some(number) => found.complaints(at, names::port_number(number)),
        None if at.present() => found.complaints(at, names::port_name(at.text())),
        None => found.invalid_value(at, 0, "must be between 1 and 65535, inclusive"),
    }
}
