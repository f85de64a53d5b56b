//! Pools of values that are unique in the cluster: cluster IPs, node ports.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use crate::{
    registry::{Claim, ClaimValue, Pool},
    status::FieldError,
};

/// Where values come from.
#[derive(Clone, Debug)]
pub struct PoolsConfig {
    /// At most one range of each family (`--service-cluster-ip-range`).
    pub service_cidrs: Vec<IpNet>,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
}

impl Default for PoolsConfig {
    fn default() -> Self {
        Self { service_cidrs: Vec::new(), node_ports: 30000..=32767 }
    }
}

/// What each pool holds, as numbers.
#[derive(Clone, Debug)]
pub struct Pools {
    v4: Option<IpNet>,
    v6: Option<IpNet>,
    node_ports: RangeInclusive<u16>,
}

/// Numbers that can be handed out: `first..first + size`, of which the first `reserved` are given only to who
/// asks for them by value, or when the others are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Band {
    first: u128,
    size: u128,
    reserved: u128,
}

/// A pool has nothing left, or is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    Full,
    NotConfigured,
}

impl Pools {
    pub fn new(config: &PoolsConfig) -> Self {
        let family = |v4: bool| config.service_cidrs.iter().find(|net| net.addr().is_ipv4() == v4).copied();
        Self { v4: family(true), v6: family(false), node_ports: config.node_ports.clone() }
    }

    fn cidr(&self, pool: Pool) -> Option<IpNet> {
        match pool {
            Pool::ClusterIpV4 => self.v4,
            Pool::ClusterIpV6 => self.v6,
            Pool::NodePort => None,
        }
    }

    fn band(&self, pool: Pool) -> Option<Band> {
        if pool == Pool::NodePort {
            let size = u128::from(self.node_ports.end().saturating_sub(*self.node_ports.start())) + 1;
            let reserved = if size >= 32 { (size / 32).clamp(16, 128) } else { 0 };
            return Some(Band { first: u128::from(*self.node_ports.start()), size, reserved });
        }
        let net = self.cidr(pool)?;
        let host_bits = u32::from(net.max_prefix_len() - net.prefix_len()).min(64);
        // Without the network's own address; an IPv4 range has a broadcast address too.
        let unusable = if net.addr().is_ipv4() { 2 } else { 1 };
        let size = (1_u128 << host_bits).saturating_sub(unusable);
        let reserved = if size >= 16 { (size / 16).clamp(16, 256) } else { 0 };
        Some(Band { first: number_of(net.network()) + 1, size, reserved })
    }

    /// A value that is not taken, searched from a random place on.
    pub(super) fn choose(
        &self,
        pool: Pool,
        taken: &BTreeSet<String>,
        random: u128,
    ) -> Result<String, Exhausted> {
        let band = self.band(pool).ok_or(Exhausted::NotConfigured)?;
        let open = band.size - band.reserved.min(band.size);
        let upper = (0..open).map(|step| band.reserved + (random % open.max(1) + step) % open);
        let lower = (0..band.reserved.min(band.size)).map(|step| (random + step) % band.reserved);
        let tries = taken.len() + 1; // one of so many must be free, if there are so many
        let mut candidates = upper.take(tries).chain(lower.take(tries));
        candidates
            .find_map(|offset| {
                let text = self.text(pool, band.first + offset);
                (!taken.contains(&text)).then_some(text)
            })
            .ok_or(Exhausted::Full)
    }

    fn text(&self, pool: Pool, number: u128) -> String {
        match pool {
            Pool::NodePort => number.to_string(),
            Pool::ClusterIpV4 => {
                let address = u32::try_from(number).unwrap_or(u32::MAX);
                IpAddr::from(address.to_be_bytes()).to_string()
            }
            Pool::ClusterIpV6 => IpAddr::from(number.to_be_bytes()).to_string(),
        }
    }

