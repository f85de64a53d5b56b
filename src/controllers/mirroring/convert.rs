//! Endpoints as groups of slice endpoints.
#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;

use api::{
    constants::{annotation, label},
    references::controller_reference,
};
use k8s_openapi::api::{
    core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service},
    discovery::v1::{Endpoint, EndpointConditions, EndpointPort},
};

use crate::endpointslice::{
    convert::{Family, protocol},
    slicing::{Frame, Group},
};

pub(super) const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// On Endpoints that are a leader's lock.
const LOCK: &str = "control-plane.alpha.kubernetes.io/leader";
/// Of one subset no more addresses than this are mirrored.
const MOST: usize = 1000;

/// Whether `endpoints` are for us to mirror.
pub(super) fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let skip = endpoints.metadata.labels.as_ref().and_then(|labels| labels.get(SKIP));
    let lock = endpoints.metadata.annotations.iter().flatten().any(|(key, _)| key == LOCK);
    let spec = service.and_then(|service| service.spec.as_ref());
    let by_hand = spec.is_some_and(|spec| spec.selector.as_ref().is_none_or(BTreeMap::is_empty));
    by_hand && !lock && skip.is_none_or(|skip| skip != "true")
}

pub(super) fn frame(endpoints: &Endpoints) -> Frame {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(label::SERVICE_NAME.into(), name.clone());
    labels.insert(label::ENDPOINT_SLICE_MANAGED_BY.into(), MANAGED_BY.into());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.remove(annotation::LAST_APPLIED);
    annotations.remove(annotation::ENDPOINTS_LAST_CHANGE);
    Frame {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name,
        owner: controller_reference::<Endpoints>(meta),
        labels,
        annotations: Some(annotations),
    }
}

/// Endpoints by family and ports.
pub(super) fn groups(endpoints: &Endpoints) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(MOST) {
            let Some(family) = Family::of(&address.ip) else { continue };
            let endpoint = endpoint(address, ready);
            match groups.iter_mut().find(|group| group.family == family && group.ports == ports) {
                Some(group) => group.endpoints.push(endpoint),
                None => groups.push(Group { family, ports: ports.clone(), endpoints: vec![endpoint] }),
            }
        }
    }
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = subset.ports.iter().flatten();
    ports
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(protocol(port.protocol.as_deref()).into()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoints(labels: serde_json::Value) -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "labels": labels},
            "subsets": [{"addresses": [{"ip": "10.9.0.1"}, {"ip": "fd00::9"}],
                "notReadyAddresses": [{"ip": "10.9.0.2"}], "ports": [{"port": 5432}]}]
        }))
        .unwrap()
    }

    #[test]
    fn addresses_are_split_by_family_and_keep_their_readiness() {
        let groups = groups(&endpoints(json!({})));
        let seen: Vec<(Family, Vec<bool>)> = groups
            .iter()
            .map(|group| {
                let ready = |endpoint: &Endpoint| endpoint.conditions.as_ref().unwrap().ready.unwrap();
                (group.family, group.endpoints.iter().map(ready).collect())
            })
            .collect();
        assert_eq!(seen, [(Family::IPv4, vec![true, false]), (Family::IPv6, vec![true])]);
    }

    #[test]
    fn only_hand_made_endpoints_of_a_service_are_mirrored() {
        let service =
            |spec| serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap();
        let by_hand: Service = service(json!({"clusterIP": "10.96.0.9"}));
        let selecting: Service = service(json!({"selector": {"a": "b"}}));
        assert!(is_mirrored(&endpoints(json!({})), Some(&by_hand)));
        assert!(!is_mirrored(&endpoints(json!({})), Some(&selecting)));
        assert!(!is_mirrored(&endpoints(json!({})), None));
        assert!(!is_mirrored(&endpoints(json!({(SKIP): "true"})), Some(&by_hand)));
    }
}
