//! Which ports answer what.
#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};

/// What is answered on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub namespace: String,
    pub service: String,
    /// How many ready endpoints are on this node.
    pub local_endpoints: usize,
}

impl Answer {
    /// The whole response, in kube-proxy's form: 200 where there are endpoints and rules lead to them, else 503.
    #[must_use]
    pub fn response(&self, healthy: bool) -> String {
        let Self { namespace, service, local_endpoints } = self;
        let status = if *local_endpoints > 0 && healthy { "200 OK" } else { "503 Service Unavailable" };
        // Names of Kubernetes objects have no character that JSON would escape.
        let body = format!(
            "{{\"service\":{{\"namespace\":\"{namespace}\",\"name\":\"{service}\"}},\"localEndpoints\":{local_endpoints},\
             \"serviceProxyHealthy\":{healthy}}}"
        );
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
             X-Load-Balancing-Endpoint-Weight: {local_endpoints}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// What leads from the servers that there are to those that should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub stop: BTreeSet<u16>,
    pub start: BTreeMap<u16, Answer>,
    /// Those that go on, with another answer.
    pub change: BTreeMap<u16, Answer>,
}

#[must_use]
pub fn plan(desired: &BTreeMap<u16, Answer>, running: &BTreeMap<u16, Answer>) -> Plan {
    let mut plan = Plan::default();
    plan.stop.extend(running.keys().filter(|port| !desired.contains_key(port)));
    for (port, answer) in desired {
        match running.get(port) {
            None => drop(plan.start.insert(*port, answer.clone())),
            Some(now) if now != answer => drop(plan.change.insert(*port, answer.clone())),
            Some(_) => {}
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(local_endpoints: usize) -> Answer {
        Answer { namespace: "shop".into(), service: "web".into(), local_endpoints }
    }

    #[test]
    fn a_node_without_endpoints_says_that_it_has_none() {
        let text = answer(0).response(true);
        assert!(text.starts_with("HTTP/1.1 503 "), "{text}");
        let text = answer(2).response(true);
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n"),
            "{text}"
        );
        let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let expected = serde_json::json!({
            "service": {"namespace": "shop", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true
        });
        assert_eq!(body, expected);
        let text = answer(2).response(false);
        assert!(
            text.starts_with("HTTP/1.1 503 ") && text.contains("\"serviceProxyHealthy\":false"),
            "rules do not lead to them: {text}"
        );
    }

    #[test]
    fn ports_start_change_and_stop() {
        let running = BTreeMap::from([(1, answer(1)), (2, answer(1)), (3, answer(1))]);
        let desired = BTreeMap::from([(2, answer(1)), (3, answer(0)), (4, answer(1))]);
        let plan = plan(&desired, &running);
        assert_eq!(plan.stop, [1].into());
        assert_eq!(plan.change, BTreeMap::from([(3, answer(0))]));
        assert_eq!(plan.start, BTreeMap::from([(4, answer(1))]));
        assert_eq!(super::plan(&desired, &desired), Plan::default());
    }
}
