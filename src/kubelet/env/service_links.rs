//! Services as environment variables, as Docker's links had them.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Service, ServicePort};

/// The Service that every pod is told of, whatever it asks for.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// Of the pod's namespace if `enabled`, and always the API server's.
pub fn service_links(services: &[Arc<Service>], namespace: &str, enabled: bool) -> BTreeMap<String, String> {
    let is_master = |service: &Service| {
        let meta = &service.metadata;
        (meta.namespace.as_deref(), meta.name.as_deref()) == (Some(MASTER.0), Some(MASTER.1))
    };
    let own = |service: &Service| enabled && service.metadata.namespace.as_deref() == Some(namespace);
    let mut links = BTreeMap::new();
    // One of the namespace hides the API server's if it has its name.
    for service in services.iter().filter(|it| is_master(it)) {
        add(&mut links, service);
    }
    for service in services.iter().filter(|it| own(it) && !is_master(it)) {
        add(&mut links, service);
    }
    links
}

fn add(links: &mut BTreeMap<String, String>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
    let (Some(ip), Some(name)) = (ip, service.metadata.name.as_deref()) else { return };
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let prefix = variable(name);
    links.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    links.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    links.insert(format!("{prefix}_PORT"), url(ip, first));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            links.insert(format!("{prefix}_SERVICE_PORT_{}", variable(name)), port.port.to_string());
        }
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let own = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
        links.insert(format!("{own}_PROTO"), protocol.to_lowercase());
        links.insert(format!("{own}_PORT"), port.port.to_string());
        links.insert(format!("{own}_ADDR"), ip.to_string());
        links.insert(own, url(ip, port));
    }
}

fn url(ip: &str, port: &ServicePort) -> String {
    let protocol = port.protocol.as_deref().unwrap_or("TCP").to_lowercase();
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    format!("{protocol}://{host}:{}", port.port)
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(namespace: &str, name: &str, spec: serde_json::Value) -> Arc<Service> {
        let meta = json!({"namespace": namespace, "name": name});
        Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap())
    }

    #[test]
    fn a_service_is_told_in_the_old_words() {
        let web = json!({"clusterIP": "10.0.0.5", "ports": [{"name": "http-main", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
        let links = service_links(&[service("shop", "my-web", web)], "shop", true);
        let expected = [
            ("MY_WEB_PORT", "tcp://10.0.0.5:80"),
            ("MY_WEB_PORT_53_UDP", "udp://10.0.0.5:53"),
            ("MY_WEB_PORT_53_UDP_ADDR", "10.0.0.5"),
            ("MY_WEB_PORT_53_UDP_PORT", "53"),
            ("MY_WEB_PORT_53_UDP_PROTO", "udp"),
            ("MY_WEB_PORT_80_TCP", "tcp://10.0.0.5:80"),
            ("MY_WEB_PORT_80_TCP_ADDR", "10.0.0.5"),
            ("MY_WEB_PORT_80_TCP_PORT", "80"),
            ("MY_WEB_PORT_80_TCP_PROTO", "tcp"),
            ("MY_WEB_SERVICE_HOST", "10.0.0.5"),
            ("MY_WEB_SERVICE_PORT", "80"),
            ("MY_WEB_SERVICE_PORT_DNS", "53"),
            ("MY_WEB_SERVICE_PORT_HTTP_MAIN", "80"),
        ];
        assert_eq!(
            links.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn the_api_server_is_told_to_everybody_and_headless_services_to_nobody() {
        let port = json!([{"port": 443}]);
        let services = [
            service("default", "kubernetes", json!({"clusterIP": "10.0.0.1", "ports": port})),
            service("shop", "web", json!({"clusterIP": "10.0.0.2", "ports": port})),
            service("shop", "headless", json!({"clusterIP": "None", "ports": port})),
            service("other", "far", json!({"clusterIP": "10.0.0.3", "ports": port})),
        ];
        let hosts = |enabled| {
            let links = service_links(&services, "shop", enabled);
            links.into_keys().filter(|name| name.ends_with("_SERVICE_HOST")).collect::<Vec<_>>()
        };
        assert_eq!(hosts(true), ["KUBERNETES_SERVICE_HOST", "WEB_SERVICE_HOST"]);
        assert_eq!(hosts(false), ["KUBERNETES_SERVICE_HOST"]);
    }
}
