//! Reads what the host has of links, addresses and our ways to other nodes.

use std::{collections::BTreeMap, fs};

use netlink::{
    RequestError,
    route::{Link, Socket},
};

use super::{
    names::Underlay,
    plan::{Device, Observed},
};

pub(super) fn observe(host: &mut Socket) -> Result<Observed, RequestError> {
    let links = host.links()?;
    let mut devices = BTreeMap::new();
    for underlay in Underlay::ALL {
        if let Some(link) = links.iter().find(|link| link.name == underlay.device()) {
            devices.insert(underlay, device(host, link)?);
        }
    }
    let default_mtu = match host.uplink_mtu(false)? {
        Some(mtu) => Some(mtu),
        None => host.uplink_mtu(true)?,
    };
    Ok(Observed {
        addresses: host.addresses_by_link()?,
        shared_links: links.iter().filter(|link| link.has_neighbours).map(|link| link.index).collect(),
        routes: host.own_routes()?,
        mtus: links.iter().map(|link| (link.index, link.mtu)).collect(),
        default_mtu,
        devices,
    })
}

fn device(host: &mut Socket, link: &Link) -> Result<Device, RequestError> {
    let filter = fs::read_to_string(rp_filter(link.name.as_str()));
    Ok(Device {
        index: link.index,
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        vxlan: link.vxlan,
        loose: filter.is_ok_and(|text| text.trim() == "2"),
        neighbours: host.permanent_neighbours(link.index)?.into_iter().collect(),
        forwardings: host.forwardings(link.index)?.into_iter().collect(),
    })
}

pub(super) fn rp_filter(device: &str) -> String {
    format!("/proc/sys/net/ipv4/conf/{device}/rp_filter")
}
