//! `kube-proxy`: its flags, and `KubeProxyConfiguration`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnet::IpNet;

use super::{
    flags::{
        Flag, Given,
        Kind::{List, Map, Number, Switch, Text},
        Place::{Alone, Field},
        Table, flag,
    },
    shared::{self, Fixed, MaybePort, NodeName, fixed},
};
use crate::{
    Components, Config, Mistake, ProxyMode,
    read::SCHEDULERS,
    section::{Section, set},
    tree::Node,
};

pub(super) const FLAGS: Table = Table {
    program: "kube-proxy",
    about: "Makes Services reachable from this node: Coracle's proxy alone, with the flags and the configuration file of upstream's kube-proxy.",
    kind: "KubeProxyConfiguration",
    api_version: "kubeproxy.config.k8s.io/v1alpha1",
    meant: &["oomScoreAdj", "maxPerCore", "min", "masqueradeBit"],
    whole: &[],
    follows: &[],
    flags: ACCEPTED,
    refused: REFUSED,
    not_done: &[
        ("conntrack.maxPerCore", Some("32768")),
        ("conntrack.min", Some("131072")),
        ("conntrack.tcpEstablishedTimeout", None),
        ("conntrack.tcpCloseWaitTimeout", None),
        ("iptables.localhostNodePorts", Some("true")),
    ],
    // Upstream's takes the file in the place of all that the others say.
    beside_a_file: Some(&[
        "config",
        "cleanup",
        "hostname-override",
        "v",
        "logging-format",
        "log-flush-frequency",
    ]),
};

const ACCEPTED: &[Flag] = &[
    flag(
        "config",
        Text,
        Alone("config"),
        "a KubeProxyConfiguration; beside it, only --hostname-override and logging count",
    ),
    flag("kubeconfig", Text, Field("clientConnection.kubeconfig"), "by what the API server is reached"),
    flag("hostname-override", Text, Field("hostnameOverride"), "the node's name, instead of the host name"),
    flag("cleanup", Switch, Alone("cleanup"), "take the rules away, and end"),
    flag("proxy-mode", Text, Field("mode"), "how rules are made: iptables, ipvs or nftables [iptables]"),
    flag(
        "cluster-cidr",
        Text,
        Field("clusterCIDR"),
        "addresses of pods: what they send to cluster IPs keeps its source",
    ),
    flag("detect-local-mode", Text, Field("detectLocalMode"), "only ClusterCIDR"),
    flag("bind-address", Text, Alone("bind-address"), "no difference: nothing is bound to it"),
    flag(
        "healthz-bind-address",
        Text,
        Field("healthzBindAddress"),
        "where /healthz is answered [0.0.0.0:10256]",
    ),
    flag("healthz-port", Number, Alone("healthz-port"), "on which port; 0 is nowhere"),
    flag("oom-score-adj", Number, Field("oomScoreAdj"), "how dear this process is to the kernel [-999]"),
    flag(
        "v",
        Number,
        Field("logging.verbosity"),
        "how much is logged: up to 3 info, 4 and 5 debug, above it trace",
    ),
    flag("logging-format", Text, Field("logging.format"), "text or json"),
    flag(
        "log-flush-frequency",
        Text,
        Field("logging.flushFrequency"),
        "no difference: each line is written as it comes",
    ),
    flag("feature-gates", Map, Field("featureGates"), "only gates that say what is so anyway"),
    flag(
        "nodeport-addresses",
        List,
        Field("nodePortAddresses"),
        "only empty: node ports answer on every address of the node",
    ),
    flag(
        "masquerade-all",
        Switch,
        Alone("masquerade-all"),
        "masquerade pods' own connections to cluster IPs too",
    ),
    flag("ipvs-scheduler", Text, Field("ipvs.scheduler"), "how IPVS chooses an endpoint [rr]"),
    flag(
        "conntrack-max-per-core",
        Number,
        Field("conntrack.maxPerCore"),
        "only 0: the kernel's connection tracking is left as it is",
    ),
    flag("conntrack-min", Number, Field("conntrack.min"), "only 0"),
    flag("profiling", Switch, Field("enableProfiling"), "no difference: there are no profiling handlers"),
    flag("config-sync-period", Text, Field("configSyncPeriod"), "no difference: changes are watched"),
];

