//! Names and hardware addresses, all made from the attachment's identity: the same after a restart.

use netlink::route::Mac;

use crate::cni::AttachmentId;

const PREFIX: &str = "cor";

/// Every host end has this address: pods know it without asking, and udev leaves it alone since it was set.
pub(super) const HOST_MAC: Mac = Mac([0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);

/// The host's end: `cor` and twelve hex digits, 15 characters, which is what the kernel allows.
pub(super) fn host_interface(id: &AttachmentId) -> String {
    format!("{PREFIX}{:012x}", hash(id) & 0xffff_ffff_ffff)
}

/// Whether an interface's name is one of ours.
pub(crate) fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|rest| {
        rest.len() == 12 && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    })
}

/// The pod's end: locally administered, unicast.
pub(super) fn pod_mac(id: &AttachmentId) -> Mac {
    let [_, _, a, b, c, d, e, f] = hash(id).to_be_bytes();
    Mac([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// FNV-1a, 64 bit: stable between releases, as names on disk and in the kernel must be.
fn hash(id: &AttachmentId) -> u64 {
    let text = id.container_id.bytes().chain([b'/']).chain(id.ifname.bytes());
    text.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container.into(), ifname: ifname.into() }
    }

    #[test]
    fn names_fit_the_kernel_differ_by_interface_and_are_recognised() {
        let name = host_interface(&id("abc", "eth0"));
        assert_eq!(name.len(), 15);
        assert!(is_host_interface(&name));
        assert_ne!(name, host_interface(&id("abc", "net1")));
        assert!(!is_host_interface("corporate0"));
        assert!(!is_host_interface("core0"));
    }

    #[test]
    fn pod_macs_are_local_and_unicast() {
        for container in ["a", "b", "c", "d"] {
            let Mac([first, ..]) = pod_mac(&id(container, "eth0"));
            assert_eq!(first & 0x03, 0x02);
        }
    }
}
