//! Each clause of the specification, and what must not be answered.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Objects {
    services: HashMap<(String, String), Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Objects {
    fn service(mut self, name: &str, spec: Value) -> Self {
        let service = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let service = Arc::new(serde_json::from_value(service).unwrap());
        self.services.insert(("default".into(), name.into()), service);
        self
    }

    fn slice(mut self, service: &str, kind: &str, endpoints: Value, ports: Value) -> Self {
        let slice = json!({
            "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": service}},
            "addressType": kind, "endpoints": endpoints, "ports": ports,
        });
        self.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
        self
    }
}

impl World for Objects {
    fn namespace_exists(&self, name: &str) -> bool {
        ["default", "empty"].contains(&name)
    }

    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&(namespace.into(), name.into())).cloned()
    }

    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let of = |slice: &&Arc<EndpointSlice>| {
            slice.metadata.namespace.as_deref() == Some(namespace)
                && crate::service_name(slice) == Some(service)
        };
        self.slices.iter().filter(of).cloned().collect()
    }

    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>> {
        let at = |service: &&Arc<Service>| cluster_ips(service.spec.as_ref().unwrap()).contains(&ip);
        self.services.values().filter(at).cloned().collect()
    }

    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let at = |slice: &&Arc<EndpointSlice>| {
            slice.endpoints.iter().flatten().any(|endpoint| endpoint.addresses.contains(&ip.to_string()))
        };
        self.slices.iter().filter(at).cloned().collect()
    }
}

