//! ADD, DEL, CHECK, GC and STATUS of the built-in network, in the order that a crash at any point leaves
//! something that the next call, or the next start, puts right.
//!
//! Everything here blocks: call it on a worker.

use std::{collections::BTreeSet, net::IpAddr, path::Path, sync::Arc};

use tracing::warn;

use super::{
    ipam::next_address,
    model::{Record, Settings},
    records::{Given, Locked, RecordError, Records},
    request,
    rules::{RulesError, Table},
    wire::{self, WireError, Wired},
};
use crate::cni::{Attachment, AttachmentId, CniError, Code, Dns, Interface, Ip, NetworkResult, Route};

/// The built-in network of this node. Cheap to make: what it knows is on disk and in the kernel.
#[derive(Clone, Debug)]
pub struct Builtin {
    records: Records,
    settings: Settings,
    table: Arc<Table>,
}

/// What a collection of leftovers removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Attachments whose containers are gone; their addresses are free again.
    pub attachments: Vec<AttachmentId>,
    /// Interfaces that no attachment owned.
    pub interfaces: Vec<String>,
    /// Why something stays.
    pub failed: Vec<CniError>,
}

impl Swept {
    /// # Errors
    /// The first failure.
    fn whole(mut self) -> Result<Self, CniError> {
        if self.failed.is_empty() { Ok(self) } else { Err(self.failed.swap_remove(0)) }
    }
}

impl Builtin {
    /// `state_dir` holds the folder `network` of this network's records.
    #[must_use]
    pub fn new(state_dir: &Path, settings: Settings) -> Self {
        Self { records: Records::new(state_dir.join("network/attachments")), settings, table: Arc::default() }
    }

    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Attaches a container, or finds it attached.
    ///
    /// # Errors
    /// With code 11 where waiting may help. What was made until then stays until DEL.
    pub fn add(&self, attachment: &Attachment) -> Result<NetworkResult, CniError> {
        let host_ports = request::host_ports(&attachment.capabilities)?;
        let bandwidth = request::bandwidth(&attachment.capabilities)?;
        let record = {
            let locked = self.records.lock().map_err(|error| record_failure(&error))?;
            let mut all = locked.all().map_err(|error| record_failure(&error))?;
            let known =
                all.iter().position(|record| record.id == attachment.id).map(|index| all.remove(index));
            let sequence = all.iter().map(|record| record.sequence).max().unwrap_or(0) + 1;
            let allocated = match known.as_ref().filter(|known| self.fits(known)) {
                Some(known) => Allocated { addresses: known.addresses.clone(), ports_freed: false },
                None => self.allocate(&locked, &mut all)?,
            };
            let ports_changed = allocated.ports_freed || !host_ports.is_empty();
            let record = Record {
                id: attachment.id.clone(),
                netns: attachment.netns.clone(),
                addresses: allocated.addresses,
                host_ports,
                bandwidth,
                sequence: known.as_ref().map_or(sequence, |known| known.sequence.max(sequence)),
                leaving: false,
            };
            locked.put(&record).map_err(|error| record_failure(&error))?;
            if ports_changed {
                // Before the pod has its address: host ports of the one before must not lead to it.
                all.retain(|record| !record.leaving);
                all.push(record.clone());
                self.write_host_ports(&all)?;
            }
            record
        };
        let mtu = match self.settings.mtu {
            Some(mtu) => mtu,
            None => {
                let uplink = wire::uplink_mtu().map_err(|error| wire_failure(&error))?;
                self.settings.tunnel_mtu.map_or(uplink, |tunnel| tunnel.min(uplink))
            }
        };
        let wired = wire::attach(&record, mtu).map_err(|error| wire_failure(&error))?;
        Ok(result(&record, &wired))
    }

    /// Whether the addresses of a record are still the ones that a new one would have.
    fn fits(&self, record: &Record) -> bool {
        record.addresses.len() == self.settings.pod_cidrs.len()
            && record.addresses.iter().all(|ip| self.settings.pod_cidrs.iter().any(|net| net.contains(ip)))
    }

