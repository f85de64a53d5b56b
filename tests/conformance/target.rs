//! What is judged: which parts of a cluster are ours, and which are upstream's.

use std::{fmt, str::FromStr};

use anyhow::bail;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Whose {
    Ours,
    Upstreams,
}

/// A mixture of both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// Everything ours.
    Coracle,
    /// Everything upstream's.
    Upstream,
    /// Our nodes under upstream's control plane.
    Node,
    /// Upstream's kubelet and kube-proxy under our control plane.
    ControlPlane,
    /// Our Service rules beside upstream's everything.
    Proxy,
}

impl Target {
    pub(crate) const ALL: [Self; 5] =
        [Self::Coracle, Self::Upstream, Self::Node, Self::ControlPlane, Self::Proxy];

    /// As it is typed, and as its column is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Coracle => "coracle",
            Self::Upstream => "upstream",
            Self::Node => "node",
            Self::ControlPlane => "control-plane",
            Self::Proxy => "proxy",
        }
    }

    /// Whose API server, scheduler, controllers and DNS.
    pub(crate) fn control_plane(self) -> Whose {
        match self {
            Self::Coracle | Self::ControlPlane => Whose::Ours,
            Self::Upstream | Self::Node | Self::Proxy => Whose::Upstreams,
        }
    }

    /// Whose kubelet and pod network.
    pub(crate) fn kubelet(self) -> Whose {
        match self {
            Self::Coracle | Self::Node => Whose::Ours,
            Self::Upstream | Self::ControlPlane | Self::Proxy => Whose::Upstreams,
        }
    }

    /// Whose rules of Services.
    pub(crate) fn proxy(self) -> Whose {
        match self {
            Self::Coracle | Self::Node | Self::Proxy => Whose::Ours,
            Self::Upstream | Self::ControlPlane => Whose::Upstreams,
        }
    }

    /// In words, for a page.
    pub(crate) fn described(self) -> &'static str {
        match self {
            Self::Coracle => "all ours",
            Self::Upstream => "all upstream's",
            Self::Node => "our nodes under upstream's control plane",
            Self::ControlPlane => "upstream's kubelet and kube-proxy under our control plane",
            Self::Proxy => "all upstream's, but our Service rules",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let Some(target) = Self::ALL.into_iter().find(|target| target.name() == text) else {
            let names = Self::ALL.map(Self::name).join(", ");
            bail!("there is no target {text:?}; TARGET is one of {names}");
        };
        Ok(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_typed_as_it_is_called() {
        for target in Target::ALL {
            assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
        }
        let error = "nodes".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("coracle, upstream, node, control-plane, proxy"), "{error}");
    }

    #[test]
    fn a_mixture_has_parts_of_both() {
        for target in Target::ALL {
            let parts = [target.control_plane(), target.kubelet(), target.proxy()];
            let mixed = parts.contains(&Whose::Ours) && parts.contains(&Whose::Upstreams);
            assert_eq!(mixed, ![Target::Coracle, Target::Upstream].contains(&target), "{target}");
        }
    }
}
