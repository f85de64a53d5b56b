//! Where the server is, as a person types it.
#![deny(clippy::disallowed_methods)]

use std::{fmt, net::IpAddr, str::FromStr};

const DEFAULT_PORT: u16 = 6443;

/// A host name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an API server is reached by https, not {scheme}")]
    Scheme { scheme: String },
    #[error("the server's address must be HOST:PORT, such as 192.0.2.1:6443 or [2001:db8::1]:6443")]
    Form,
    #[error("{port:?} is no port: a number from 1 to 65535")]
    Port { port: String },
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    /// `HOST`, `HOST:PORT` or `https://HOST:PORT`; without a port it is 6443.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = match text.split_once("://") {
            Some(("https", rest)) => rest.trim_end_matches('/'),
            Some((scheme, _)) => return Err(AddressError::Scheme { scheme: scheme.to_owned() }),
            None => text,
        };
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or(AddressError::Form)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| AddressError::Form)?;
            (host, rest.strip_prefix(':').or((rest.is_empty()).then_some("")).ok_or(AddressError::Form)?)
        } else if text.parse::<IpAddr>().is_ok() {
            (text, "")
        } else {
            text.split_once(':').unwrap_or((text, ""))
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
        if host.is_empty() || !host.chars().all(is_host) {
            return Err(AddressError::Form);
        }
        let port = match port {
            "" => DEFAULT_PORT,
            text => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| AddressError::Port { port: text.to_owned() })?,
        };
        Ok(ServerAddress { host: host.to_owned(), port })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl ServerAddress {
    /// `https://host:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{self}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<String, AddressError> {
        text.parse::<ServerAddress>().map(|address| address.to_string())
    }

    #[test]
    fn every_usual_spelling_is_read() {
        for (typed, expected) in [
            ("192.0.2.1:6443", "192.0.2.1:6443"),
            ("192.0.2.1", "192.0.2.1:6443"),
            ("https://cp.example:8443/", "cp.example:8443"),
            ("cp.example", "cp.example:6443"),
            ("[2001:db8::1]:7443", "[2001:db8::1]:7443"),
            ("[2001:db8::1]", "[2001:db8::1]:6443"),
            ("2001:db8::1", "[2001:db8::1]:6443"),
        ] {
            assert_eq!(shown(typed), Ok(expected.to_owned()), "{typed}");
        }
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        assert_eq!(shown("http://a:1"), Err(AddressError::Scheme { scheme: "http".into() }));
        assert_eq!(shown("a:0"), Err(AddressError::Port { port: "0".into() }));
        assert_eq!(shown("a:65536"), Err(AddressError::Port { port: "65536".into() }));
        for text in ["", ":6443", "[::1", "[x]:1", "a b", "[::1]x"] {
            assert_eq!(shown(text), Err(AddressError::Form), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_shown_reads_back(text in "[a-z0-9.:\\[\\]/-]{0,30}") {
            if let Ok(address) = text.parse::<ServerAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