/// In upstream 1.36, and not here.
const REFUSED: &[&str] = &[
    "bind-address-hard-fail",
    "conntrack-tcp-be-liberal",
    "conntrack-tcp-timeout-established",
    "conntrack-udp-timeout",
    "conntrack-udp-timeout-stream",
    "init-only",
    "iptables-localhost-nodeports",
    "iptables-masquerade-bit",
    "iptables-min-sync-period",
    "iptables-sync-period",
    "ipvs-exclude-cidrs",
    "ipvs-min-sync-period",
    "ipvs-strict-arp",
    "ipvs-sync-period",
    "ipvs-tcp-timeout",
    "ipvs-tcpfin-timeout",
    "ipvs-udp-timeout",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "master",
    "metrics-bind-address",
    "metrics-port",
    "pod-bridge-interface",
    "pod-interface-name-prefix",
    "show-hidden-metrics-for-version",
    "vmodule",
    "write-config-to",
];

const IPTABLES: &str = "iptables";
const NFTABLES: &str = "nftables";
const HEALTHZ_PORT: u16 = 10256;

pub(super) fn read(root: Node, given: &Given, mistakes: &mut Vec<Mistake>) -> Config {
    let mut config = Config {
        components: Components {
            kubelet: false,
            proxy: true,
            scheduler: false,
            controllers: false,
            dns: false,
        },
        ..Config::default()
    };
    config.proxy.oom_score_adj = Some(-999);
    let mut alone = Section::new(String::new(), given.alone.clone(), mistakes);
    alone.moot("config");
    alone.moot("cleanup");
    // Read, since upstream reads it; its defaults are chosen before its flags are.
    alone.parsed::<IpAddr>("bind-address", "an IP address");
    config.proxy.masquerade_all = alone.bool("masquerade-all").unwrap_or_default();
    let port = alone.number::<u16>("healthz-port", 0, 65535);
    alone.finish();
    let mut section = Section::new(String::new(), root, mistakes);
    shared::kind(&mut section, FLAGS.kind, FLAGS.api_version);
    connection(&mut config, &mut section, given.is_on("cleanup"));
    config.node.name = section.parsed::<NodeName>("hostnameOverride", "a node name").map(Into::into);
    healthz(&mut config, &mut section, port);
    mode(&mut config, &mut section);
    pods(&mut config, &mut section);
    let score = section.number::<i16>("oomScoreAdj", -1000, 1000);
    config.proxy.oom_score_adj = score.or(config.proxy.oom_score_adj);
    shared::logging(&mut config, section.section("logging"));
    shared::feature_gates(&mut section);
    conntrack(section.section("conntrack"));
    for mode in [IPTABLES, NFTABLES] {
        rules(&mut config, section.section(mode), mode);
    }
    ipvs(&mut config, section.section("ipvs"));
    // Of machines that are not this one.
    section.moot("winkernel");
    for (field, _why) in MOOT {
        section.moot(field);
    }
    fixed(&mut section, ONLY);
    section.finish();
    config
}

fn connection(config: &mut Config, section: &mut Section<'_>, cleans_up: bool) {
    let mut connection = section.section("clientConnection");
    config.node.kubeconfig = connection.path("kubeconfig").map(PathBuf::from);
    if config.node.kubeconfig.is_none() && !cleans_up {
        let text = "is needed: a proxy without a cluster has nothing to do; name a kubeconfig (in a pod, one with tokenFile)";
        connection.mistake(0, "kubeconfig", text);
    }
    connection.moot("acceptContentTypes");
    connection.moot("contentType");
    connection.only("qps", &["5"], "its rate is not settable");
    connection.only("burst", &["10"], "its rate is not settable");
    connection.finish();
}

/// As upstream: a file's `bindAddress` binds nothing, but says of which family the default is.
fn healthz(config: &mut Config, section: &mut Section<'_>, port: Option<u16>) {
    let bind = section.parsed::<IpAddr>("bindAddress", "an IP address");
    let own = section.parsed::<MaybePort>("healthzBindAddress", "an address with a port");
    let any: IpAddr = match bind {
        Some(bind) if bind.is_ipv6() => Ipv6Addr::UNSPECIFIED.into(),
        _ => Ipv4Addr::UNSPECIFIED.into(),
    };
    let mut address = match own {
        Some(own) => own.with(HEALTHZ_PORT),
        None => SocketAddr::new(any, HEALTHZ_PORT),
    };
    if let Some(port) = port {
        address.set_port(port);
    }
    config.proxy.healthz = (address.port() != 0).then_some(address);
    section.only("bindAddressHardFail", &["false"], "a port that is taken is tried again");
}

