//! What both programs read in the same way.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use crate::{
    Config, LogFormat,
    forms::Subdomain,
    section::{Section, set},
};

/// What must stand in every file: which kind it is. Flags alone say nothing of it.
pub(super) fn kind(section: &mut Section<'_>, kind: &str, api_version: &str) {
    let line = section.line();
    for (field, said, expected) in
        [("kind", section.text("kind"), kind), ("apiVersion", section.text("apiVersion"), api_version)]
    {
        if said.as_deref() != Some(expected) {
            section.mistake(line, field, format!("must be {expected}"));
        }
    }
}

/// Upstream's `logging`, as our level and format.
pub(super) fn logging(config: &mut Config, mut section: Section<'_>) {
    set!(
        config.logging.format,
        section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
    );
    if let Some(verbosity) = section.number::<u32>("verbosity", 0, 1000) {
        // klog's levels: up to 3 is for operators, 4 and 5 for debugging, more for those who read every step.
        config.logging.level = match verbosity {
            0..=3 => "info",
            4..=5 => "debug",
            _ => "trace",
        }
        .to_string();
    }
    // Each line is written as it comes: there is nothing to flush, and nothing buffered.
    section.moot("flushFrequency");
    section.moot("options");
    section.only("vmodule", &[], "levels by file are not there");
    section.finish();
}

/// Features that are on or off for good here.
const GATES: &[(&str, &str)] =
    &[("RotateKubeletServerCertificate", "true"), ("AllAlpha", "false"), ("AllBeta", "false")];

/// Upstream's gates: those that say what is so anyway.
pub(super) fn feature_gates(section: &mut Section<'_>) {
    section.judged("featureGates", |name, said| {
        let known = GATES.iter().find(|(known, _)| *known == name);
        match known {
            Some((_, fixed)) if *fixed == said => None,
            Some((_, fixed)) => Some(format!("is {fixed} here, always")),
            None => Some("there are no feature gates here; take it out".to_string()),
        }
    });
}

/// Fields that may only say what is so anyway: the field, what it may say, and what is so.
pub(super) type Fixed = (&'static str, &'static [&'static str], &'static str);

pub(super) fn fixed(section: &mut Section<'_>, fields: &[Fixed]) {
    for (field, allowed, why) in fields {
        section.only(field, allowed, why);
    }
}

/// A node's name. As upstream: host names need not be lower case, node names are.
pub(super) struct NodeName(String);

impl FromStr for NodeName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().to_lowercase().parse::<Subdomain>().map(|name| Self(name.into()))
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.0
    }
}

/// An address with a port, or without one.
pub(super) struct MaybePort(IpAddr, Option<u16>);

impl MaybePort {
    pub(super) fn with(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.0, self.1.unwrap_or(port))
    }
}

impl FromStr for MaybePort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self(address.ip(), Some(address.port())));
        }
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(|ip| Self(ip, None)).map_err(|_| "such as 0.0.0.0:10256 or 127.0.0.1")
    }
}
