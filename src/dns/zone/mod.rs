//! What the cluster's names mean: Kubernetes' DNS specification 1.1.0 as a function of the objects.
//!
//! ```text
//!   question ──path──▶ what it asks about ──▶ Service, endpoints, Namespace ──▶ Answer
//! ```

mod endpoints;
mod path;
mod reverse;
mod service;

use std::{net::IpAddr, sync::Arc};

use hickory_proto::{
    ProtoError,
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, SOA, TXT},
    },
};
use ipnet::IpNet;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use path::Asked;
#[cfg(test)]
use reverse::address_name;
pub(crate) use service::cluster_ips;

/// The version of the specification that the names follow.
const SCHEMA_VERSION: &str = "1.1.0";
/// An ExternalName may name a Service that has one; longer chains are somebody's mistake.
const MAX_ALIASES: usize = 8;

/// The objects that names are made from.
pub trait World {
    fn namespace_exists(&self, name: &str) -> bool;
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The slices of a Service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// The Services that have this cluster IP.
    fn services_at(&self, ip: IpAddr) -> Vec<Arc<Service>>;
    /// The slices that have an endpoint at this address; those of Services with a cluster IP may be left out.
    fn slices_at(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// What is known about the question. `answers` may end at an alias whose target is somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    pub end: End,
}

/// How an answer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The records are the answer.
    Complete,
    /// The name exists, without records of this type; the zone's start tells how long that may be believed.
    NoData { apex: Name },
    /// There is no such name, nor any below it.
    NoSuchName { apex: Name },
    /// This name is not ours: the upstream resolvers know, or nobody.
    Elsewhere(Name),
}

/// The zone's own facts.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    /// Whose addresses have their names here, or none.
    ranges: Vec<IpNet>,
    ttl: u32,
    serial: u32,
}

impl Zone {
    /// `domain` such as `cluster.local`; `ranges` are those of pods and Services; `ttl` in seconds, also of what is
    /// not there.
    ///
    /// # Errors
    /// When `domain` is no domain name.
    pub fn new(domain: &str, ranges: Vec<IpNet>, ttl: u32, serial: u32) -> Result<Self, ProtoError> {
        let mut domain = Name::from_ascii(domain)?.to_lowercase();
        domain.set_fqdn(true);
        Ok(Self { domain, ranges, ttl, serial })
    }

    /// Whether the question is for the objects, and not for anybody else, to answer.
    #[must_use]
    pub fn is_ours(&self, name: &Name) -> bool {
        self.domain.zone_of(name) || reverse::parse(name).is_some()
    }

