//! Services, their ports and their endpoints.
#![deny(clippy::disallowed_methods)]

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{CNAME, SRV},
};
use k8s_openapi::api::{
    core::v1::{Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use super::{
    Answer, At, complete,
    endpoints::{Ready, ready},
};

/// What a Service's name leads to.
pub(super) enum Kind {
    ClusterIp(Vec<IpAddr>),
    Headless,
    External(String),
}

/// None where nothing is allocated yet: such a Service has no name.
pub(super) fn kind(service: &Service) -> Option<Kind> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Kind::External(spec.external_name.clone().unwrap_or_default()));
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return Some(Kind::Headless);
    }
    let ips = cluster_ips(spec);
    (!ips.is_empty()).then_some(Kind::ClusterIp(ips))
}

pub(crate) fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let many = spec.cluster_ips.iter().flatten();
    let mut ips: Vec<IpAddr> = many.filter_map(|text| text.parse().ok()).collect();
    if ips.is_empty() {
        ips.extend(spec.cluster_ip.iter().filter_map(|text| text.parse::<IpAddr>().ok()));
    }
    ips
}

/// One SRV record before it has a name: which port, at which host.
struct Target {
    port: u16,
    host: Option<String>,
    ip: Vec<IpAddr>,
}

/// Which ports a question is about: those of one name and protocol, or any.
#[derive(Clone, Copy)]
enum Ports<'a> {
    Any,
    /// All named ones of a protocol.
    Over(&'a str),
    Named {
        name: &'a str,
        protocol: &'a str,
    },
}

impl Ports<'_> {
    fn take(self, name: Option<&str>, protocol: Option<&str>) -> bool {
        let (name, protocol) = (name.unwrap_or_default(), protocol.unwrap_or("TCP"));
        match self {
            Self::Any => true,
            Self::Over(over) => !name.is_empty() && protocol.eq_ignore_ascii_case(over),
            Self::Named { name: asked, protocol: over } => {
                !name.is_empty() && name.eq_ignore_ascii_case(asked) && protocol.eq_ignore_ascii_case(over)
            }
        }
    }
}

