//! Makes and removes the pair of interfaces of an attachment. Blocks; each call is a few questions to the
//! kernel. Making what is there, and removing what is not, succeeds.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use ipnet::IpNet;
use netlink::{
    RequestError,
    namespace::{Namespace, NamespaceError},
    route::{Link, Route, Socket, VethPair},
};

use super::{
    model::Record,
    names::{HOST_MAC, host_interface, is_host_interface, pod_mac},
};
use crate::cni::AttachmentId;

/// What pods have as gateway: answered for by the host end's fixed MAC, owned by nobody.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
const LOOPBACK_INDEX: u32 = 1;
pub(crate) const DEFAULT_MTU: u32 = 1500;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Route(#[from] RequestError),
    #[error("{netns} is the host's own network namespace")]
    HostNamespace { netns: String },
    #[error("there is an interface {name} in the container that is not ours")]
    NameTaken { name: String },
    #[error("{name} is not there")]
    Missing { name: String },
    #[error("write {path}")]
    Sysctl {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wired {
    pub(super) host_interface: String,
    pub(super) pod_mac: String,
    pub(super) mtu: u32,
}

pub(super) fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

/// The address as a network of itself.
pub(super) fn alone(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

pub(super) fn attach(record: &Record, mtu: u32) -> Result<Wired, WireError> {
    let namespace = Namespace::open(Path::new(&record.netns))?;
    if namespace.is(&Namespace::current()?) {
        return Err(WireError::HostNamespace { netns: record.netns.clone() });
    }
    let mut host = Socket::open()?;
    let mut pod = Socket::open_in(&namespace)?;
    let (outside, inside) = ensure_pair(record, mtu, &namespace, &mut host, &mut pod)?;
    configure_pod(record, &inside, &namespace, &mut pod)?;
    configure_host(record, &outside, &mut host)?;
    Ok(Wired { host_interface: outside.name, pod_mac: pod_mac(&record.id).to_string(), mtu: inside.mtu })
}

/// Both ends, made or found.
fn ensure_pair(
    record: &Record,
    mtu: u32,
    namespace: &Namespace,
    host: &mut Socket,
    pod: &mut Socket,
) -> Result<(Link, Link), WireError> {
    let name = host_interface(&record.id);
    let ifname = record.id.ifname.as_str();
    if let Some(outside) = host.link(&name)? {
        match pod.link(ifname)? {
            Some(inside) if inside.peer == Some(outside.index) => return Ok((outside, inside)),
            // The other end is in an older namespace of the same container, or renamed: begin again.
            _ => drop(host.remove_link(&name)?),
        }
    }
    let made = host.add_veth(&VethPair {
        name: &name,
        mac: HOST_MAC,
        peer_name: ifname,
        peer_mac: pod_mac(&record.id),
        peer_namespace: namespace,
        mtu,
    });
    match made {
        Err(error) if error.is_present() => return Err(WireError::NameTaken { name: ifname.to_string() }),
        other => other?,
    }
    let found =
        |link: Option<Link>, name: &str| link.ok_or_else(|| WireError::Missing { name: name.to_string() });
    Ok((found(host.link(&name)?, &name)?, found(pod.link(ifname)?, ifname)?))
}

fn configure_pod(
    record: &Record,
    inside: &Link,
    namespace: &Namespace,
    pod: &mut Socket,
) -> Result<(), WireError> {
    pod.set_up(LOOPBACK_INDEX)?;
    if record.addresses.iter().any(IpAddr::is_ipv6) {
        // Some runtimes make namespaces with IPv6 off.
        let path = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", inside.name);
        namespace.enter(|| write_sysctl(&path, "0"))??;
    }
    for address in &record.addresses {
        pod.add_address(inside.index, alone(*address))?;
    }
    pod.set_up(inside.index)?;
    for address in &record.addresses {
        pod.set_neighbour(inside.index, gateway(*address), HOST_MAC)?;
        pod.set_route(&Route::default_onlink(gateway(*address), inside.index))?;
    }
    match record.bandwidth.egress {
        Some(bucket) => pod.set_token_bucket(inside.index, bucket)?,
        None => drop(pod.remove_token_bucket(inside.index)?),
    }
    Ok(())
}

fn configure_host(record: &Record, outside: &Link, host: &mut Socket) -> Result<(), WireError> {
    host.set_up(outside.index)?;
    if !record.host_ports.is_empty() {
        // Lets 127.0.0.1:hostPort reach the pod; the table's input chain keeps the pod from the rest of 127/8.
        write_sysctl(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", outside.name), "1")?;
    }
    for address in &record.addresses {
        host.set_neighbour(outside.index, *address, pod_mac(&record.id))?;
        host.set_route(&Route::direct(alone(*address), outside.index))?;
    }
    match record.bandwidth.ingress {
        Some(bucket) => host.set_token_bucket(outside.index, bucket)?,
        None => drop(host.remove_token_bucket(outside.index)?),
    }
    Ok(())
}

fn write_sysctl(path: &str, value: &str) -> Result<(), WireError> {
    fs::write(path, value).map_err(|source| WireError::Sysctl { path: path.to_string(), source })
}

/// Removes the host's routes to the container: what the interfaces were for.
pub(super) fn cut_off(record: &Record) -> Result<(), WireError> {
    let mut host = Socket::open()?;
    let Some(outside) = host.link(&host_interface(&record.id))? else { return Ok(()) };
    for address in &record.addresses {
        host.remove_route(&Route::direct(alone(*address), outside.index))?;
    }
    Ok(())
}

/// Removes the pair, and with it its routes and neighbours. False if there was none.
pub(super) fn detach(id: &AttachmentId) -> Result<bool, WireError> {
    Ok(Socket::open()?.remove_link(&host_interface(id))?)
}

/// What of the attachment is not as it should be.
pub(super) fn check(record: &Record) -> Result<Vec<String>, WireError> {
    let namespace = Namespace::open(Path::new(&record.netns))?;
    let mut host = Socket::open()?;
    let mut pod = Socket::open_in(&namespace)?;
    let mut amiss = Vec::new();
    let name = host_interface(&record.id);
    let Some(outside) = host.link(&name)? else { return Ok(vec![format!("{name} is not there")]) };
    let ifname = record.id.ifname.as_str();
    let Some(inside) = pod.link(ifname)? else {
        return Ok(vec![format!("{ifname} is not in the container")]);
    };
    for (link, at) in [(&outside, "on the host"), (&inside, "in the container")] {
        if !link.up {
            amiss.push(format!("{} is down {at}", link.name));
        }
    }
    let addresses = pod.addresses(Some(inside.index))?;
    let routes = host.own_routes()?;
    for address in &record.addresses {
        if !addresses.contains(&alone(*address)) {
            amiss.push(format!("{ifname} does not have address {address}"));
        }
        let leads = |route: &Route| {
            route.destination == Some(alone(*address)) && route.interface == Some(outside.index)
        };
        if !routes.iter().any(leads) {
            amiss.push(format!("no route to {address} on the host"));
        }
    }
    Ok(amiss)
}

/// The names of all our interfaces on the host.
pub(super) fn interfaces() -> Result<Vec<String>, WireError> {
    let links = Socket::open()?.links()?;
    Ok(links.into_iter().map(|link| link.name).filter(|name| is_host_interface(name)).collect())
}

pub(super) fn remove_interface(name: &str) -> Result<bool, WireError> {
    Ok(Socket::open()?.remove_link(name)?)
}

/// The MTU that pods get where none is configured.
pub(super) fn uplink_mtu() -> Result<u32, WireError> {
    let mut host = Socket::open()?;
    let mtu = match host.uplink_mtu(false)? {
        Some(mtu) => Some(mtu),
        None => host.uplink_mtu(true)?,
    };
    Ok(mtu.unwrap_or(DEFAULT_MTU))
}

/// Whether the namespace of a record is certainly gone.
pub(super) fn is_orphan(record: &Record) -> bool {
    Namespace::open(Path::new(&record.netns)).is_err_and(|error| error.is_gone())
}