    /// One address of each range. Where a range is full, first what containers that are gone still hold.
    fn allocate(&self, locked: &Locked<'_>, all: &mut Vec<Record>) -> Result<Allocated, CniError> {
        if self.settings.pod_cidrs.is_empty() {
            return Err(CniError::new(Code::TRY_AGAIN_LATER, "this node has no pod addresses yet"));
        }
        let mut given = locked.given().map_err(|error| record_failure(&error))?;
        // A record that cannot be read may have had any address.
        let mut ports_freed = all.iter().any(Record::is_unreadable) && self.reap(locked, all);
        let addresses = match self.pick(all, &given) {
            Some(addresses) => addresses,
            None => {
                ports_freed |= self.reap(locked, all);
                self.pick(all, &given).ok_or_else(|| self.full())?
            }
        };
        given.clear();
        given.extend(self.settings.pod_cidrs.iter().copied().zip(addresses.iter().copied()));
        locked.put_given(&given).map_err(|error| record_failure(&error))?;
        Ok(Allocated { addresses, ports_freed })
    }

    fn full(&self) -> CniError {
        let ranges: Vec<String> = self.settings.pod_cidrs.iter().map(ToString::to_string).collect();
        CniError::new(Code::TRY_AGAIN_LATER, format!("no address is free in {}", ranges.join(", ")))
    }

    fn pick(&self, all: &[Record], given: &Given) -> Option<Vec<IpAddr>> {
        let used: BTreeSet<IpAddr> = all.iter().flat_map(|record| record.addresses.iter().copied()).collect();
        let ranges = self.settings.pod_cidrs.iter();
        ranges.map(|net| next_address(*net, &used, given.get(net).copied())).collect()
    }

    /// Takes away the attachments of containers that are gone. Whether one had host ports.
    fn reap(&self, locked: &Locked<'_>, all: &mut Vec<Record>) -> bool {
        let mut ports_freed = false;
        let (orphans, rest) = std::mem::take(all).into_iter().partition(is_leftover);
        *all = rest;
        let orphans: Vec<Record> = orphans;
        for orphan in orphans {
            match self.release(locked, &orphan) {
                Ok(()) => ports_freed |= !orphan.host_ports.is_empty(),
                // It keeps its address; the others' may do.
                Err(error) => {
                    let container = orphan.id.container_id.as_str();
                    warn!(container, error = &error as &dyn std::error::Error, "network: leftover stays");
                    all.push(orphan);
                }
            }
        }
        ports_freed
    }

    /// Detaches a container. Succeeds for what is not attached.
    ///
    /// # Errors
    /// When the kernel refuses; DEL can be called again.
    pub fn del(&self, id: &AttachmentId) -> Result<(), CniError> {
        match self.cut_off(id)? {
            Some(leaving) => self.clear_away(&leaving),
            None => Ok(()),
        }
    }

    /// The half of DEL that a runtime has to wait for: nothing leads to the container any more, and after a crash
    /// [`reconcile`](Self::reconcile) goes on with what is left. That is the interfaces, which the kernel takes tens of
    /// milliseconds to remove, mostly waiting. `None`: nothing was attached.
    ///
    /// # Errors
    /// When the kernel refuses; DEL can be called again.
    pub fn cut_off(&self, id: &AttachmentId) -> Result<Option<Leaving>, CniError> {
        let locked = self.records.lock().map_err(|error| record_failure(&error))?;
        let Some(mut record) = self.records.get(id).map_err(|error| record_failure(&error))? else {
            return Ok(None);
        };
        if !record.leaving {
            record.leaving = true;
            locked.put(&record).map_err(|error| record_failure(&error))?;
        }
        // Under one lock with the record's mark, so that nobody makes its host ports again in between.
        if !record.host_ports.is_empty() {
            self.sync_host_ports(&locked)?;
        }
        drop(locked);
        wire::cut_off(&record).map_err(|error| wire_failure(&error))?;
        Ok(Some(Leaving { id: record.id.clone() }))
    }

