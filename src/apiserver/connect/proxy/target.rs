//! What a proxied request is for: `name`, `name:port` or `scheme:name:port`, and which address that may be. No IO.
#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use serde_json::Value;

use crate::{
    connect::location::{Endpoint, text},
    status::{ApiError, quote},
};

/// What stands where the object's name does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked<'a> {
    pub(super) https: bool,
    pub(super) name: &'a str,
    /// Of a Service also a port's name; empty where none is said.
    pub(super) port: &'a str,
}

impl<'a> Asked<'a> {
    pub(super) fn parse(kind: &str, text: &'a str) -> Result<Asked<'a>, ApiError> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => ("", "", ""),
        };
        if name.is_empty() || !["", "http", "https"].contains(&scheme) {
            return Err(ApiError::bad_request(format!("invalid {kind} request {}", quote(text))));
        }
        Ok(Asked { https: scheme == "https", name, port })
    }

    /// The port in numbers.
    pub(super) fn number(&self) -> Result<u16, ApiError> {
        let usual = if self.https { 443 } else { 80 };
        if self.port.is_empty() {
            return Ok(usual);
        }
        self.port.parse().map_err(|_| {
            let why = format!("error trying to reach service: {} is no port", quote(self.port));
            ApiError::service_unavailable(why)
        })
    }
}

/// Whether a connection may be made on a user's behalf: not to loopback, link-local, multicast and unspecified addresses
/// (upstream's `IsProxyableIP`). This machine's other addresses are as good as anybody's: they are those of the pods and
/// the kubelet on it.
pub(super) fn is_allowed(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

pub(super) fn not_allowed() -> ApiError {
    ApiError::bad_request("address not allowed")
}

/// A pod by its address, at the port that is asked for or the first one that it names.
pub(super) fn of_pod(pod: &Value, asked: &Asked<'_>) -> Result<Endpoint, ApiError> {
    let ip: Option<IpAddr> = text(pod, "/status/podIPs/0/ip").parse().ok();
    let ip = ip.filter(|ip| is_allowed(*ip)).ok_or_else(not_allowed)?;
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
    let first =
        containers.filter_map(|container| container.pointer("/ports/0/containerPort")?.as_u64()).next();
    let port = match first.and_then(|port| u16::try_from(port).ok()).filter(|_| asked.port.is_empty()) {
        Some(first) => first,
        None => asked.number()?,
    };
    Ok(Endpoint { host: ip.to_string(), port })
}

/// The name of the port that has the number which is asked for; what is asked for where that is a name.
pub(super) fn port_name<'a>(service: &'a Value, asked: &Asked<'a>) -> Result<&'a str, ApiError> {
    let Ok(number) = asked.port.parse::<i64>() else { return Ok(asked.port) };
    let mut ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let found = ports.find(|port| port["port"].as_i64() == Some(number));
    let missing = || {
        let why = format!("no service port {number} found for service {}", quote(asked.name));
        ApiError::service_unavailable(why)
    };
    found.map(|port| port["name"].as_str().unwrap_or_default()).ok_or_else(missing)
}

/// An address of a Service, and the pod that should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) endpoint: Endpoint,
    pub(super) pod: String,
}

