//! Texts with a form of their own: what would be refused much later, by somebody else and for ever, is refused here.

use std::{
    net::IpAddr,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

/// A name that a Node or a DNS domain may have (RFC 1123 subdomain).
pub(crate) struct Subdomain(String);

impl FromStr for Subdomain {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() <= 253 && text.split('.').all(is_label) {
            return Ok(Self(text.to_string()));
        }
        Err("lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit")
    }
}

impl From<Subdomain> for String {
    fn from(name: Subdomain) -> Self {
        name.0
    }
}

/// A path from the root: what a relative one means depends on where the process was started.
pub(crate) struct AbsolutePath(PathBuf);

impl FromStr for AbsolutePath {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = Path::new(text);
        if !path.is_absolute() {
            return Err("it must begin with /");
        }
        if path.components().any(|part| part == Component::ParentDir) {
            return Err("it must not contain ..");
        }
        Ok(Self(path.to_path_buf()))
    }
}

impl From<AbsolutePath> for PathBuf {
    fn from(path: AbsolutePath) -> Self {
        path.0
    }
}

impl From<AbsolutePath> for String {
    fn from(path: AbsolutePath) -> Self {
        path.0.display().to_string()
    }
}

/// `unix:///run/containerd/containerd.sock`, or its path alone.
pub(crate) struct UnixSocket(String);

impl FromStr for UnixSocket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        AbsolutePath::from_str(text.strip_prefix("unix://").unwrap_or(text))?;
        Ok(Self(text.to_string()))
    }
}

impl From<UnixSocket> for String {
    fn from(socket: UnixSocket) -> Self {
        socket.0
    }
}

/// An address that others can reach a machine at.
pub(crate) struct HostAddress(pub(crate) IpAddr);

impl FromStr for HostAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ip: IpAddr = text.parse().map_err(|error: std::net::AddrParseError| error.to_string())?;
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return Err("other machines cannot reach it there".into());
        }
        Ok(Self(ip))
    }
}

/// `info`, or a filter such as `info,kubelet=debug`.
pub(crate) struct LogFilter(String);

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        for part in text.split(',') {
            let (target, level) = part.trim().rsplit_once('=').unwrap_or(("all", part.trim()));
            if target.trim().is_empty() || !LEVELS.contains(&level.trim().to_ascii_lowercase().as_str()) {
                return Err(format!("{:?}: levels are {}", part.trim(), LEVELS.join(", ")));
            }
        }
        Ok(Self(text.to_string()))
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> Self {
        filter.0
    }
}

/// Why a node may not give itself a label: the API server would refuse it again and again, told by the log alone.
#[must_use]
pub fn own_label_mistake(key: &str) -> Option<String> {
    (!api::node_labels::may_set_itself(key)).then(|| {
        format!(
            "a node may not give itself the label {key}; have an administrator do it (kubectl label node NAME {key}=VALUE), or \
             use a prefix such as node.kubernetes.io/"
        )
    })
}

/// Why a label cannot be one (`[prefix/]name`, and a value of at most 63 characters).
pub(crate) fn label_mistake(key: &str, value: &str) -> Option<&'static str> {
    let is_part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        part.len() <= 63
            && part.bytes().all(inner)
            && outer(part.bytes().next())
            && outer(part.bytes().last())
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_part(name) || prefix.is_some_and(|prefix| prefix.parse::<Subdomain>().is_err()) {
        return Some(
            "is no label key: letters, digits, '-', '_' and '.', with a DNS name and '/' before it at most",
        );
    }
    (!value.is_empty() && !is_part(value))
        .then_some("has a value that is no label value: at most 63 letters, digits, '-', '_' and '.'")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_told_apart() {
        let name = |text: &str| text.parse::<Subdomain>().is_ok();
        assert!(name("vm-1.example") && !name("Bad_Name") && !name("") && !name("a..b") && !name("-a"));
        let path = |text: &str| text.parse::<AbsolutePath>().is_ok();
        assert!(path("/var/lib") && !path("var/lib") && !path("") && !path("/a/../b"));
        let socket = |text: &str| text.parse::<UnixSocket>().is_ok();
        assert!(socket("unix:///run/c.sock") && socket("/run/c.sock") && !socket("tcp://1.2.3.4:5"));
        let address = |text: &str| text.parse::<HostAddress>().is_ok();
        assert!(address("192.0.2.1") && !address("0.0.0.0") && !address("127.0.0.1") && !address("::1"));
        let filter = |text: &str| text.parse::<LogFilter>().is_ok();
        assert!(filter("info") && filter("warn,kubelet=debug") && filter("kubelet::worker=trace"));
        assert!(!filter("shout") && !filter("info,=x=y") && !filter("") && !filter("kubelet=loud"));
        let label = |key: &str, value: &str| label_mistake(key, value).is_none();
        assert!(label("zone", "a") && label("example.com/zone", "") && label("a", "B_1.c"));
        assert!(!label("a b", "c") && !label("a", "c d") && !label("Bad_/a", "c") && !label("/a", "c"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_text_makes_a_reader_panic(text in "\\PC{0,80}", value in "\\PC{0,80}") {
            drop(text.parse::<Subdomain>());
            drop(text.parse::<AbsolutePath>());
            drop(text.parse::<UnixSocket>());
            drop(text.parse::<HostAddress>());
            drop(text.parse::<LogFilter>());
            label_mistake(&text, &value);
        }
    }
}