    /// The other half. The record goes last: until then its address is not given to another.
    ///
    /// # Errors
    /// When the kernel refuses; the next start, or a full range, tries again.
    pub fn clear_away(&self, leaving: &Leaving) -> Result<(), CniError> {
        wire::detach(&leaving.id).map_err(|error| wire_failure(&error))?;
        let locked = self.records.lock().map_err(|error| record_failure(&error))?;
        locked.remove(&leaving.id).map(drop).map_err(|error| record_failure(&error))
    }

    /// Everything of an attachment whose container is gone.
    fn release(&self, locked: &Locked<'_>, record: &Record) -> Result<(), CniError> {
        wire::detach(&record.id).map_err(|error| wire_failure(&error))?;
        locked.remove(&record.id).map(drop).map_err(|error| record_failure(&error))
    }

    /// # Errors
    /// With code 100, naming everything that is amiss.
    pub fn check(&self, id: &AttachmentId) -> Result<(), CniError> {
        let record = self.records.get(id).map_err(|error| record_failure(&error))?;
        let Some(record) = record.filter(|record| !record.leaving) else {
            return Err(CniError::new(
                Code::UNKNOWN_CONTAINER,
                format!("{} is not attached", id.container_id),
            ));
        };
        let amiss = wire::check(&record).map_err(|error| wire_failure(&error))?;
        if amiss.is_empty() {
            return Ok(());
        }
        Err(CniError {
            details: amiss.join("; "),
            ..CniError::new(Code::CHECK_FAILED, "the attachment is not as it was made")
        })
    }

    /// Whether ADD has a chance.
    ///
    /// # Errors
    /// With code 50 where there are no addresses.
    pub fn status(&self) -> Result<(), CniError> {
        if self.settings.pod_cidrs.is_empty() {
            return Err(CniError::new(Code::NOT_AVAILABLE, "this node has no pod addresses yet"));
        }
        Ok(())
    }

    /// Removes the attachments that are not in `valid`, and what belongs to none.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub fn gc(&self, valid: &[AttachmentId]) -> Result<Swept, CniError> {
        let gone = |record: &Record| !valid.contains(&record.id);
        self.sweep(gone)?.whole()
    }

    /// Removes attachments whose namespaces are gone, and what belongs to none; makes the table what the rest
    /// says, also where something could not be removed. For the start, after which nothing of the time before is trusted.
    ///
    /// # Errors
    /// When records or interfaces cannot be listed, or the table not be made.
    pub fn reconcile(&self) -> Result<Swept, CniError> {
        let swept = self.sweep(is_leftover)?;
        let locked = self.records.lock().map_err(|error| record_failure(&error))?;
        let all = attached(&locked)?;
        self.table.rebuild(&self.settings, &all).map_err(|error| rules_failure(&error))?;
        Ok(swept)
    }

    /// Makes the table anew where somebody else changed it. Whether that was so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mend(&self) -> Result<bool, CniError> {
        let locked = self.records.lock().map_err(|error| record_failure(&error))?;
        let all = attached(&locked)?;
        if self.table.is_whole(&self.settings, &all).map_err(|error| rules_failure(&error))? {
            return Ok(false);
        }
        self.table.rebuild(&self.settings, &all).map_err(|error| rules_failure(&error))?;
        Ok(true)
    }

    fn sweep(&self, gone: impl Fn(&Record) -> bool) -> Result<Swept, CniError> {
        // Interfaces before records: an interface made in between has its record by then.
        let interfaces = wire::interfaces().map_err(|error| wire_failure(&error))?;
        let all = {
            let locked = self.records.lock().map_err(|error| record_failure(&error))?;
            locked.all().map_err(|error| record_failure(&error))?
        };
        let mut swept = Swept::default();
        for record in all.iter().filter(|record| gone(record)) {
            match self.del(&record.id) {
                Ok(()) => swept.attachments.push(record.id.clone()),
                Err(error) => {
                    let container = record.id.container_id.as_str();
                    warn!(container, error = &error as &dyn std::error::Error, "network: leftover stays");
                    swept.failed.push(error);
                }
            }
        }
        let owned: BTreeSet<String> =
            all.iter().map(|record| super::names::host_interface(&record.id)).collect();
        for name in interfaces.into_iter().filter(|name| !owned.contains(name)) {
            match wire::remove_interface(&name) {
                Ok(_) => swept.interfaces.push(name),
                Err(error) => {
                    warn!(
                        interface = name,
                        error = &error as &dyn std::error::Error,
                        "network: leftover stays"
                    );
                    swept.failed.push(wire_failure(&error));
                }
            }
        }
        Ok(swept)
    }

    /// Removes every attachment. For reset.
    ///
    /// # Errors
    /// The first failure, after everything was tried.
    pub fn clear(&self) -> Result<Swept, CniError> {
        self.sweep(|_| true)?.whole()
    }

    /// Under the lock, so that the table is of the newest records, whoever commits last.
    fn sync_host_ports(&self, locked: &Locked<'_>) -> Result<(), CniError> {
        self.write_host_ports(&attached(locked)?)
    }

    /// `all` is of what the lock is held for.
    fn write_host_ports(&self, all: &[Record]) -> Result<(), CniError> {
        self.table.sync_host_ports(&self.settings, all).map_err(|error| rules_failure(&error))
    }
}

