//! Results from and to the versions of the spec.
//!
//! What changed: 1.0.0 dropped `version` ("4", "6") of `ips`; 1.1.0 brought `mtu`, `socketPath` and `pciID`
//! of interfaces and `mtu`, `advmss`, `priority`, `table` and `scope` of routes.
#![deny(clippy::disallowed_methods)]

use serde_json::{Value, json};

use super::{
    error::{CniError, Code},
    model::NetworkResult,
    version::Version,
};

/// # Errors
/// When it is no result of a version that is spoken here.
pub fn from_json(value: &Value) -> Result<NetworkResult, CniError> {
    // A result without a version is of the first version that had results, which nobody writes any more.
    let version = value.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    version
        .parse::<Version>()
        .map_err(|error| CniError::caused(Code::INCOMPATIBLE_VERSION, "the result's version", &error))?;
    serde_json::from_value(value.clone())
        .map_err(|error| CniError::caused(Code::DECODING_FAILURE, "the result does not parse", &error))
}

/// The result as `version` has it; what that version has no field for is left out.
#[must_use]
pub fn to_json(result: &NetworkResult, version: Version) -> Value {
    let mut result = result.clone();
    if version < Version::V1_1_0 {
        for interface in &mut result.interfaces {
            interface.mtu = 0;
            interface.socket_path.clear();
            interface.pci_id.clear();
        }
        for route in &mut result.routes {
            (route.mtu, route.advmss, route.priority) = (0, 0, 0);
            (route.table, route.scope) = (None, None);
        }
    }
    let ips: Vec<Value> = result
        .ips
        .iter()
        .map(|ip| {
            let mut value = json!({ "address": ip.address });
            if let Some(interface) = ip.interface {
                value["interface"] = json!(interface);
            }
            if let Some(gateway) = ip.gateway {
                value["gateway"] = json!(gateway);
            }
            if version < Version::V1_0_0 {
                value["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
            }
            value
        })
        .collect();
    let mut value = json!({
        "cniVersion": version.as_str(),
        "dns": result.dns,
    });
    if !result.interfaces.is_empty() {
        value["interfaces"] = json!(result.interfaces);
    }
    if !ips.is_empty() {
        value["ips"] = json!(ips);
    }
    if !result.routes.is_empty() {
        value["routes"] = json!(result.routes);
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cni::model::{Interface, Ip, Route};

    fn result() -> NetworkResult {
        NetworkResult {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mtu: 1450,
                sandbox: "/n".into(),
                ..Interface::default()
            }],
            ips: vec![Ip { interface: Some(0), address: "10.1.0.2/32".parse().unwrap(), gateway: None }],
            routes: vec![Route {
                dst: "::/0".parse().unwrap(),
                gw: Some("fe80::1".parse().unwrap()),
                mtu: 0,
                advmss: 0,
                priority: 7,
                table: None,
                scope: None,
            }],
            ..NetworkResult::default()
        }
    }

    #[test]
    fn the_newest_version_loses_nothing() {
        assert_eq!(from_json(&to_json(&result(), Version::V1_1_0)).unwrap(), result());
    }

    #[test]
    fn older_versions_say_the_family_and_leave_out_what_is_new() {
        let value = to_json(&result(), Version::V0_4_0);
        assert_eq!(value["ips"][0]["version"], "4");
        assert_eq!(value["interfaces"][0].get("mtu"), None);
        assert_eq!(value["routes"][0].get("priority"), None);
        assert!(from_json(&value).is_ok());
    }

    #[test]
    fn a_result_of_an_unknown_version_is_refused() {
        let error = from_json(&json!({"cniVersion": "9.9.9"})).unwrap_err();
        assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,200}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                drop(from_json(&value));
            }
        }
    }
}
