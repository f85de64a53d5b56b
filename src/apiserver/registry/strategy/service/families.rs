//! Which IP families a Service has, and that its one address and its list of addresses say the same.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{is_headless, needs_cluster_ip};
use crate::registry::strategy::fill;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// Clients set either of the two fields: an old client that clears or changes the single address means the list.
pub(super) fn normalize(new: &mut Value, old: Option<&Value>) {
    let text = |object: &Value| object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let list = |object: &Value| match &object["spec"]["clusterIPs"] {
        Value::Array(ips) if !ips.is_empty() => Some(ips.clone()),
        _ => None,
    };
    let (one, many) = (text(new), list(new));
    if !new["spec"].is_object() {
        return;
    }
    let Some(old) = old else {
        match (one.is_empty(), many) {
            (false, None) => new["spec"]["clusterIPs"] = json!([one]),
            (true, Some(ips)) => new["spec"]["clusterIP"] = ips[0].clone(),
            _ => {}
        }
        return;
    };
    let (old_one, old_many) = (text(old), list(old));
    let one_changed = one != old_one;
    let many_changed = many != old_many;
    match (one_changed, many_changed) {
        (true, false) if one.is_empty() => fill::remove(&mut new["spec"], "clusterIPs"),
        (true, false) => new["spec"]["clusterIPs"] = json!([one]),
        (false, true) if many.is_none() => fill::remove(&mut new["spec"], "clusterIP"),
        (false, true) => {
            if let Some(ips) = many {
                new["spec"]["clusterIP"] = ips[0].clone();
            }
        }
        _ => {}
    }
}

/// Fills in the policy and the families from what was asked for and from what the cluster has.
pub(super) fn choose(service: &mut Value, cluster: &[Family]) {
    if !needs_cluster_ip(service) || !service["spec"].is_object() {
        return;
    }
    let default = cluster.first().copied().unwrap_or(Family::V4);
    let selectorless = service["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let bare_headless = is_headless(service) && selectorless;
    let addresses = addresses(service);
    let listed = service["spec"]["ipFamilies"].as_array().map_or(0, Vec::len);
    let policy = if bare_headless || (listed == 2 || addresses.len() == 2) {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    let policy = if listed == 1 && bare_headless { "SingleStack" } else { policy };
    fill::fill(&mut service["spec"], "ipFamilyPolicy", policy);

    let mut families: Vec<Family> = service["spec"]["ipFamilies"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|family| match family.as_str() {
            Some("IPv4") => Some(Family::V4),
            Some("IPv6") => Some(Family::V6),
            _ => None,
        })
        .collect();
    if families.len() != listed {
        return; // validation says what is wrong
    }
    for address in addresses.iter().skip(families.len()) {
        families.push(Family::of(*address));
    }
    if families.is_empty() {
        families.push(default);
    }
    let dual = service["spec"]["ipFamilyPolicy"] != "SingleStack";
    // A headless Service without a selector may have a family that the cluster has not.
    if dual && families.len() == 1 && (cluster.len() == 2 || bare_headless) {
        families.push(families[0].other());
    }
    service["spec"]["ipFamilies"] = families.iter().map(|family| family.word()).collect();
}

fn addresses(service: &Value) -> Vec<IpAddr> {
    let list = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    list.filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}