/// How rules are made. An empty mode is upstream's default.
fn mode(config: &mut Config, section: &mut Section<'_>) {
    let modes = [
        ("", ProxyMode::Iptables),
        ("iptables", ProxyMode::Iptables),
        ("ipvs", ProxyMode::Ipvs),
        ("nftables", ProxyMode::Nftables),
    ];
    config.proxy.mode = section.choice("mode", &modes).unwrap_or(ProxyMode::Iptables);
}

/// Of mode ipvs; upstream writes it for all modes, and an empty scheduler is its default.
fn ipvs(config: &mut Config, mut section: Section<'_>) {
    let named = SCHEDULERS.map(|name| (name, name));
    let schedulers: Vec<(&str, &'static str)> = named.into_iter().chain([("", "rr")]).collect();
    set!(config.proxy.ipvs_scheduler, section.choice("scheduler", &schedulers));
    for field in ["syncPeriod", "minSyncPeriod"] {
        section.moot(field);
    }
    section.only("strictARP", &["false"], "how the kernel answers ARP is left as it is");
    section.only(
        "excludeCIDRs",
        &["[]"],
        "virtual servers at addresses that are no Service's are left alone",
    );
    for field in ["tcpTimeout", "tcpFinTimeout", "udpTimeout"] {
        section.only(field, &["0s"], "the kernel's time limits are left as they are");
    }
    section.finish();
}

fn pods(config: &mut Config, section: &mut Section<'_>) {
    section.only("detectLocalMode", &["ClusterCIDR"], "pods are told by their addresses (clusterCIDR)");
    let mut local = section.section("detectLocal");
    local.only("bridgeInterface", &[], "pods are told by their addresses (clusterCIDR)");
    local.only("interfaceNamePrefix", &[], "pods are told by their addresses (clusterCIDR)");
    local.finish();
    let ranges = section.parsed::<Ranges>("clusterCIDR", "an IPv4 range such as 10.244.0.0/16");
    // As upstream: without a range, nobody is told to be a pod.
    config.proxy.pod_ranges = Some(ranges.map(|ranges| ranges.0).unwrap_or_default());
}

/// `10.244.0.0/16`. Upstream takes one range of each family, with a comma between.
struct Ranges(Vec<IpNet>);

impl FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range: IpNet =
                part.trim().parse().map_err(|error: ipnet::AddrParseError| error.to_string())?;
            if range.addr().is_ipv6() {
                return Err("Services of IPv6 are not there yet".to_string());
            }
            ranges.push(range.trunc());
        }
        if ranges.len() > 1 {
            return Err("there is one range of a family".to_string());
        }
        Ok(Self(ranges))
    }
}

/// Rules of one mode, which the file may speak of in every mode.
fn rules(config: &mut Config, mut section: Section<'_>, mode: &str) {
    if mode == IPTABLES {
        let why = "node ports do not answer on the loopback address";
        section.only("localhostNodePorts", &["false", "true"], why);
    }
    let masquerades = section.bool("masqueradeAll").unwrap_or_default();
    // As upstream: mode ipvs has it of iptables.
    if (config.proxy.mode == ProxyMode::Nftables) == (mode == NFTABLES) {
        config.proxy.masquerade_all |= masquerades;
    }
    section.only("masqueradeBit", &["14"], "which bit marks packets is not settable");
    section.moot("syncPeriod");
    section.moot("minSyncPeriod");
    section.finish();
}

fn conntrack(mut section: Section<'_>) {
    let why = "the kernel's connection tracking is left as it is";
    section.only("maxPerCore", &["0", "32768"], why);
    section.only("min", &["0", "131072"], why);
    section.only("tcpEstablishedTimeout", &["24h"], why);
    section.only("tcpCloseWaitTimeout", &["1h"], why);
    section.only("tcpBeLiberal", &["false"], why);
    section.only("udpTimeout", &[], why);
    section.only("udpStreamTimeout", &[], why);
    section.finish();
}

/// Fields that make no difference here, and why.
const MOOT: &[(&str, &str)] = &[
    ("configSyncPeriod", "changes are watched"),
    ("enableProfiling", "there are no profiling handlers"),
    ("portRange", "without effect in upstream too"),
    ("windowsRunAsService", "this is no Windows"),
];

const ONLY: &[Fixed] = &[
    ("metricsBindAddress", &[], "the proxy's metrics are not served yet"),
    ("nodePortAddresses", &[], "node ports answer on every address of the node"),
    ("showHiddenMetricsForVersion", &[], "no metrics are hidden"),
];
