//! Whose the Service is, and what it lacks.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};

use super::{NAMESPACE, Published, SERVICE, SLICE};

const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "coracle");
const SLICE_OWNER: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "dns.coracle.dev");
const PROTOCOLS: [(&str, &str); 2] = [("dns", "UDP"), ("dns-tcp", "TCP")];

#[derive(Clone, Copy, Debug)]
pub(super) struct Observed<'a> {
    pub(super) service: Option<&'a Service>,
    pub(super) slice: Option<&'a EndpointSlice>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    CreateService(Box<Service>),
    CreateSlice(Box<EndpointSlice>),
    /// With the resource version that was seen.
    ReplaceSlice(Box<EndpointSlice>),
    DeleteSlice,
}

impl Step {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::CreateService(_) => "create the Service",
            Self::CreateSlice(_) => "create its EndpointSlice",
            Self::ReplaceSlice(_) => "correct its EndpointSlice",
            Self::DeleteSlice => "leave the Service to its selector",
        }
    }
}

/// One step at a time: the next pass sees what it changed.
pub(super) fn plan(observed: Observed<'_>, wanted: &Published) -> Vec<Step> {
    let slice = observed.slice.filter(|slice| has(&slice.metadata, SLICE_OWNER));
    match (observed.service, slice) {
        (None, _) => vec![Step::CreateService(Box::new(service(wanted)))],
        (Some(service), Some(_)) if !is_ours(service) => vec![Step::DeleteSlice],
        (Some(service), None) if !is_ours(service) => Vec::new(),
        // A slice of this name that somebody else made stays as it is.
        (Some(_), None) if observed.slice.is_some() => Vec::new(),
        (Some(_), None) => vec![Step::CreateSlice(Box::new(slice_of(wanted)))],
        (Some(_), Some(slice)) => correct(slice, wanted).into_iter().collect(),
    }
}

fn is_ours(service: &Service) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    has(&service.metadata, OWNER) && selector.is_none_or(BTreeMap::is_empty)
}

fn has(meta: &ObjectMeta, (key, value): (&str, &str)) -> bool {
    meta.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|found| found == value)
}

/// An address type cannot be changed: such a slice goes, and the next pass makes another.
fn correct(slice: &EndpointSlice, wanted: &Published) -> Option<Step> {
    let right = slice_of(wanted);
    if slice.address_type != right.address_type {
        return Some(Step::DeleteSlice);
    }
    let labels = right.metadata.labels.iter().flatten();
    let labelled = labels.into_iter().all(|(key, value)| has(&slice.metadata, (key, value)));
    if labelled && slice.endpoints == right.endpoints && slice.ports == right.ports {
        return None;
    }
    let mut corrected = slice.clone();
    corrected.endpoints = right.endpoints;
    corrected.ports = right.ports;
    corrected.metadata.labels.get_or_insert_default().extend(right.metadata.labels.unwrap_or_default());
    Some(Step::ReplaceSlice(Box::new(corrected)))
}

fn meta(name: &str, labels: &[(&str, &str)]) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(NAMESPACE.into()),
        labels: Some(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()),
        ..ObjectMeta::default()
    }
}

/// With the labels by which others look for the cluster's DNS.
fn service(wanted: &Published) -> Service {
    let labels = [
        OWNER,
        ("k8s-app", "kube-dns"),
        ("kubernetes.io/cluster-service", "true"),
        ("kubernetes.io/name", "CoreDNS"),
    ];
    let port = |(name, protocol): (&str, &str)| ServicePort {
        name: Some(name.into()),
        port: 53,
        protocol: Some(protocol.into()),
        // As in CoreDNS's manifest: applying that must not change the ports, which kubectl cannot tell apart, their
        // number being the same. Where packets go is said by the slice's ports, which have the same names.
        target_port: Some(IntOrString::Int(53)),
        ..ServicePort::default()
    };
    Service {
        metadata: meta(SERVICE, &labels),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            cluster_ip: Some(wanted.cluster_ip.to_string()),
            ports: Some(PROTOCOLS.into_iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn slice_of(wanted: &Published) -> EndpointSlice {
    let port = |(name, protocol): (&str, &str)| EndpointPort {
        name: Some(name.into()),
        port: Some(wanted.port.into()),
        protocol: Some(protocol.into()),
        ..EndpointPort::default()
    };
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    EndpointSlice {
        address_type: if wanted.address.is_ipv4() { "IPv4" } else { "IPv6" }.into(),
        metadata: meta(SLICE, &[SLICE_OWNER, (crate::SERVICE_NAME, SERVICE)]),
        endpoints: Some(vec![Endpoint {
            addresses: vec![wanted.address.to_string()],
            conditions: Some(conditions),
            ..Endpoint::default()
        }]),
        ports: Some(PROTOCOLS.into_iter().map(port).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str) -> Published {
        Published {
            cluster_ip: "10.96.0.10".parse().unwrap(),
            address: address.parse().unwrap(),
            port: 10053,
        }
    }

    fn names(
        service: Option<&Service>,
        slice: Option<&EndpointSlice>,
        wanted: &Published,
    ) -> Vec<&'static str> {
        plan(Observed { service, slice }, wanted).iter().map(Step::name).collect()
    }

    #[test]
    fn what_is_missing_is_made_and_then_nothing_is_left_to_do() {
        let wanted = wanted("192.0.2.1");
        assert_eq!(names(None, None, &wanted), ["create the Service"]);
        let (service, slice) = (service(&wanted), slice_of(&wanted));
        assert_eq!(names(Some(&service), None, &wanted), ["create its EndpointSlice"]);
        assert_eq!(names(Some(&service), Some(&slice), &wanted), Vec::<&str>::new());
    }

    #[test]
    fn the_slice_follows_where_we_listen() {
        let (before, now) = (wanted("192.0.2.1"), wanted("192.0.2.2"));
        let (service, slice) = (service(&before), slice_of(&before));
        let steps = plan(Observed { service: Some(&service), slice: Some(&slice) }, &now);
        let [Step::ReplaceSlice(corrected)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(names(Some(&service), Some(corrected), &now), Vec::<&str>::new());
        assert_eq!(
            names(Some(&service), Some(&slice), &wanted("fd00::1")),
            ["leave the Service to its selector"]
        );
    }

    #[test]
    fn whoever_gives_the_service_a_selector_has_it() {
        let wanted = wanted("192.0.2.1");
        let (mut service, slice) = (service(&wanted), slice_of(&wanted));
        service.spec.as_mut().unwrap().selector = Some([("k8s-app".into(), "kube-dns".into())].into());
        assert_eq!(names(Some(&service), Some(&slice), &wanted), ["leave the Service to its selector"]);
        assert_eq!(names(Some(&service), None, &wanted), Vec::<&str>::new());
    }

    #[test]
    fn what_somebody_else_made_is_not_touched() {
        let wanted = wanted("192.0.2.1");
        let (mut service, mut slice) = (service(&wanted), slice_of(&wanted));
        slice.metadata.labels.as_mut().unwrap().remove(SLICE_OWNER.0);
        assert_eq!(names(Some(&service), Some(&slice), &wanted), Vec::<&str>::new());
        service.metadata.labels = None;
        assert_eq!(names(Some(&service), Some(&slice), &wanted), Vec::<&str>::new());
        assert_eq!(names(Some(&service), None, &wanted), Vec::<&str>::new());
    }
}
