//! An attachment of the built-in network, and what all attachments share.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink::route::TokenBucket;
use serde::{Deserialize, Serialize};

use crate::cni::AttachmentId;

/// What the network is built from on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where this node's pods get their addresses from: at most one range of each family.
    pub pod_cidrs: Vec<IpNet>,
    /// Where pods of all nodes are: traffic to there keeps its source address.
    pub cluster_cidrs: Vec<IpNet>,
    /// Otherwise as the interface that the default route leads to.
    pub mtu: Option<u32>,
    /// What fits the tunnel, while a node is behind it: found packets are no larger.
    #[serde(default)]
    pub tunnel_mtu: Option<u32>,
}

impl Settings {
    #[must_use]
    pub fn pod_cidr(&self, v4: bool) -> Option<IpNet> {
        self.pod_cidrs.iter().copied().find(|net| net.addr().is_ipv4() == v4)
    }
}

/// One interface of one pod, as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub id: AttachmentId,
    pub netns: String,
    pub addresses: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
    /// Larger than that of every earlier record.
    pub sequence: u64,
    /// DEL was answered: what is left goes, whatever else is true. Its addresses are not given until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

impl Record {
    /// In place of one that does not parse: what it is of is to go, and its address is not known.
    pub(crate) fn unreadable(id: AttachmentId) -> Self {
        Self {
            id,
            netns: String::new(),
            addresses: Vec::new(),
            host_ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            sequence: 0,
            leaving: true,
        }
    }

    pub(crate) fn is_unreadable(&self) -> bool {
        self.addresses.is_empty()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A port of the host that leads to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPort {
    /// `None`: all addresses of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
    pub protocol: Protocol,
}

/// Limits, as seen from the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bandwidth {
    #[serde(default, with = "bucket", skip_serializing_if = "Option::is_none")]
    pub ingress: Option<TokenBucket>,
    #[serde(default, with = "bucket", skip_serializing_if = "Option::is_none")]
    pub egress: Option<TokenBucket>,
}

impl Bandwidth {
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none()
    }
}

/// A bucket as `[bytes per second, burst in bytes]`.
mod bucket {
    use netlink::route::TokenBucket;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde asks for a reference")]
    pub(super) fn serialize<S: Serializer>(bucket: &Option<TokenBucket>, to: S) -> Result<S::Ok, S::Error> {
        bucket.map(|bucket| (bucket.bytes_per_second, bucket.burst_bytes)).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<TokenBucket>, D::Error> {
        let pair = Option::<(u64, u32)>::deserialize(from)?;
        Ok(pair.map(|(bytes_per_second, burst_bytes)| TokenBucket { bytes_per_second, burst_bytes }))
    }
}