impl At<'_> {
    pub(super) fn service(&self, namespace: &str, name: &str) -> Answer {
        let Some((service, kind)) = self.find(namespace, name) else { return self.no_such_name() };
        let slices = self.slices_of(&kind, namespace, name);
        match kind {
            Kind::External(target) => self.alias(&target),
            // As kube-dns and CoreDNS do, and peers of a StatefulSet rely on it: all ports, named or not.
            _ if self.kind == RecordType::SRV => {
                let targets = targets(&service, &kind, &slices, Ports::Any);
                if targets.is_empty() && matches!(kind, Kind::Headless) && is_empty(&service, &slices) {
                    return self.no_such_name();
                }
                self.ports(namespace, name, targets)
            }
            Kind::ClusterIp(ips) => self.addresses(&ips),
            Kind::Headless => {
                let endpoints = ready(&service, slices.iter().map(Arc::as_ref));
                if endpoints.is_empty() { self.no_such_name() } else { self.addresses(&unique(&endpoints)) }
            }
        }
    }

    pub(super) fn below_service(&self, namespace: &str, name: &str, rest: &[String]) -> Answer {
        let Some((service, kind)) = self.find(namespace, name) else { return self.no_such_name() };
        if matches!(kind, Kind::External(_)) {
            return self.no_such_name();
        }
        let ports = match rest {
            [one] => match one.strip_prefix('_') {
                Some(protocol) => Ports::Over(protocol),
                None => return self.endpoint(&service, namespace, name, one),
            },
            [protocol, port] => match (protocol.strip_prefix('_'), port.strip_prefix('_')) {
                (Some(protocol), Some(name)) => Ports::Named { name, protocol },
                _ => return self.no_such_name(),
            },
            _ => return self.no_such_name(),
        };
        let slices = self.slices_of(&kind, namespace, name);
        let targets = targets(&service, &kind, &slices, ports);
        match ports {
            _ if targets.is_empty() => self.no_such_name(),
            // `_tcp.web.ns.svc` has nothing at it, only below it.
            Ports::Over(_) => self.no_data(),
            Ports::Any | Ports::Named { .. } => self.ports(namespace, name, targets),
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Option<(Arc<Service>, Kind)> {
        let service = self.world.service(namespace, name)?;
        let kind = kind(&service)?;
        Some((service, kind))
    }

    /// A Service with a cluster IP is answered without its endpoints.
    fn slices_of(&self, kind: &Kind, namespace: &str, name: &str) -> Vec<Arc<EndpointSlice>> {
        match kind {
            Kind::Headless => self.world.slices(namespace, name),
            Kind::ClusterIp(_) | Kind::External(_) => Vec::new(),
        }
    }

    fn alias(&self, target: &str) -> Answer {
        // An address is no name, though the API takes it for one: nothing can be said of it.
        let target = target.trim_end_matches('.');
        if target.is_empty() || target.parse::<IpAddr>().is_ok() {
            return self.no_data();
        }
        let Ok(mut target) = Name::from_ascii(target) else { return self.no_data() };
        target.set_fqdn(true);
        let data = RData::CNAME(CNAME(target));
        complete(vec![Record::from_rdata(self.name.clone(), self.zone.ttl, data)])
    }

    /// Headless or not, as CoreDNS: who knows an endpoint's name may ask for it.
    fn endpoint(&self, service: &Service, namespace: &str, name: &str, host: &str) -> Answer {
        let slices = self.world.slices(namespace, name);
        let mut endpoints = ready(service, slices.iter().map(Arc::as_ref));
        endpoints.retain(|endpoint| endpoint.host == host);
        if endpoints.is_empty() { self.no_such_name() } else { self.addresses(&unique(&endpoints)) }
    }

    /// SRV records with the addresses of their targets beside them.
    fn ports(&self, namespace: &str, name: &str, targets: Vec<Target>) -> Answer {
        if !self.wants(RecordType::SRV) || targets.is_empty() {
            return self.no_data();
        }
        // Of equal priority, each as likely as the others.
        let weight = u16::try_from(100 / targets.len()).unwrap_or(1).max(1);
        let (mut answer, mut told) = (complete(Vec::new()), HashSet::new());
        for Target { port, host, ip } in targets {
            let mut labels = vec!["svc", namespace, name];
            labels.extend(host.as_deref());
            let Some(target) = self.zone.below(&labels) else { continue };
            if told.insert((host, ip.clone())) {
                answer.additionals.extend(self.address_records(&target, &ip, |_| true));
            }
            let data = RData::SRV(SRV::new(0, weight, port, target));
            answer.answers.push(Record::from_rdata(self.name.clone(), self.zone.ttl, data));
        }
        // The same host twice (its two families, or two slices) is one target.
        let mut seen = HashSet::new();
        answer.answers.retain(|record| seen.insert(record.data.clone()));
        answer
    }
}

fn is_empty(service: &Service, slices: &[Arc<EndpointSlice>]) -> bool {
    ready(service, slices.iter().map(Arc::as_ref)).is_empty()
}

fn targets(service: &Service, kind: &Kind, slices: &[Arc<EndpointSlice>], ports: Ports<'_>) -> Vec<Target> {
    let mut targets = Vec::new();
    match kind {
        Kind::External(_) => {}
        Kind::ClusterIp(ips) => {
            for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                if ports.take(port.name.as_deref(), port.protocol.as_deref())
                    && let Ok(port) = u16::try_from(port.port)
                {
                    targets.push(Target { port, host: None, ip: ips.clone() });
                }
            }
        }
        Kind::Headless => {
            for endpoint in ready(service, slices.iter().map(Arc::as_ref)) {
                for port in endpoint.ports {
                    let taken = ports.take(port.name.as_deref(), port.protocol.as_deref());
                    let number = port.port.and_then(|port| u16::try_from(port).ok());
                    if let (true, Some(port)) = (taken, number) {
                        targets.push(Target {
                            port,
                            host: Some(endpoint.host.clone()),
                            ip: vec![endpoint.ip],
                        });
                    }
                }
            }
        }
    }
    targets
}

/// Each address once, in order: an endpoint may be in two slices while it moves.
fn unique(endpoints: &[Ready<'_>]) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    endpoints.iter().map(|endpoint| endpoint.ip).filter(|ip| seen.insert(*ip)).collect()
}
