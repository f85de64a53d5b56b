//! Services: defaults, validation, and what a Service holds of the cluster's addresses and ports.
//!
//! ```text
//!   defaults ─▶ families (which IP families) ─▶ validate ─▶ claims (addresses and node ports to reserve)
//! ```

mod claims;
mod defaults;
mod families;
mod update;
mod validate;

pub use families::Family;
use serde_json::Value;

use super::at::At;
use super::fill;
use super::findings::Findings;
use crate::registry::{Claim, NameRule, Strategy};
use crate::status::FieldError;

/// The strategy of Services in a cluster with these Service address families, the default one first.
#[derive(Clone, Debug)]
pub struct Services {
    pub families: Vec<Family>,
}

impl Strategy for Services {
    fn defaults(&self, object: &mut Value) {
        defaults::service(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        families::normalize(object, None);
        families::choose(object, &self.families);
        object["status"] = serde_json::json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        families::normalize(new, Some(old));
        update::keep_allocated(new, old);
        update::drop_what_the_type_lost(new, old);
        families::choose(new, &self.families);
    }

    fn prepare_status(&self, new: &mut Value, _old: &Value) {
        fill::within(new, "status", |status| fill::fill(status, "loadBalancer", serde_json::json!({})));
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        let at = At::root(object);
        validate::service(&at, &mut found);
        validate::families(&at, &self.families, &mut found);
        found.into_errors()
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        let at = At::root(new);
        update::validate(&at, &At::root(old), &mut found);
        validate::service(&at, &mut found);
        validate::families(&at, &self.families, &mut found);
        found.into_errors()
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut found = Findings::default();
        validate::status(&At::root(new), &mut found);
        found.into_errors()
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035Label
    }

    fn claims(&self, object: &Value) -> Vec<Claim> {
        claims::of(object)
    }
}

/// Whether a Service has an address of its own at all.
fn needs_cluster_ip(service: &Value) -> bool {
    service["spec"]["type"] != "ExternalName"
}

fn is_headless(service: &Value) -> bool {
    service["spec"]["clusterIPs"][0] == "None"
        || (service["spec"]["clusterIPs"].is_null() && service["spec"]["clusterIP"] == "None")
}

/// Whether the type lets node ports be set (a load balancer may do without, but may have them).
fn may_have_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

fn needs_health_port(service: &Value) -> bool {
    let spec = &service["spec"];
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// Reached from outside: only then does a policy for outside traffic mean anything.
fn externally_accessible(service: &Value) -> bool {
    let external = service["spec"]["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty());
    may_have_node_ports(service) || (service["spec"]["type"] == "ClusterIP" && external)
}

#[cfg(test)]
mod tests;
