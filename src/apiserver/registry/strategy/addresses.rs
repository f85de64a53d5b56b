//! Validation of addresses that traffic is sent to.

use std::net::IpAddr;

use super::at::At;
use super::findings::Findings;

pub const NOT_AN_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// An address behind which something can be reached from other nodes.
pub fn endpoint_ip(at: &At<'_>, found: &mut Findings) {
    let Ok(ip) = at.text().parse::<IpAddr>() else {
        return found.invalid(at, NOT_AN_ADDRESS);
    };
    if ip.is_unspecified() {
        return found.invalid(at, &format!("may not be unspecified ({})", at.text()));
    }
    let (link_local, link_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_loopback() {
        found.invalid(at, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    } else if link_local {
        found.invalid(at, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    } else if link_multicast {
        found.invalid(at, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}
