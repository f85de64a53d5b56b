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

use crate::{cache::Cache, request::RequestInfo};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabels {
    verb: String,
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

    pub(crate) fn observe(&self, info: &RequestInfo, code: StatusCode, took: Duration) {
        let labels = RequestLabels {
            verb: upstream_verb(info),
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            scope: scope(info),
            component: "apiserver",
        };
        // Paths of nobody's are not remembered: their number is not bounded.
        if code == StatusCode::NOT_FOUND && !info.is_resource {
            return;
        }
        if info.verb != "watch" {
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

fn upstream_verb(info: &RequestInfo) -> String {
    match info.verb.as_ref() {
        "create" => "POST".into(),
        "update" => "PUT".into(),
        other => other.to_ascii_uppercase(),
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