    /// Whether the name is the domain or below it.
    #[must_use]
    pub fn contains(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    /// Everything that the objects say about a question of class IN.
    #[must_use]
    pub fn answer(&self, world: &dyn World, name: &Name, kind: RecordType) -> Answer {
        let mut answers = Vec::new();
        let mut name = name.clone();
        loop {
            let mut found = self.answer_once(world, &name, kind);
            let alias = found.answers.last().and_then(|record| match &record.data {
                RData::CNAME(target) if kind != RecordType::CNAME => Some(target.0.clone()),
                _ => None,
            });
            answers.append(&mut found.answers);
            found.answers = std::mem::take(&mut answers);
            match alias {
                None => return found,
                Some(target) if found.answers.len() >= MAX_ALIASES || !self.domain.zone_of(&target) => {
                    found.end = End::Elsewhere(target);
                    return found;
                }
                Some(target) => (name, answers) = (target, found.answers),
            }
        }
    }

    fn answer_once(&self, world: &dyn World, name: &Name, kind: RecordType) -> Answer {
        let Some(asked) = path::parse(&self.domain, name) else {
            return self.reverse(world, name, kind);
        };
        let at = At { zone: self, world, name, kind };
        match asked {
            Asked::Apex => at.apex(&self.domain),
            Asked::Version => {
                at.found(RecordType::TXT, vec![RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))])
            }
            Asked::Branch => at.no_data(),
            Asked::Namespace(namespace) if world.namespace_exists(&namespace) => at.no_data(),
            Asked::Pod { namespace, address } if world.namespace_exists(&namespace) => {
                at.addresses(&[address])
            }
            Asked::Service { namespace, service } => at.service(&namespace, &service),
            Asked::BelowService { namespace, service, rest } => at.below_service(&namespace, &service, &rest),
            Asked::Namespace(_) | Asked::Pod { .. } | Asked::Nothing => at.no_such_name(),
        }
    }

    /// The start of authority, which bounds how long "not there" is believed.
    #[must_use]
    pub fn start(&self, apex: Name) -> Record {
        let master = self.name_server();
        let mailbox =
            self.domain.prepend_label(b"hostmaster".as_slice()).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(master, mailbox, self.serial, 7200, 1800, 86400, self.ttl);
        Record::from_rdata(apex, self.ttl, RData::SOA(soa))
    }

    /// Where the cluster's DNS is by convention, whoever serves it.
    fn name_server(&self) -> Name {
        self.below(&["svc", "kube-system", "kube-dns"]).unwrap_or_else(|| self.domain.clone())
    }

    /// The name that has these labels below the domain, from the domain's side; none if it would be too long.
    fn below(&self, labels: &[&str]) -> Option<Name> {
        // As bytes: texts would be taken for international names, and checked as such.
        let below = labels.iter().rev().map(|label| label.as_bytes());
        Name::from_labels(below.chain(self.domain.iter())).ok()
    }
}

/// One question, while it is answered.
struct At<'a> {
    zone: &'a Zone,
    world: &'a dyn World,
    name: &'a Name,
    kind: RecordType,
}

impl At<'_> {
    fn wants(&self, kind: RecordType) -> bool {
        self.kind == kind || self.kind == RecordType::ANY
    }

    fn apex(&self, apex: &Name) -> Answer {
        match self.kind {
            RecordType::SOA => {
                let mut start = self.zone.start(apex.clone());
                start.name = self.name.clone();
                complete(vec![start])
            }
            RecordType::NS => self.found(RecordType::NS, vec![RData::NS(NS(self.zone.name_server()))]),
            _ => self.no_data(),
        }
    }

    /// Records of one type that the name has; if another type is asked for, it has none of that.
    fn found(&self, kind: RecordType, data: Vec<RData>) -> Answer {
        if data.is_empty() || !self.wants(kind) {
            return self.no_data();
        }
        let record = |data| Record::from_rdata(self.name.clone(), self.zone.ttl, data);
        complete(data.into_iter().map(record).collect())
    }

    /// A name that has these addresses, of which the question may want one family.
    fn addresses(&self, addresses: &[IpAddr]) -> Answer {
        let records = self.address_records(self.name, addresses, |kind| self.wants(kind));
        if records.is_empty() { self.no_data() } else { complete(records) }
    }

    fn address_records(
        &self,
        name: &Name,
        addresses: &[IpAddr],
        wanted: impl Fn(RecordType) -> bool,
    ) -> Vec<Record> {
        let wanted = addresses.iter().filter(|ip| match ip {
            IpAddr::V4(_) => wanted(RecordType::A),
            IpAddr::V6(_) => wanted(RecordType::AAAA),
        });
        wanted.map(|ip| Record::from_rdata(name.clone(), self.zone.ttl, address_data(*ip))).collect()
    }

    fn no_data(&self) -> Answer {
        negative(End::NoData { apex: self.zone.domain.clone() })
    }

    fn no_such_name(&self) -> Answer {
        negative(End::NoSuchName { apex: self.zone.domain.clone() })
    }
}

fn address_data(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn complete(answers: Vec<Record>) -> Answer {
    Answer { answers, additionals: Vec::new(), end: End::Complete }
}

fn negative(end: End) -> Answer {
    Answer { answers: Vec::new(), additionals: Vec::new(), end }
}

#[cfg(test)]
mod tests;
