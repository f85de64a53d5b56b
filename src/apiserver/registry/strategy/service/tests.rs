//! What a Service holds of the cluster's pools.

use serde_json::{Value, json};

use super::{Family, Services};
use crate::registry::{Claim, ClaimValue, Pool, Strategy};

fn created(families: &[Family], spec: Value) -> (Value, Vec<Claim>) {
    let services = Services { families: families.to_vec() };
    let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
    services.defaults(&mut service);
    services.prepare_create(&mut service);
    assert_eq!(services.validate_create(&service), Vec::new());
    let claims = services.claims(&service);
    (service, claims)
}

#[test]
fn a_service_asks_for_an_address_and_writes_it_in_both_fields() {
    let (service, claims) = created(&[Family::V4], json!({"ports": [{"port": 80}]}));
    let wanted = Claim {
        pool: Pool::ClusterIpV4,
        value: ClaimValue::Any,
        write_to: vec!["/spec/clusterIPs/0".to_owned(), "/spec/clusterIP".to_owned()],
        field: "spec.clusterIPs[0]".to_owned(),
    };
    assert_eq!(claims, [wanted]);
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4"]));
}

#[test]
fn a_dual_stack_service_asks_for_one_address_of_each_family() {
    let both = [Family::V4, Family::V6];
    let (service, claims) =
        created(&both, json!({"ports": [{"port": 80}], "ipFamilyPolicy": "PreferDualStack"}));
    assert_eq!(service["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let pools: Vec<Pool> = claims.iter().map(|claim| claim.pool).collect();
    assert_eq!(pools, [Pool::ClusterIpV4, Pool::ClusterIpV6]);
}

#[test]
fn headless_and_external_services_hold_nothing() {
    for spec in [
        json!({"clusterIP": "None", "selector": {"a": "b"}}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
    ] {
        assert_eq!(created(&[Family::V4], spec).1, Vec::new());
    }
}

#[test]
fn two_protocols_of_one_port_share_a_node_port() {
    let ports = json!([
        {"name": "a", "port": 53, "protocol": "UDP"},
        {"name": "b", "port": 53, "protocol": "TCP"},
        {"name": "c", "port": 80, "nodePort": 30080},
    ]);
    let (_, claims) = created(&[Family::V4], json!({"type": "NodePort", "ports": ports}));
    let node_ports: Vec<(ClaimValue, usize)> = claims
        .into_iter()
        .filter(|claim| claim.pool == Pool::NodePort)
        .map(|claim| (claim.value, claim.write_to.len()))
        .collect();
    assert_eq!(node_ports, [(ClaimValue::Any, 2), (ClaimValue::Exactly("30080".to_owned()), 1)]);
}

#[test]
fn a_local_load_balancer_has_a_port_for_health_checks() {
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}],
        "allocateLoadBalancerNodePorts": false});
    let (_, claims) = created(&[Family::V4], spec);
    let fields: Vec<&str> = claims.iter().map(|claim| claim.field.as_str()).collect();
    assert_eq!(fields, ["spec.clusterIPs[0]", "spec.healthCheckNodePort"]);
}
