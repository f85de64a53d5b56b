//! The ready endpoints of a Service, from its slices.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointPort, EndpointSlice},
};

use super::path;

/// One address of one ready endpoint.
#[derive(Clone, Debug)]
pub(super) struct Ready<'a> {
    /// Its hostname, or its dashed address: what it is called below the Service.
    pub(super) host: String,
    pub(super) ip: IpAddr,
    pub(super) ports: &'a [EndpointPort],
}

/// In the order of the slices.
pub(super) fn ready<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
) -> Vec<Ready<'a>> {
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false);
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.as_deref().unwrap_or_default();
        for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| all || is_ready(endpoint)) {
            // A slice of names (addressType FQDN) holds none that could be answered with.
            for ip in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                found.push(Ready { host: host(endpoint, ip), ip, ports });
            }
        }
    }
    found
}

/// Not known means ready: whoever makes a slice by hand need not say.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn host(endpoint: &Endpoint, ip: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(name) if !name.is_empty() => name.to_ascii_lowercase(),
        _ => path::dashed(ip),
    }
}
