//! How fast packets may leave an interface: the token bucket filter.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage, TcOption},
};

use super::socket::Socket;
use crate::request::{RequestError, or_absent};

// include/uapi/linux/pkt_sched.h
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const LINKLAYER_ETHERNET: u8 = 1;
/// How long a packet may wait before it is dropped, as upstream's bandwidth plugin has it.
const LATENCY_MS: u64 = 25;

/// A rate in bytes per second, exceeded by at most `burst_bytes` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    pub bytes_per_second: u64,
    pub burst_bytes: u32,
}

impl TokenBucket {
    /// `struct tc_tbf_qopt`: two `tc_ratespec`s, limit, buffer, mtu.
    fn parameters(self) -> Vec<u8> {
        let rate = u32::try_from(self.bytes_per_second).unwrap_or(u32::MAX);
        let waiting = self.bytes_per_second.saturating_mul(LATENCY_MS) / 1000;
        let limit = u32::try_from(waiting.saturating_add(u64::from(self.burst_bytes))).unwrap_or(u32::MAX);
        let mut bytes = vec![0, LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
        bytes.extend(rate.to_ne_bytes());
        bytes.extend([0; 12]); // no peak rate
        bytes.extend(limit.to_ne_bytes());
        bytes.extend([0; 8]); // the burst is given in bytes, by an attribute
        bytes
    }
}

impl Socket {
    /// Limits what leaves an interface.
    ///
    /// # Errors
    /// When the kernel has no `sch_tbf`, or there is no such interface.
    pub fn set_token_bucket(&mut self, index: u32, bucket: TokenBucket) -> Result<(), RequestError> {
        let mut message = root(index);
        let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
        message.attributes = vec![
            TcAttribute::Kind("tbf".to_string()),
            TcAttribute::Options(vec![
                option(TCA_TBF_PARMS, &bucket.parameters()),
                option(TCA_TBF_RATE64, &bucket.bytes_per_second.to_ne_bytes()),
                option(TCA_TBF_BURST, &bucket.burst_bytes.to_ne_bytes()),
            ]),
        ];
        let operation = format!("limit link {index} to {} bytes per second", bucket.bytes_per_second);
        self.change(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            &operation,
        )
    }

    /// Takes the limit away. False if there was none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_token_bucket(&mut self, index: u32) -> Result<bool, RequestError> {
        let operation = format!("take the limit of link {index} away");
        match or_absent(self.change(RouteNetlinkMessage::DelQueueDiscipline(root(index)), 0, &operation)) {
            // The default discipline cannot be removed.
            Err(RequestError::Refused { source, .. }) if source.raw_os_error() == Some(nix::libc::EINVAL) => {
                Ok(false)
            }
            other => other,
        }
    }
}

fn root(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.parent = TcHandle::ROOT;
    message
}