/// Ready addresses of the port of this name that say which pod of the namespace they are. Anybody may write an
/// Endpoints object: one without a pod behind it is nothing to connect to.
pub(super) fn candidates(endpoints: &Value, namespace: &str, port_name: &str) -> Vec<Candidate> {
    let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for subset in list(endpoints, "subsets") {
        let ports = list(&subset, "ports");
        let named = ports.iter().find(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let number = named.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = number else { continue };
        for address in list(&subset, "addresses") {
            let ip: Option<IpAddr> = text(&address, "/ip").parse().ok();
            let Some(ip) = ip.filter(|ip| is_allowed(*ip)) else { continue };
            let pod = text(&address, "/targetRef/name");
            if text(&address, "/targetRef/namespace") == namespace && !pod.is_empty() {
                let endpoint = Endpoint { host: ip.to_string(), port };
                found.push(Candidate { endpoint, pod: pod.to_owned() });
            }
        }
    }
    found
}

/// The pod still has the address.
pub(super) fn has_address(pod: &Value, host: &str) -> bool {
    let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
    ips.into_iter().flatten().any(|entry| entry["ip"] == host)
}

pub(super) fn no_endpoints(asked: &str) -> ApiError {
    ApiError::service_unavailable(format!("no endpoints available for service {}", quote(asked)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn said<T: std::fmt::Debug>(result: Result<T, ApiError>) -> (u16, String) {
        let error = result.unwrap_err();
        (error.code.as_u16(), error.message)
    }

    #[test]
    fn a_name_may_have_a_port_and_a_scheme() {
        let asked = |text| Asked::parse("pod", text).map_err(|error| error.message);
        assert_eq!(asked("web"), Ok(Asked { https: false, name: "web", port: "" }));
        assert_eq!(asked("web:80"), Ok(Asked { https: false, name: "web", port: "80" }));
        assert_eq!(asked("https:web:"), Ok(Asked { https: true, name: "web", port: "" }));
        for wrong in [":80", "ftp:web:21", "a:b:c:d"] {
            assert_eq!(asked(wrong), Err(format!("invalid pod request \"{wrong}\"")));
        }
    }

    #[test]
    fn a_pod_is_reached_at_its_address_unless_that_is_loopback_or_of_the_link() {
        let pod = |ip: &str| {
            json!({
                "spec": {"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 8080}]}]},
                "status": {"podIPs": [{"ip": ip}]},
            })
        };
        let at = |pod: &Value, asked: &str| {
            of_pod(pod, &Asked::parse("pod", asked).unwrap()).map(|endpoint| endpoint.to_string())
        };
        assert_eq!(at(&pod("10.0.0.7"), "web"), Ok("10.0.0.7:8080".into()));
        assert_eq!(at(&pod("fd00::7"), "web:81"), Ok("[fd00::7]:81".into()));
        let bare = json!({"spec": {"containers": [{}]}, "status": {"podIPs": [{"ip": "10.0.0.7"}]}});
        assert_eq!(at(&bare, "https:web:"), Ok("10.0.0.7:443".into()));
        assert_eq!(at(&bare, "web"), Ok("10.0.0.7:80".into()));
        for ip in ["127.0.0.1", "169.254.1.1", "::ffff:127.0.0.1", "fe80::1", "0.0.0.0", ""] {
            assert_eq!(said(at(&pod(ip), "web")), (400, "address not allowed".into()), "{ip}");
        }
        assert_eq!(said(at(&bare, "web:http")).0, 503);
    }

    #[test]
    fn a_service_is_one_of_the_pods_behind_its_port() {
        let service =
            json!({"spec": {"ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]}});
        let name = |text| port_name(&service, &Asked::parse("service", text).unwrap()).map(str::to_owned);
        assert_eq!(name("web:80"), Ok("http".into()));
        assert_eq!(name("web:https"), Ok("https".into()));
        assert_eq!(said(name("web:81")), (503, "no service port 81 found for service \"web\"".into()));
        let of = |namespace: &str, pod: &str| json!({"kind": "Pod", "namespace": namespace, "name": pod});
        let endpoints = json!({"subsets": [{
            "ports": [{"name": "http", "port": 8080}],
            "addresses": [
                {"ip": "10.0.0.7", "targetRef": of("d", "a")}, {"ip": "10.0.0.8", "targetRef": of("x", "b")},
                {"ip": "10.0.0.9"}, {"ip": "127.0.0.1", "targetRef": of("d", "c")},
            ],
            "notReadyAddresses": [{"ip": "10.0.0.10", "targetRef": of("d", "e")}],
        }]});
        let found = candidates(&endpoints, "d", "http");
        let shown: Vec<String> = found.iter().map(|it| format!("{} {}", it.endpoint, it.pod)).collect();
        assert_eq!(shown, ["10.0.0.7:8080 a"]);
        assert!(candidates(&endpoints, "d", "").is_empty());
        assert!(has_address(&json!({"status": {"podIPs": [{"ip": "10.0.0.7"}]}}), "10.0.0.7"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_asked_for_is_said_with_the_same_words(text in "(https?|[a-z]{0,3}|\\PC{0,3})(:[a-z0-9]{0,3}|:\\PC{0,3}){0,3}") {
            if let Ok(asked) = Asked::parse("pod", &text) {
                let Asked { https, name, port } = asked;
                let schemes: &[&str] = if https { &["https:"] } else { &["", ":", "http:"] };
                let said = |scheme: &&str| text == format!("{scheme}{name}:{port}") || text == format!("{scheme}{name}");
                prop_assert!(!name.is_empty() && !name.contains(':') && !port.contains(':'));
                prop_assert!(schemes.iter().any(said), "{:?}", asked);
                prop_assert_eq!(asked.number().is_ok(), port.is_empty() || port.parse::<u16>().is_ok());
            }
        }
    }
}