fn world() -> Objects {
    let http = json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 9, "protocol": "UDP"}]);
    let pods = json!([
        {"addresses": ["10.244.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.0.6"], "conditions": {}},
        {"addresses": ["10.244.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
    ]);
    Objects::default()
        .service("web", json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"], "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}))
        .slice("web", "IPv4", json!([{"addresses": ["10.244.0.9"], "hostname": "one"}]), http.clone())
        .service("nameless", json!({"clusterIP": "10.96.0.20", "ports": [{"port": 80}]}))
        .service("db", json!({"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}))
        .slice("db", "IPv4", pods, http.clone())
        .slice("db", "IPv6", json!([{"addresses": ["fd00:244::5"], "hostname": "db-0"}]), http.clone())
        .service("early", json!({"clusterIP": "None", "publishNotReadyAddresses": true}))
        .slice("early", "IPv4", json!([{"addresses": ["10.244.0.8"], "conditions": {"ready": false}}]), json!(null))
        .service("bare", json!({"clusterIP": "None"}))
        .slice("bare", "IPv4", json!([{"addresses": ["10.244.0.10"], "conditions": {"ready": false}}]), http)
        .service("pending", json!({"ports": [{"name": "http", "port": 80}]}))
        .service("out", json!({"type": "ExternalName", "externalName": "www.Example.com"}))
        .service("in", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local."}))
        .service("gone", json!({"type": "ExternalName", "externalName": "no.default.svc.cluster.local"}))
        .service("self", json!({"type": "ExternalName", "externalName": "self.default.svc.cluster.local"}))
        .service("digits", json!({"type": "ExternalName", "externalName": "192.0.2.1"}))
        .slice("foreign", "IPv4", json!([{"addresses": ["192.0.2.77"]}]), json!(null))
        .service("foreign", json!({"clusterIP": "None"}))
}

fn zone() -> Zone {
    let ranges = ["10.96.0.0/16", "10.244.0.0/16", "fd00:96::/112"];
    Zone::new("Cluster.Local", ranges.iter().map(|range| range.parse().unwrap()).collect(), 30, 7).unwrap()
}

/// `TYPE NAME` → the answer's data in order, then how it ends, without the records beside it.
fn ask(question: &str) -> String {
    let (kind, name) = question.split_once(' ').unwrap();
    let name = Name::from_ascii(name.replace('$', "default.svc.cluster.local.")).unwrap();
    let answer = zone().answer(&world(), &name, kind.parse().unwrap());
    let mut said: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    match answer.end {
        End::Complete => {}
        End::NoData { apex } => said.push(format!("NODATA {apex}")),
        End::NoSuchName { apex } => said.push(format!("NXDOMAIN {apex}")),
        End::Elsewhere(name) => said.push(format!("-> {name}")),
    }
    said.join(", ")
}

const NODATA: &str = "NODATA cluster.local.";
const NXDOMAIN: &str = "NXDOMAIN cluster.local.";

#[track_caller]
fn table(rows: &[(&str, &str)]) {
    for (question, answer) in rows {
        assert_eq!(ask(question), *answer, "{question}");
    }
}

#[test]
fn a_service_is_found_at_its_cluster_ips() {
    table(&[
        ("A web.$", "10.96.0.9"),
        ("AAAA web.$", "fd00:96::9"),
        ("A WEB.Default.SVC.cluster.LOCAL.", "10.96.0.9"),
        ("ANY web.$", "10.96.0.9, fd00:96::9"),
        ("AAAA nameless.$", NODATA),
        ("TXT web.$", NODATA),
        ("CNAME web.$", NODATA),
        ("A no.$", NXDOMAIN),
        ("A web.empty.svc.cluster.local.", NXDOMAIN),
        ("A pending.$", NXDOMAIN),
    ]);
}

#[test]
fn named_ports_have_srv_records() {
    table(&[
        ("SRV _http._tcp.web.$", "0 100 80 web.default.svc.cluster.local."),
        ("SRV _HTTP._TCP.web.$", "0 100 80 web.default.svc.cluster.local."),
        ("SRV _dns._udp.web.$", "0 100 53 web.default.svc.cluster.local."),
        ("SRV _http._udp.web.$", NXDOMAIN),
        ("SRV _https._tcp.web.$", NXDOMAIN),
        ("SRV http._tcp.web.$", NXDOMAIN),
        ("A _http._tcp.web.$", NODATA),
        ("SRV _tcp.web.$", NODATA),
        ("SRV _sctp.web.$", NXDOMAIN),
        ("SRV _tcp.nameless.$", NXDOMAIN),
        ("SRV _._tcp.nameless.$", NXDOMAIN),
        ("SRV nameless.$", "0 100 80 nameless.default.svc.cluster.local."),
    ]);
}

#[test]
fn a_headless_service_is_its_ready_endpoints() {
    table(&[
        ("A db.$", "10.244.0.5, 10.244.0.6"),
        ("AAAA db.$", "fd00:244::5"),
        ("A db-0.db.$", "10.244.0.5"),
        ("AAAA db-0.db.$", "fd00:244::5"),
        ("A 10-244-0-6.db.$", "10.244.0.6"),
        ("AAAA 10-244-0-6.db.$", NODATA),
        // It has a hostname, so the address is not its name; and it is not ready.
        ("A 10-244-0-5.db.$", NXDOMAIN),
        ("A db-2.db.$", NXDOMAIN),
        (
            "SRV _http._tcp.db.$",
            "0 33 8080 db-0.db.default.svc.cluster.local., 0 33 8080 10-244-0-6.db.default.svc.cluster.local.",
        ),
        ("A early.$", "10.244.0.8"),
        ("AAAA early.$", NODATA),
        ("SRV early.$", NODATA),
        ("A bare.$", NXDOMAIN),
        ("SRV bare.$", NXDOMAIN),
        ("SRV _tcp.bare.$", NXDOMAIN),
        ("SRV _http._tcp.bare.$", NXDOMAIN),
        // As CoreDNS: endpoints of other Services have names too.
        ("A one.web.$", "10.244.0.9"),
    ]);
}

#[test]
fn the_addresses_of_targets_are_beside_them() {
    let name = Name::from_ascii("_http._tcp.db.default.svc.cluster.local.").unwrap();
    let answer = zone().answer(&world(), &name, RecordType::SRV);
    let beside: Vec<String> =
        answer.additionals.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    assert_eq!(
        beside,
        [
            "db-0.db.default.svc.cluster.local. 10.244.0.5",
            "10-244-0-6.db.default.svc.cluster.local. 10.244.0.6",
            "db-0.db.default.svc.cluster.local. fd00:244::5"
        ]
    );
}

#[test]
fn addresses_are_named_in_the_other_direction() {
    table(&[
        ("PTR 9.0.96.10.in-addr.arpa.", "web.default.svc.cluster.local."),
        ("PTR 5.0.244.10.in-addr.arpa.", "db-0.db.default.svc.cluster.local."),
        ("PTR 6.0.244.10.in-addr.arpa.", "10-244-0-6.db.default.svc.cluster.local."),
        ("PTR 77.2.0.192.in-addr.arpa.", "192-0-2-77.foreign.default.svc.cluster.local."),
        // Not ready; an endpoint of a Service that is not headless; nobody.
        ("PTR 7.0.244.10.in-addr.arpa.", "NXDOMAIN 244.10.in-addr.arpa."),
        ("PTR 9.0.244.10.in-addr.arpa.", "NXDOMAIN 244.10.in-addr.arpa."),
        ("PTR 200.0.96.10.in-addr.arpa.", "NXDOMAIN 96.10.in-addr.arpa."),
        ("A 9.0.96.10.in-addr.arpa.", "NODATA 96.10.in-addr.arpa."),
        ("PTR 0.96.10.in-addr.arpa.", "NODATA 96.10.in-addr.arpa."),
        ("PTR x.9.0.96.10.in-addr.arpa.", "NXDOMAIN 96.10.in-addr.arpa."),
        ("PTR x.0.96.10.in-addr.arpa.", "-> x.0.96.10.in-addr.arpa."),
        ("PTR 3.9.0.96.10.in-addr.arpa.", "NXDOMAIN 96.10.in-addr.arpa."),
        ("PTR 1.0.0.127.in-addr.arpa.", "-> 1.0.0.127.in-addr.arpa."),
        ("PTR 10.in-addr.arpa.", "-> 10.in-addr.arpa."),
    ]);
    let name = address_name("fd00:96::9".parse().unwrap());
    assert_eq!(ask(&format!("PTR {name}")), "web.default.svc.cluster.local.");
}

#[test]
fn pods_have_names_in_namespaces_that_exist() {
    table(&[
        ("A 10-244-3-4.default.pod.cluster.local.", "10.244.3.4"),
        ("AAAA 10-244-3-4.default.pod.cluster.local.", NODATA),
        ("AAAA fd00--1.default.pod.cluster.local.", "fd00::1"),
        ("A 10-244-3-4.no.pod.cluster.local.", NXDOMAIN),
        ("A web.default.pod.cluster.local.", NXDOMAIN),
    ]);
}

#[test]
fn an_external_name_is_an_alias_and_is_followed() {
    table(&[
        ("A out.$", "www.Example.com., -> www.Example.com."),
        ("CNAME out.$", "www.Example.com."),
        ("A in.$", "web.default.svc.cluster.local., 10.96.0.9"),
        ("TXT in.$", "web.default.svc.cluster.local., NODATA cluster.local."),
        ("A gone.$", "no.default.svc.cluster.local., NXDOMAIN cluster.local."),
        ("A digits.$", NODATA),
        ("A x.out.$", NXDOMAIN),
        ("SRV _http._tcp.out.$", NXDOMAIN),
    ]);
    assert!(ask("A self.$").ends_with("-> self.default.svc.cluster.local."), "a circle ends");
}

#[test]
fn the_domain_itself_and_its_branches_exist() {
    table(&[
        ("TXT dns-version.cluster.local.", "1.1.0"),
        ("A dns-version.cluster.local.", NODATA),
        ("NS cluster.local.", "kube-dns.kube-system.svc.cluster.local."),
        ("A cluster.local.", NODATA),
        ("A svc.cluster.local.", NODATA),
        ("A pod.cluster.local.", NODATA),
        ("A empty.svc.cluster.local.", NODATA),
        ("A empty.pod.cluster.local.", NODATA),
        ("A no.svc.cluster.local.", NXDOMAIN),
        ("A other.cluster.local.", NXDOMAIN),
        ("A example.com.", "-> example.com."),
        ("A local.", "-> local."),
        ("A xcluster.local.", "-> xcluster.local."),
    ]);
    assert!(ask("SOA cluster.local.").starts_with("kube-dns.kube-system.svc.cluster.local. hostmaster."));
}

#[test]
fn wildcards_are_names_like_any_other() {
    table(&[
        ("A *.$", NXDOMAIN),
        ("A web.*.svc.cluster.local.", NXDOMAIN),
        ("A *.db.$", NXDOMAIN),
        ("SRV *.*.web.$", NXDOMAIN),
    ]);
}

#[test]
fn answers_bear_the_name_as_it_was_asked() {
    let name = Name::from_ascii("wEb.DEFAULT.svc.CLUSTER.local.").unwrap();
    let answer = zone().answer(&world(), &name, RecordType::A);
    assert!(answer.answers[0].name.eq_case(&name));
    assert_eq!(answer.answers[0].ttl, 30);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked: records are about the name or what it is an alias of, of the type that was asked for; what
    /// is said not to exist has nothing below it either.
    #[test]
    fn answers_keep_the_rules_of_dns(
        labels in proptest::collection::vec(
            prop_oneof!["[a-z0-9*_-]{1,8}", Just("default".to_string()), Just("svc".to_string()),
                Just("db".to_string()), Just("_tcp".to_string()), Just("_http".to_string()),
                Just("out".to_string()), Just("pod".to_string())], 0..6),
        below in "[a-z_]{1,5}",
        kind in prop_oneof![Just(RecordType::A), Just(RecordType::AAAA), Just(RecordType::SRV), Just(RecordType::TXT)],
    ) {
        let (zone, world) = (zone(), world());
        let domain = Name::from_ascii("cluster.local.").unwrap();
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).unwrap().append_name(&domain).unwrap();
        let answer = zone.answer(&world, &name, kind);
        let is_positive = answer.end == End::Complete;
        prop_assert_eq!(is_positive, answer.answers.iter().any(|record| record.record_type() == kind));
        if let Some(first) = answer.answers.first() {
            prop_assert_eq!(&first.name, &name);
        }
        let is_alias = answer.answers.iter().any(|record| record.record_type() == RecordType::CNAME);
        if matches!(answer.end, End::NoSuchName { .. }) && !is_alias {
            let end = zone.answer(&world, &name.prepend_label(below.as_bytes()).unwrap(), kind).end;
            prop_assert!(matches!(end, End::NoSuchName { .. }), "{:?} below {}", end, name);
        }
    }
}
