//! What `/metrics` tells, under upstream's names.

use std::time::Duration;

use http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::Histogram,
    },
    registry::Registry,
};

use crate::{
    cache::Cache,
    registry::{Entry, Rows},
    request::RequestInfo,
};

/// What a request was for. Callers choose paths and methods, and every new value is kept for ever: so values are
/// those of rows and of a fixed set of verbs only, and whatever else is asked for is one series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    resource: String,
}

/// The buckets of upstream's request durations, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 10.0, 60.0];

#[derive(Clone, Copy, Debug)]
struct Durations;

impl MetricConstructor<Histogram> for Durations {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<CodeLabels, Counter>,
    durations: Family<RequestLabels, Histogram, Durations>,
    in_flight: Family<KindLabels, Gauge>,
    objects: Family<ResourceLabels, Gauge>,
    watchers: Family<ResourceLabels, Gauge>,
}

/// Counts a request while it is held.
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(Durations);
        let in_flight = Family::default();
        let objects = Family::default();
        let watchers = Family::default();
        registry.register(
            "apiserver_request",
            "Requests, by what they were for and their HTTP status",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "How long requests took until their answer began",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are being answered",
            in_flight.clone(),
        );
        registry.register("apiserver_storage_objects", "Stored objects", objects.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", watchers.clone());
        Self { registry, requests, durations, in_flight, objects, watchers }
    }

    pub(crate) fn enter(&self, info: &RequestInfo) -> InFlight {
        let request_kind = if info.is_readonly() { "readOnly" } else { "mutating" };
        let gauge = self.in_flight.get_or_create(&KindLabels { request_kind }).clone();
        gauge.inc();
        InFlight(gauge)
    }

    pub(crate) fn observe(&self, rows: &Rows, info: &RequestInfo, code: StatusCode, took: Duration) {
        let labels = if code == StatusCode::UNAUTHORIZED {
            RequestLabels::unknown()
        } else {
            RequestLabels::of(rows, info)
        };
        if labels.verb != "WATCH" {
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
        let RequestLabels { verb, group, version, resource, subresource, scope, component } = labels;
        let code = code.as_u16();
        let labels = CodeLabels { verb, group, version, resource, subresource, scope, component, code };
        self.requests.get_or_create(&labels).inc();
    }

    /// The text exposition.
    pub(crate) fn render(&self, cache: &Cache) -> String {
        for resource in cache.resources() {
            let labels = ResourceLabels { resource: resource.row.group_resource().to_string() };
            let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            self.objects.get_or_create(&labels).set(count(resource.len()));
            self.watchers.get_or_create(&labels).set(count(resource.watcher_count()));
        }
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}

impl RequestLabels {
    fn of(rows: &Rows, info: &RequestInfo) -> Self {
        let unknown = Self::unknown();
        if !info.is_resource {
            return Self { verb: upstream_verb(&info.verb), ..unknown };
        }
        let known = match rows.lookup(&info.group, &info.version, &info.resource) {
            None => false,
            Some(Entry::Stored(row, _)) if !info.subresource.is_empty() => {
                row.subresource(&info.subresource).is_some()
            }
            Some(Entry::Stored(..)) => true,
            Some(Entry::Virtual(_)) => info.subresource.is_empty(),
        };
        if !known {
            return unknown;
        }
        Self {
            verb: upstream_verb(&info.verb),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: scope(info),
            component: unknown.component,
        }
    }

    fn unknown() -> Self {
        Self {
            verb: "other",
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            scope: "",
            component: "apiserver",
        }
    }
}

fn upstream_verb(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "proxy" => "PROXY",
        "head" => "HEAD",
        "options" => "OPTIONS",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
        (false, _, _) => "",
        (true, false, _) => "resource",
        (true, true, false) => "namespace",
        (true, true, true) => "cluster",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        registry::{Plain, Resource},
        request,
    };

    /// The labels of the counted requests, sorted.
    fn counted(asked: &[(&str, &str, u16)]) -> Vec<String> {
        let pods = Resource::namespaced("", "v1", "Pod", "pods", Arc::new(Plain)).with_status();
        let (metrics, rows) = (Metrics::new(), Rows::new(vec![pods], Vec::new()));
        for (method, path, code) in asked {
            let info = request::parse(&method.parse().unwrap(), &path.parse().unwrap()).unwrap();
            metrics.observe(&rows, &info, StatusCode::from_u16(*code).unwrap(), Duration::ZERO);
        }
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("apiserver_request_total"));
        let mut lines: Vec<String> =
            lines.map(|line| line.replace(",component=\"apiserver\"", "").replace('"', "")).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_request_is_counted_by_what_its_row_is_called() {
        assert_eq!(
            counted(&[("PUT", "/api/v1/namespaces/a/pods/b/status", 200), ("GET", "/healthz", 200)]),
            [
                "{verb=GET,group=,version=,resource=,subresource=,scope=,code=200} 1",
                "{verb=PUT,group=,version=v1,resource=pods,subresource=status,scope=resource,code=200} 1",
            ]
        );
    }

    #[test]
    fn made_up_paths_and_methods_make_no_new_series() {
        assert_eq!(
            counted(&[
                ("GET", "/apis/x1/v1/y1", 404),
                ("GET", "/apis/x2/v1/y2", 404),
                ("POST", "/api/v1/namespaces/a/pods/b/made-up", 404),
                ("M1", "/nowhere/1", 404),
                ("M2", "/nowhere/2", 404),
            ]),
            ["{verb=other,group=,version=,resource=,subresource=,scope=,code=404} 5"]
        );
    }

    #[test]
    fn who_is_not_known_is_counted_in_one_series() {
        assert_eq!(
            counted(&[
                ("GET", "/api/v1/pods", 401),
                ("DELETE", "/api/v1/namespaces/a/pods/b", 401),
                ("GET", "/apis/x/v1/y", 401),
                ("GET", "/metrics", 401),
            ]),
            ["{verb=other,group=,version=,resource=,subresource=,scope=,code=401} 4"]
        );
    }
}