/// An attachment whose DEL was answered.
#[derive(Debug)]
#[must_use = "its interfaces are still there"]
pub struct Leaving {
    id: AttachmentId,
}

/// What nobody needs any more: it was to go, or its container is gone.
fn is_leftover(record: &Record) -> bool {
    record.leaving || wire::is_orphan(record)
}

/// The attachments that host ports may lead to.
fn attached(locked: &Locked<'_>) -> Result<Vec<Record>, CniError> {
    let mut all = locked.all().map_err(|error| record_failure(&error))?;
    all.retain(|record| !record.leaving);
    Ok(all)
}

/// Addresses for a new attachment.
struct Allocated {
    addresses: Vec<IpAddr>,
    /// Leftovers that had host ports made room.
    ports_freed: bool,
}

fn result(record: &Record, wired: &Wired) -> NetworkResult {
    let host = Interface {
        name: wired.host_interface.clone(),
        mac: super::names::HOST_MAC.to_string(),
        mtu: wired.mtu,
        ..Interface::default()
    };
    let pod = Interface {
        name: record.id.ifname.clone(),
        mac: wired.pod_mac.clone(),
        mtu: wired.mtu,
        sandbox: record.netns.clone(),
        ..Interface::default()
    };
    let ip = |address: &IpAddr| Ip {
        interface: Some(1),
        address: wire::alone(*address),
        gateway: Some(wire::gateway(*address)),
    };
    let route = |address: &IpAddr| Route {
        dst: if address.is_ipv4() {
            ipnet::Ipv4Net::default().into()
        } else {
            ipnet::Ipv6Net::default().into()
        },
        gw: Some(wire::gateway(*address)),
        mtu: 0,
        advmss: 0,
        priority: 0,
        table: None,
        scope: None,
    };
    NetworkResult {
        interfaces: vec![host, pod],
        ips: record.addresses.iter().map(ip).collect(),
        routes: record.addresses.iter().map(route).collect(),
        dns: Dns::default(),
    }
}

fn record_failure(error: &RecordError) -> CniError {
    CniError::caused(Code::IO_FAILURE, "the attachment's record", error)
}

fn wire_failure(error: &WireError) -> CniError {
    let code = match error {
        WireError::Namespace(_) => Code::UNKNOWN_CONTAINER,
        WireError::HostNamespace { .. } | WireError::NameTaken { .. } => Code::INVALID_ENVIRONMENT,
        WireError::Route(_) | WireError::Missing { .. } | WireError::Sysctl { .. } => Code::IO_FAILURE,
    };
    CniError::caused(code, "the container's interface", error)
}

fn rules_failure(error: &RulesError) -> CniError {
    CniError::caused(Code::IO_FAILURE, "host ports", error)
}
