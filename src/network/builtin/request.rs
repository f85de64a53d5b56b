//! Reads what the runtime asks of the network besides an interface: host ports and bandwidth.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use netlink::route::TokenBucket;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::model::{Bandwidth, HostPort, Protocol};
use crate::cni::{CniError, Code};

/// Upstream's runtimes send this burst, in bits, when the pod says only a rate.
const MAX_BURST_BITS: u64 = u32::MAX as u64 * 8;

#[derive(Deserialize)]
struct PortMapping {
    #[serde(default, rename = "hostport")]
    host_port: i64,
    #[serde(default, rename = "containerport")]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostip")]
    host_ip: String,
}

/// CNI's convention `bandwidth`: bits per second and bits.
#[derive(Deserialize)]
struct Limits {
    #[serde(default, rename = "ingressrate")]
    ingress_rate: u64,
    #[serde(default, rename = "ingressburst")]
    ingress_burst: u64,
    #[serde(default, rename = "egressrate")]
    egress_rate: u64,
    #[serde(default, rename = "egressburst")]
    egress_burst: u64,
}

/// Names in lower case: the convention writes `hostPort`, containerd `HostPort`, and Go's readers take both for one.
fn folded(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(folded).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
        }
        other => other.clone(),
    }
}

/// # Errors
/// When a mapping is none, naming it.
pub(super) fn host_ports(capabilities: &Map<String, Value>) -> Result<Vec<HostPort>, CniError> {
    let Some(value) = capabilities.get("portMappings").filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let mappings: Vec<PortMapping> = serde_json::from_value(folded(value))
        .map_err(|error| CniError::caused(Code::DECODING_FAILURE, "portMappings", &error))?;
    // A mapping without a host port is only a note that the port exists.
    mappings.iter().filter(|mapping| mapping.host_port != 0).map(host_port).collect()
}

fn host_port(mapping: &PortMapping) -> Result<HostPort, CniError> {
    let invalid = |what: &str| CniError::new(Code::INVALID_CONFIG, format!("portMappings: invalid {what}"));
    let port =
        |number: i64, what| u16::try_from(number).ok().filter(|port| *port != 0).ok_or_else(|| invalid(what));
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "tcp" | "" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(invalid(&format!("protocol {other:?}"))),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| invalid(&format!("hostIP {text:?}")))?),
    };
    Ok(HostPort {
        // 0.0.0.0 and :: mean every address, of either family, as upstream's portmap has it.
        host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
        host_port: port(mapping.host_port, "hostPort")?,
        container_port: port(mapping.container_port, "containerPort")?,
        protocol,
    })
}

/// # Errors
/// When it is no bandwidth, or a rate comes without a burst.
pub(super) fn bandwidth(capabilities: &Map<String, Value>) -> Result<Bandwidth, CniError> {
    let Some(value) = capabilities.get("bandwidth").filter(|value| !value.is_null()) else {
        return Ok(Bandwidth::default());
    };
    let limits: Limits = serde_json::from_value(folded(value))
        .map_err(|error| CniError::caused(Code::DECODING_FAILURE, "bandwidth", &error))?;
    Ok(Bandwidth {
        ingress: bucket(limits.ingress_rate, limits.ingress_burst)?,
        egress: bucket(limits.egress_rate, limits.egress_burst)?,
    })
}

fn bucket(rate_bits: u64, burst_bits: u64) -> Result<Option<TokenBucket>, CniError> {
    match (rate_bits, burst_bits) {
        (0, 0) => Ok(None),
        (0, _) => Err(CniError::new(Code::INVALID_CONFIG, "bandwidth: a burst without a rate")),
        (_, 0) => Err(CniError::new(Code::INVALID_CONFIG, "bandwidth: a rate without a burst")),
        (rate, burst) => Ok(Some(TokenBucket {
            bytes_per_second: (rate / 8).max(1),
            burst_bytes: u32::try_from(burst.min(MAX_BURST_BITS) / 8).unwrap_or(u32::MAX).max(1),
        })),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn ports(mappings: &Value) -> Result<Vec<HostPort>, CniError> {
        host_ports(&Map::from_iter([("portMappings".to_string(), mappings.clone())]))
    }

    #[test]
    fn unspecified_host_addresses_mean_all_and_mappings_without_a_host_port_mean_nothing() {
        let got = ports(&json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "0.0.0.0"},
            {"containerPort": 81, "protocol": "tcp"},
        ]));
        let expected =
            HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        assert_eq!(got.unwrap(), [expected]);
    }

    #[test]
    fn names_are_read_as_containerd_spells_them() {
        let got = ports(&json!([{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}]));
        let expected =
            HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        assert_eq!(got.unwrap(), [expected]);
        let value = json!({"IngressRate": 8000, "IngressBurst": 80000, "EgressRate": 0, "EgressBurst": 0});
        let got = bandwidth(&Map::from_iter([("bandwidth".to_string(), value)])).unwrap();
        assert_eq!(got.ingress, Some(TokenBucket { bytes_per_second: 1000, burst_bytes: 10000 }));
    }

    #[test]
    fn what_is_no_port_is_refused_by_name() {
        let error = ports(&json!([{"hostPort": 70000, "containerPort": 80}])).unwrap_err();
        assert_eq!(error.to_string(), "portMappings: invalid hostPort (code 7)");
    }

    #[test]
    fn rates_come_in_bits() {
        let value = json!({"ingressRate": 8000, "ingressBurst": 80000});
        let got = bandwidth(&Map::from_iter([("bandwidth".to_string(), value)])).unwrap();
        assert_eq!(got.ingress, Some(TokenBucket { bytes_per_second: 1000, burst_bytes: 10000 }));
        assert_eq!(got.egress, None);
    }

    proptest! {
        #[test]
        fn no_request_makes_the_reader_panic(
            host_port in any::<i64>(), container_port in any::<i64>(), protocol in ".{0,5}", ip in "[0-9a-f:.]{0,12}",
            rate in any::<u64>(), burst in any::<u64>()
        ) {
            drop(ports(&json!([
                {"hostPort": host_port, "containerPort": container_port, "protocol": protocol, "hostIP": ip}])));
            let value = json!({"egressRate": rate, "egressBurst": burst});
            drop(bandwidth(&Map::from_iter([("bandwidth".to_string(), value)])));
        }
    }
}