    /// Why a value that was asked for cannot be had from the pool at all.
    pub(super) fn refuses(&self, pool: Pool, value: &str) -> Option<String> {
        match pool {
            Pool::NodePort => {
                let inside = value.parse().is_ok_and(|port: u16| self.node_ports.contains(&port));
                let (start, end) = (self.node_ports.start(), self.node_ports.end());
                (!inside).then(|| {
                    format!(
                        "provided port is not in the valid range. The range of valid ports is {start}-{end}"
                    )
                })
            }
            Pool::ClusterIpV4 | Pool::ClusterIpV6 => {
                let Some(net) = self.cidr(pool) else { return Some("the cluster has no such range".into()) };
                let band = self.band(pool)?;
                let inside = value.parse().is_ok_and(|address: IpAddr| {
                    let offset = number_of(address).checked_sub(band.first);
                    net.contains(&address) && offset.is_some_and(|offset| offset < band.size)
                });
                (!inside).then(|| "the provided network does not match the current range".into())
            }
        }
    }

    /// The mistake to tell when a claim cannot be met.
    pub(super) fn error(claim: &Claim, shown: serde_json::Value, why: &str) -> FieldError {
        let detail = match (&claim.value, claim.pool) {
            (_, Pool::NodePort) => why.to_string(),
            (ClaimValue::Exactly(address), _) => format!("failed to allocate IP {address}: {why}"),
            (ClaimValue::Any, _) => format!("failed to allocate IP: {why}"),
        };
        FieldError::invalid(field(claim), shown, detail)
    }
}

/// Upstream names the list of addresses, not the one that is wrong.
pub(super) fn field(claim: &Claim) -> &str {
    match claim.pool {
        Pool::NodePort => &claim.field,
        Pool::ClusterIpV4 | Pool::ClusterIpV6 => claim.field.split('[').next().unwrap_or_default(),
    }
}

/// The store's key of a value: it exists while an object holds it.
pub(super) fn key(pool: Pool, value: &str) -> String {
    format!("{}{value}", prefix(pool))
}

pub(super) fn prefix(pool: Pool) -> &'static str {
    match pool {
        Pool::ClusterIpV4 => "/registry/allocations/clusterips-v4/",
        Pool::ClusterIpV6 => "/registry/allocations/clusterips-v6/",
        Pool::NodePort => "/registry/allocations/nodeports/",
    }
}

fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pools(cidr: &str) -> Pools {
        Pools::new(&PoolsConfig { service_cidrs: vec![cidr.parse().unwrap()], node_ports: 30000..=30003 })
    }

    fn all(pools: &Pools, pool: Pool) -> BTreeSet<String> {
        let mut taken = BTreeSet::new();
        while let Ok(value) = pools.choose(pool, &taken, 7) {
            assert_eq!(pools.refuses(pool, &value), None);
            assert!(taken.insert(value));
        }
        taken
    }

    #[test]
    fn every_usable_address_is_handed_out_once() {
        let taken = all(&pools("10.96.0.0/28"), Pool::ClusterIpV4);
        assert_eq!(taken.len(), 14);
        assert!(taken.contains("10.96.0.1") && taken.contains("10.96.0.14") && !taken.contains("10.96.0.15"));
        assert_eq!(all(&pools("fd00::/125"), Pool::ClusterIpV6).len(), 7);
        assert_eq!(all(&pools("10.96.0.0/28"), Pool::NodePort).len(), 4);
    }

    #[test]
    fn the_lower_band_is_used_last() {
        let pools = pools("10.96.0.0/24");
        let first = pools.choose(Pool::ClusterIpV4, &BTreeSet::new(), 0).unwrap();
        assert_eq!(first, "10.96.0.17");
    }

    #[test]
    fn values_outside_are_refused_in_upstreams_words() {
        let pools = pools("10.96.0.0/12");
        assert_eq!(
            pools.refuses(Pool::ClusterIpV4, "10.0.0.1").unwrap(),
            "the provided network does not match the current range"
        );
        assert_eq!(
            pools.refuses(Pool::NodePort, "80").unwrap(),
            "provided port is not in the valid range. The range of valid ports is 30000-30003"
        );
        assert_eq!(pools.refuses(Pool::ClusterIpV4, "10.96.0.10"), None);
        assert_eq!(pools.choose(Pool::ClusterIpV6, &BTreeSet::new(), 0), Err(Exhausted::NotConfigured));
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_in_the_range(random in any::<u128>(), bits in 8_u8..30) {
            let pools = pools(&format!("10.0.0.0/{bits}"));
            let chosen = pools.choose(Pool::ClusterIpV4, &BTreeSet::new(), random).unwrap();
            prop_assert_eq!(pools.refuses(Pool::ClusterIpV4, &chosen), None);
        }
    }
}
