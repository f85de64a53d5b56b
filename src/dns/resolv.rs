//! What `/etc/resolv.conf` says of upstream resolvers.
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// More than anybody has: each is tried before a name is given up.
const MAX_SERVERS: usize = 15;
/// A file of this size holds something else.
pub(crate) const MAX_BYTES: u64 = 64 * 1024;

/// The resolvers, each once, in the file's order. What is no address is left out, as the C library does.
///
/// `index_of` tells the number of an interface, for addresses such as `fe80::1%eth0`.
pub(crate) fn servers(text: &str, port: u16, index_of: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("nameserver"), Some(address)) = (words.next(), words.next()) else { continue };
        if servers.len() == MAX_SERVERS {
            break;
        }
        if let Some(server) = server(address, port, &index_of)
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

fn server(text: &str, port: u16, index_of: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    match text.split_once('%') {
        None => Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, port)),
        Some((address, interface)) => {
            let scope = interface.parse().ok().or_else(|| index_of(interface))?;
            Some(SocketAddr::V6(SocketAddrV6::new(address.parse::<Ipv6Addr>().ok()?, port, 0, scope)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<String> {
        let index_of = |name: &str| (name == "eth0").then_some(2);
        servers(text, 53, index_of).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\n; nameserver 192.0.2.8\nsearch example.com\n\tnameserver\t192.0.2.1  # ours\n\
                    nameserver 192.0.2.1\nnameserver fd00::1\r\nnameserver fe80::1%eth0\nnameserver fe80::1%gone\n\
                    nameserver\nnameserver dns.example.com\nnameservers 192.0.2.7\noptions ndots:5\nnameserver 192.0.2.2";
        assert_eq!(read(text), ["192.0.2.1:53", "[fd00::1]:53", "[fe80::1%2]:53", "192.0.2.2:53"]);
        assert_eq!(read(""), Vec::<String>::new());
    }

    #[test]
    fn there_is_an_end_to_them() {
        let many: String = (0..200).map(|n| format!("nameserver 192.0.2.{n}\n")).collect();
        assert_eq!(read(&many).len(), MAX_SERVERS);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_file_is_read(text in "(?s).{0,300}", line in "nameserver [ -~]{0,60}") {
            let found = servers(&format!("{text}\n{line}\n"), 53, |_| Some(1));
            prop_assert!(found.len() <= MAX_SERVERS);
        }
    }
}
