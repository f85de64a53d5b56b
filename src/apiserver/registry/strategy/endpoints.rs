//! Endpoints and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::names;
use serde_json::Value;

use super::addresses::endpoint_ip;
use super::at::At;
use super::fill::{each, fill};
use super::findings::Findings;
use super::rules::Rules;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub const ENDPOINTS: Rules = Rules {
    defaults: |object| {
        each(object, "subsets", |subset| each(subset, "ports", |port| fill(port, "protocol", "TCP")))
    },
    validate: endpoints,
    creates_on_update: true,
    ..Rules::NONE
};

pub const ENDPOINT_SLICES: Rules = Rules {
    defaults: |object| {
        each(object, "ports", |port| {
            if port.is_object() && port.get("name").is_none_or(Value::is_null) {
                port["name"] = "".into();
            }
            fill(port, "protocol", "TCP");
        });
    },
    prepare_create: |slice| slice["metadata"]["generation"] = 1.into(),
    prepare_update: generation,
    validate: slice,
    validate_update: |new, old, found| found.immutable(&new.get("addressType"), &old.get("addressType")),
    ..Rules::NONE
};

/// A slice has no status: its generation grows with anything but its metadata (labels count).
fn generation(new: &mut Value, old: &Value) {
    let says = |slice: &Value| ["endpoints", "ports", "addressType"].map(|field| slice.get(field).cloned());
    let labels = |slice: &Value| slice["metadata"].get("labels").cloned();
    let before = old["metadata"]["generation"].as_i64().unwrap_or_default();
    let grows = says(new) != says(old) || labels(new) != labels(old);
    new["metadata"]["generation"] = (before + i64::from(grows)).into();
}

fn endpoints(object: &At<'_>, found: &mut Findings) {
    for subset in object.get("subsets").items() {
        let (ready, not_ready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            found.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().chain(not_ready.items()) {
            let ip = address.get("ip");
            endpoint_ip(&ip, found);
            if ip.text().parse::<IpAddr>().is_err() {
                found.invalid(&ip, "must be a valid IP address");
            }
            let host = address.get("hostname");
            if !host.is_empty() {
                found.complaints(&host, names::dns1123_label(host.text()));
            }
        }
        let ports = subset.get("ports");
        for port in ports.items() {
            let (name, number) = (port.get("name"), port.get("port"));
            if name.is_empty() {
                if ports.len() > 1 {
                    found.required(&name, "");
                }
            } else {
                found.complaints(&name, names::dns1123_label(name.text()));
            }
            found.complaints(&number, names::port_number(number.int().unwrap_or_default()));
            found.one_of(&port.get("protocol"), &PROTOCOLS);
        }
    }
}

fn slice(object: &At<'_>, found: &mut Findings) {
    let kind = object.get("addressType");
    found.one_of(&kind, &["FQDN", "IPv4", "IPv6"]);
    let endpoints = object.get("endpoints");
    if endpoints.len() > 1000 {
        found.too_many(&endpoints, 1000);
    }
    for endpoint in endpoints.items() {
        one_endpoint(&endpoint, kind.text(), found);
    }
    let ports = object.get("ports");
    if ports.len() > 20000 {
        found.too_many(&ports, 20000);
    }
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.is_empty() {
            found.complaints(&name, names::dns1123_label(name.text()));
        }
        if !seen.insert(name.text()) {
            found.duplicate(&name);
        }
        found.one_of(&port.get("protocol"), &PROTOCOLS);
        let app = port.get("appProtocol");
        if app.present() {
            found.complaints(&app, names::qualified_name(app.text()));
        }
    }
}

fn one_endpoint(endpoint: &At<'_>, kind: &str, found: &mut Findings) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        found.required(&addresses, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        found.too_many(&addresses, 100);
    }
    for address in addresses.items() {
        let parsed = address.text().parse::<IpAddr>().ok();
        let wrong = match kind {
            "IPv4" => parsed.is_none_or(|ip| ip.is_ipv6()).then_some("must be an IPv4 address"),
            "IPv6" => parsed.is_none_or(|ip| ip.is_ipv4()).then_some("must be an IPv6 address"),
            _ => None,
        };
        // Upstream names the list and not the address here.
        if let Some(detail) = wrong {
            found.invalid_value(&addresses, address.text(), detail);
        }
        if kind == "FQDN" {
            found.complaints(&address, names::dns1123_subdomain(address.text()));
        } else {
            endpoint_ip(&address, found);
        }
    }
    let node = endpoint.get("nodeName");
    if node.present() {
        found.complaints(&node, names::dns1123_subdomain(node.text()));
    }
    let host = endpoint.get("hostname");
    if host.present() {
        found.complaints(&host, names::dns1123_label(host.text()));
    }
}
