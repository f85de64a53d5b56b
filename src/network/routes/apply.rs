//! Carries a plan out, step by step.

use std::{fs, io};

use netlink::{
    RequestError,
    route::{Route, Socket, VxlanDevice},
};

use super::{
    names::Underlay,
    observe::rp_filter,
    plan::{DeviceStep, Step, Way},
};

/// Why a step was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("{device} is not there")]
    NoDevice { device: &'static str },
    #[error("write {path}")]
    Sysctl {
        path: String,
        #[source]
        source: io::Error,
    },
}

pub(super) fn apply(host: &mut Socket, steps: &[Step]) -> Vec<StepError> {
    steps.iter().filter_map(|step| carry_out(host, step).err()).collect()
}

fn carry_out(host: &mut Socket, step: &Step) -> Result<(), StepError> {
    match step {
        Step::RemoveRoute(route) => drop(host.remove_route(route)?),
        Step::RemoveDevice(underlay) => drop(host.remove_link(underlay.device())?),
        Step::MakeDevice { underlay, mac, mtu, vxlan } => {
            let name = underlay.device();
            host.add_vxlan(&VxlanDevice { name, mac: *mac, mtu: *mtu, vxlan: *vxlan })?;
        }
        Step::Loosen(underlay) => {
            let path = rp_filter(underlay.device());
            fs::write(&path, "2").map_err(|source| StepError::Sysctl { path, source })?;
        }
        Step::SetRoute(net, Way::Link(gateway)) => host.set_route(&Route::via(*net, *gateway))?,
        Step::SetRoute(net, Way::Tunnel(underlay, gateway)) => {
            let interface = Some(index(host, *underlay)?);
            host.set_route(&Route { interface, onlink: true, ..Route::via(*net, *gateway) })?;
        }
        Step::OnDevice(underlay, step) => {
            let index = index(host, *underlay)?;
            on_device(host, index, step)?;
        }
    }
    Ok(())
}

fn on_device(host: &mut Socket, index: u32, step: &DeviceStep) -> Result<(), RequestError> {
    match step {
        DeviceStep::SetMtu(mtu) => host.set_mtu(index, *mtu)?,
        DeviceStep::SetAddress(net) => host.add_address(index, *net)?,
        DeviceStep::RemoveAddress(net) => drop(host.remove_address(index, *net)?),
        DeviceStep::SetForwarding(mac, node) => host.set_forwarding(index, *mac, *node)?,
        DeviceStep::RemoveForwarding(mac, node) => drop(host.remove_forwarding(index, *mac, *node)?),
        DeviceStep::SetNeighbour(ip, mac) => host.set_neighbour(index, *ip, *mac)?,
        DeviceStep::RemoveNeighbour(ip) => drop(host.remove_neighbour(index, *ip)?),
    }
    Ok(())
}

/// Asked each time: an earlier step may have made the device anew.
fn index(host: &mut Socket, underlay: Underlay) -> Result<u32, StepError> {
    let device = underlay.device();
    Ok(host.link(device)?.ok_or(StepError::NoDevice { device })?.index)
}
