//! A probe as it is to be carried out: defaults filled in, ports resolved, commands expanded.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::state::{Kind, Thresholds};
use crate::runtime::expand;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub kind: Kind,
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub thresholds: Thresholds,
    pub grace_seconds: Option<i64>,
    /// Or why it cannot be carried out, in upstream's words.
    pub check: Result<Check, String>,
}

/// Where a host is missing, it is the pod's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Exec(Vec<String>),
    Http(HttpCheck),
    Tcp { host: Option<String>, port: u16 },
    Grpc { port: u16, service: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    pub https: bool,
    pub host: Option<String>,
    pub port: u16,
    /// With the query; as the request line has it.
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// The probes of a container.
pub fn of(container: &Container) -> Vec<Spec> {
    let all = [
        (Kind::Startup, &container.startup_probe),
        (Kind::Liveness, &container.liveness_probe),
        (Kind::Readiness, &container.readiness_probe),
    ];
    all.into_iter().filter_map(|(kind, probe)| Some(spec(kind, probe.as_ref()?, container))).collect()
}

fn spec(kind: Kind, probe: &Probe, container: &Container) -> Spec {
    let at_least =
        |value: Option<i32>, least: u32| value.and_then(|it| u32::try_from(it).ok()).unwrap_or(0).max(least);
    let seconds = |value: Option<i32>, default: u32, least: u32| {
        Duration::from_secs(u64::from(at_least(value.or(i32::try_from(default).ok()), least)))
    };
    Spec {
        kind,
        initial_delay: seconds(probe.initial_delay_seconds, 0, 0),
        period: seconds(probe.period_seconds, 10, 1),
        timeout: seconds(probe.timeout_seconds, 1, 1),
        thresholds: Thresholds {
            success: at_least(probe.success_threshold, 1),
            failure: at_least(probe.failure_threshold.or(Some(3)), 1),
        },
        grace_seconds: probe.termination_grace_period_seconds,
        check: check(probe, container),
    }
}

fn check(probe: &Probe, container: &Container) -> Result<Check, String> {
    if let Some(exec) = &probe.exec {
        let command = exec.command.as_deref().unwrap_or_default();
        return Ok(Check::Exec(
            command.iter().map(|part| expand(part, &|name| static_value(container, name))).collect(),
        ));
    }
    if let Some(http) = &probe.http_get {
        return Ok(Check::Http(http_check(http, container)?));
    }
    if let Some(tcp) = &probe.tcp_socket {
        return Ok(Check::Tcp { host: non_empty(tcp.host.as_ref()), port: port(&tcp.port, container)? });
    }
    if let Some(grpc) = &probe.grpc {
        let port = number(grpc.port)?;
        return Ok(Check::Grpc { port, service: grpc.service.clone().unwrap_or_default() });
    }
    Err(format!("missing probe handler for {}", container.name))
}

fn http_check(http: &HTTPGetAction, container: &Container) -> Result<HttpCheck, String> {
    let headers = http.http_headers.iter().flatten().map(|it| (it.name.clone(), it.value.clone()));
    Ok(HttpCheck {
        https: http.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
        host: non_empty(http.host.as_ref()),
        port: port(&http.port, container)?,
        path: request_path(http.path.as_deref().unwrap_or_default()),
        headers: headers.collect(),
    })
}

/// What may not stand in a request line is escaped; a fragment stays at home.
fn request_path(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut text = if path.starts_with('/') { String::new() } else { "/".to_string() };
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if !br#""<>\^`{|}"#.contains(&byte) => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

fn non_empty(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn static_value(container: &Container, name: &str) -> Option<String> {
    let mut env = container.env.iter().flatten().rev();
    env.find(|env| env.name == name).map(|env| env.value.clone().unwrap_or_default())
}

fn number(port: i32) -> Result<u16, String> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| format!("invalid port number: {port}"))
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => number(port.container_port),
                None => {
                    let parsed = name.parse().map_err(|_| format!("port \"{name}\" not found"))?;
                    number(parsed)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one(probe: Value) -> Spec {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}],
            "env": [{"name": "A", "value": "1"}], "livenessProbe": probe,
        }))
        .unwrap();
        of(&container).remove(0)
    }

    #[test]
    fn defaults_are_upstreams() {
        let spec = one(json!({"tcpSocket": {"port": "web"}}));
        assert_eq!(spec.check, Ok(Check::Tcp { host: None, port: 8080 }));
        assert_eq!((spec.period, spec.timeout), (Duration::from_secs(10), Duration::from_secs(1)));
        assert_eq!(spec.thresholds, Thresholds { success: 1, failure: 3 });
        assert_eq!(spec.initial_delay, Duration::ZERO);
    }

    #[test]
    fn requests_and_commands_are_made_ready() {
        let http = one(
            json!({"httpGet": {"port": 80, "path": "a b?x=1#f", "scheme": "HTTPS", "httpHeaders": [{"name": "H", "value": "v"}]}}),
        );
        let Ok(Check::Http(http)) = http.check else { panic!("{http:?}") };
        assert_eq!((http.https, http.path.as_str(), http.headers.len()), (true, "/a%20b?x=1", 1));
        let exec = one(json!({"exec": {"command": ["sh", "-c", "echo $(A) $(B)"]}}));
        assert_eq!(exec.check, Ok(Check::Exec(vec!["sh".into(), "-c".into(), "echo 1 $(B)".into()])));
        assert_eq!(one(json!({"tcpSocket": {"port": "none"}})).check, Err("port \"none\" not found".into()));
        assert_eq!(one(json!({"tcpSocket": {"port": 0}})).check, Err("invalid port number: 0".into()));
        assert_eq!(one(json!({})).check, Err("missing probe handler for c".into()));
    }
}
