//! Services as virtual servers of IPVS: not there yet.

/// How IPVS chooses an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduler {
    #[default]
    RoundRobin,
}

#[derive(Debug, thiserror::Error)]
pub enum IpvsError {}

impl IpvsError {
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        match *self {}
    }
}

pub(crate) fn remove_servers() -> std::future::Ready<Result<bool, IpvsError>> {
    std::future::ready(Ok(false))
}

pub(crate) type Ipvs<K> = crate::nftables::Nftables<K>;
