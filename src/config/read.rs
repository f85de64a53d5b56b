//! From the document to [`Config`]: which fields there are, and what must hold between them.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;

use crate::{
    Config, LogFormat, Mistake, NetworkProvider, ProxyMode,
    forms::{self, AbsolutePath, HostAddress, LogFilter, Subdomain, UnixSocket},
    node_agent,
    section::{Section, set},
    tree::{self, Node},
};

/// How IPVS may choose an endpoint, by the kernel's names.
pub(crate) const SCHEDULERS: [&str; 11] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "mh"];
/// The share of a node (upstream's `--node-cidr-mask-size`).
const NODE_MASK: u8 = 24;
/// The API refuses what asks for less.
const LEAST_CERTIFICATE_LIFE: Duration = Duration::from_secs(600);

/// What the document does not say is as in `base`.
pub(crate) fn config(text: &str, base: &Config) -> Result<Config, Vec<Mistake>> {
    let root = tree::parse(text).map_err(|error| {
        vec![Mistake::new(error.line, String::new(), format!("not valid YAML: {}", error.message))]
    })?;
    let mut mistakes = Vec::new();
    let config = document(root, base, &mut mistakes);
    mistakes.sort_by_key(|mistake| mistake.line);
    if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
}

fn document(root: Node, base: &Config, mistakes: &mut Vec<Mistake>) -> Config {
    let mut config = base.clone();
    let mut top = Section::new(String::new(), root, mistakes);
    let line = top.line();
    // The version may be left out while there is only one; a wrong one is told by `choice`.
    top.choice("apiVersion", &[("coracle.dev/v1alpha1", ())]);
    if top.text("kind").as_deref() != Some("CoracleConfiguration") {
        top.mistake(line, "kind", "must be CoracleConfiguration (of coracle.dev/v1alpha1)");
    }
    set!(config.state_dir, top.path("stateDir"));
    set!(config.run_dir, top.path("runDir"));
    node(&mut config, top.section("node"));
    server(&mut config, top.section("server"));
    network(&mut config, top.section("network"));
    runtime(&mut config, top.section("runtime"));
    kubelet(&mut config, top.section("kubelet"));
    proxy(&mut config, top.section("proxy"));
    dns(&mut config, top.section("dns"));
    components(&mut config, top.section("components"));
    logging(&mut config, top.section("logging"));
    top.finish();
    config
}

fn node(config: &mut Config, mut section: Section<'_>) {
    let node = &mut config.node;
    node.name = section.parsed::<Subdomain>("name", "a node name").map(Into::into).or(node.name.take());
    node.ip = section.parsed::<HostAddress>("ip", "an IP address of this machine").map(|ip| ip.0).or(node.ip);
    let line = section.line_of("labels");
    if let Some(labels) = section.texts("labels") {
        for (key, value) in &labels {
            let form = forms::label_mistake(key, value).map(|mistake| format!("\"{key}\" {mistake}"));
            if let Some(mistake) = form.or_else(|| forms::own_label_mistake(key)) {
                section.mistake(line, "labels", mistake);
            }
        }
        node.labels = labels.into_iter().collect();
    }
    node.kubeconfig = section.path("kubeconfig").map(Into::into).or(node.kubeconfig.take());
    let bootstrap = section.path("bootstrapKubeconfig").map(Into::into);
    node.bootstrap_kubeconfig = bootstrap.or(node.bootstrap_kubeconfig.take());
    if node.bootstrap_kubeconfig.is_some() && node.kubeconfig.is_none() {
        section.mistake(
            section.line(),
            "bootstrapKubeconfig",
            "needs kubeconfig, the file that is written then",
        );
    }
    node.certificate_dir = section.path("certificateDir").map(Into::into).or(node.certificate_dir.take());
    let line = section.line_of("certificateDuration");
    node.certificate_life = section.duration("certificateDuration").or(node.certificate_life);
    if node.certificate_life.is_some_and(|life| life < LEAST_CERTIFICATE_LIFE) {
        section.mistake(line, "certificateDuration", "is less than 10m, the least that signers give");
    }
    section.finish();
}

fn server(config: &mut Config, mut section: Section<'_>) {
    let server = &mut config.server;
    set!(server.bind_address, section.parsed::<std::net::IpAddr>("bindAddress", "an IP address"));
    set!(server.port, section.number::<u16>("port", 1, 65535));
    let advertised = section.parsed::<HostAddress>("advertiseAddress", "an IP address of this machine");
    server.advertise_address = advertised.map(|ip| ip.0).or(server.advertise_address);
    set!(server.extra_sans, section.parsed_list::<String>("extraSANs", "a name"));
    section.finish();
}

/// The words of `network.provider`.
#[derive(Clone, Copy)]
enum Provider {
    BuiltIn,
    Chain,
    Runtime,
}

fn network(config: &mut Config, mut section: Section<'_>) {
    let network = &mut config.network;
    let cidr = "an address range such as 10.244.0.0/16";
    set!(network.pod_cidr, section.parsed::<IpNet>("podCIDR", cidr));
    set!(network.service_cidr, section.parsed::<IpNet>("serviceCIDR", cidr));
    set!(network.node_ports, section.parsed::<PortRange>("nodePortRange", "a range such as 30000-32767"));
    let chain = section.path("chain");
    let words = [("builtin", Provider::BuiltIn), ("cni", Provider::Chain), ("runtime", Provider::Runtime)];
    match (section.choice("provider", &words), chain) {
        (Some(Provider::Chain), Some(path)) => network.provider = NetworkProvider::Chain(path.into()),
        (Some(Provider::Chain), None) => {
            section.mistake(section.line(), "chain", "provider cni needs the path of a conflist here");
        }
        (_, Some(_)) => section.mistake(section.line(), "chain", "only provider cni takes a chain"),
        (Some(Provider::BuiltIn), None) => network.provider = NetworkProvider::BuiltIn,
        (Some(Provider::Runtime), None) => network.provider = NetworkProvider::Runtime,
        (None, None) => {}
    }
    set!(network.cni_conf_dir, section.path("cniConfDir"));
    set!(network.cni_bin_dir, section.path("cniBinDir"));
    if let Some(dirs) = section.parsed_list::<AbsolutePath>("cniPluginDirs", "a path") {
        network.cni_plugin_dirs = dirs.into_iter().map(Into::into).collect();
    }
    network.mtu = section.number("mtu", 576, 65535).or(network.mtu);
    set!(network.direct_routes, section.bool("directRoutes"));
    set!(network.vxlan.0, section.number::<u32>("vxlanVNI", 1, 0x00ff_ffff));
    set!(network.vxlan.1, section.number::<u16>("vxlanPort", 1, 65535));
    let (pods, services) = (network.pod_cidr, network.service_cidr);
    if pods.contains(&services) || services.contains(&pods) {
        let text =
            format!("{services} and podCIDR {pods} overlap; choose ranges that do not share addresses");
        section.mistake(section.line(), "serviceCIDR", text);
    }
    for (key, range) in [("podCIDR", pods), ("serviceCIDR", services)] {
        if range.addr().is_ipv6() {
            let text = format!("{range}: clusters of IPv6 are not there yet; choose an IPv4 range");
            section.mistake(section.line(), key, text);
        }
    }
    if pods.addr().is_ipv4() && pods.prefix_len() > NODE_MASK {
        let text =
            format!("{pods} has no room for a node, which gets a /{NODE_MASK} of it; choose a larger range");
        section.mistake(section.line(), "podCIDR", text);
    }
    section.finish();
}

fn runtime(config: &mut Config, mut section: Section<'_>) {
    set!(config.runtime.endpoint, section.parsed::<UnixSocket>("endpoint", "a unix socket"));
    section.finish();
}

fn kubelet(config: &mut Config, mut section: Section<'_>) {
    set!(config.kubelet.root_dir, section.path("rootDir"));
    set!(config.kubelet.client_authority, section.path("clientCAFile").map(|path| Some(PathBuf::from(path))));
    node_agent::read(config, &mut section);
    if config.kubelet.port == config.server.port {
        let text = format!("{} is server.port too; choose another", config.kubelet.port);
        section.mistake(section.line(), "port", text);
    }
    section.finish();
}

fn proxy(config: &mut Config, mut section: Section<'_>) {
    let address = section.parsed("healthzBindAddress", "an address with a port, such as 127.0.0.1:10256");
    let proxy = &mut config.proxy;
    proxy.healthz = address.or(proxy.healthz);
    let modes =
        [("nftables", ProxyMode::Nftables), ("iptables", ProxyMode::Iptables), ("ipvs", ProxyMode::Ipvs)];
    set!(proxy.mode, section.choice("mode", &modes));
    set!(proxy.masquerade_all, section.bool("masqueradeAll"));
    let mode = proxy.mode;
    let mut ipvs = section.section("ipvs");
    if let Some(scheduler) = ipvs.choice("scheduler", &SCHEDULERS.map(|name| (name, name))) {
        proxy.ipvs_scheduler = scheduler;
        if mode != ProxyMode::Ipvs {
            ipvs.mistake(ipvs.line(), "scheduler", "only mode ipvs takes a scheduler");
        }
    }
    ipvs.finish();
    section.finish();
}

fn dns(config: &mut Config, mut section: Section<'_>) {
    set!(config.dns.port, section.number::<u16>("port", 1, 65535));
    set!(config.dns.clients, section.parsed_list("clients", "a range such as 192.0.2.0/24"));
    section.finish();
}

fn components(config: &mut Config, mut section: Section<'_>) {
    let components = &mut config.components;
    set!(components.kubelet, section.bool("kubelet"));
    set!(components.proxy, section.bool("proxy"));
    set!(components.scheduler, section.bool("scheduler"));
    set!(components.controllers, section.bool("controllers"));
    set!(components.dns, section.bool("dns"));
    if config.components.dns && config.dns_service_ip().is_none() {
        let range = config.network.service_cidr;
        let text = format!(
            "network.serviceCIDR {range} has no tenth address for it; choose a larger range, or switch this off"
        );
        section.mistake(section.line(), "dns", text);
    }
    section.finish();
}

fn logging(config: &mut Config, mut section: Section<'_>) {
    set!(config.logging.level, section.parsed::<LogFilter>("level", "a level or filter"));
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    set!(config.logging.format, section.choice("format", &formats));
    section.finish();
}

/// `30000-32767`.
struct PortRange(u16, u16);

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.0, range.1)
    }
}

impl std::str::FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').ok_or("there is no dash")?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first, last)),
            (Some(_), Some(_)) => Err("the first port is above the last"),
            _ => Err("ports are numbers from 1 to 65535"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Shutdown;

    fn config(text: &str) -> Result<Config, Vec<Mistake>> {
        super::config(text, &Config::default())
    }

    fn mistakes(text: &str) -> Vec<String> {
        let found = config(text).expect_err("a mistake");
        found.iter().map(|m| format!("{}: {}: {}", m.line, m.field, m.text)).collect()
    }

    #[test]
    fn an_empty_document_of_the_right_kind_is_the_default() {
        assert_eq!(config("kind: CoracleConfiguration\n").unwrap(), Config::default());
    }

    #[test]
    fn what_a_document_does_not_say_is_as_in_the_one_below_it() {
        let kind = "kind: CoracleConfiguration\n";
        let below = format!(
            "{kind}node: {{name: b, labels: {{a: x}}}}\nnetwork: {{podCIDR: 10.9.0.0/16, mtu: 1400}}\n"
        );
        let below = config(&below).unwrap();
        assert_eq!(super::config(kind, &below).unwrap(), below);
        let above = super::config(&format!("{kind}network: {{podCIDR: 10.8.0.0/16}}\n"), &below).unwrap();
        assert_eq!(above.node, below.node);
        assert_eq!(
            (above.network.pod_cidr.to_string(), above.network.mtu),
            ("10.8.0.0/16".into(), Some(1400))
        );
    }

    #[test]
    fn services_are_made_reachable_in_the_mode_that_is_named() {
        let proxy = |text: &str| config(&format!("kind: CoracleConfiguration\n{text}")).map(|c| c.proxy);
        assert_eq!(proxy("").unwrap().mode, ProxyMode::Nftables);
        assert_eq!(proxy("proxy: {mode: iptables}").unwrap().mode, ProxyMode::Iptables);
        assert_eq!(proxy("proxy: {mode: ipvs, ipvs: {scheduler: lc}}").unwrap().ipvs_scheduler, "lc");
        let wrong = mistakes("kind: CoracleConfiguration\nproxy:\n  mode: userspace\n");
        assert_eq!(wrong, ["3: proxy.mode: \"userspace\" is none of: nftables, iptables, ipvs"]);
        let wrong = mistakes("kind: CoracleConfiguration\nproxy:\n  ipvs: {scheduler: lc}\n");
        assert_eq!(wrong, ["3: proxy.ipvs.scheduler: only mode ipvs takes a scheduler"]);
    }

    #[test]
    fn pods_ask_the_tenth_address_of_the_service_range_unless_told_otherwise() {
        let dns = |text: &str| {
            let config = config(&format!("kind: CoracleConfiguration\n{text}")).unwrap();
            config.cluster_dns().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(dns(""), ["10.96.0.10"]);
        assert_eq!(dns("network: {serviceCIDR: 10.0.1.0/24}"), ["10.0.1.10"]);
        assert_eq!(dns("kubelet: {clusterDNS: [192.0.2.53]}"), ["192.0.2.53"]);
        assert_eq!(dns("components: {dns: false}"), Vec::<String>::new());
        let small = "kind: CoracleConfiguration\nnetwork: {serviceCIDR: 10.0.1.0/29}\n";
        assert!(mistakes(small)[0].contains("dns: network.serviceCIDR 10.0.1.0/29 has no tenth address"));
        assert!(config(&format!("{small}components: {{dns: false}}\n")).is_ok());
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_line() {
        let text = "kind: CoracleConfiguration\nserver:\n  port: 70000\n  prot: 1\nnetwork:\n  podCIDR: 10.244.0.0/33\n  provider: magic\ncomponents:\n  proxy: maybe\n";
        let found = mistakes(text);
        assert_eq!(found.len(), 5, "{found:#?}");
        assert_eq!(found[0], "3: server.port: must be between 1 and 65535");
        assert_eq!(found[1], "4: server.prot: unknown field; did you mean \"port\"?");
        assert!(
            found[2].starts_with("6: network.podCIDR: \"10.244.0.0/33\" is not an address range"),
            "{found:?}"
        );
        assert_eq!(found[3], "7: network.provider: \"magic\" is none of: builtin, cni, runtime");
        assert_eq!(found[4], "9: components.proxy: must be true or false, not a text");
    }

    #[test]
    fn a_field_that_stands_twice_is_named_with_both_lines() {
        let found = mistakes("kind: CoracleConfiguration\nrunDir: /a\nrunDir: /b\n");
        assert_eq!(found, ["3: runDir: stands twice (first in line 2); keep one of them"]);
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let found = mistakes("kind: CoracleConfiguration\nnetwork:\n  serviceCIDR: 10.244.8.0/24\n");
        assert!(found[0].contains("10.244.8.0/24 and podCIDR 10.244.0.0/16 overlap"), "{found:?}");
    }

    #[test]
    fn what_others_would_refuse_later_is_refused_here() {
        for (line, expected) in [
            ("node: {name: Bad_Name}", "node.name: \"Bad_Name\" is not a node name"),
            ("node: {labels: {\"a b\": c}}", "node.labels: \"a b\" is no label key"),
            (
                "node: {labels: {node-role.kubernetes.io/worker: a}}",
                "node.labels: a node may not give itself the label node-role.kubernetes.io/worker",
            ),
            ("node: {ip: 127.0.0.1}", "node.ip: \"127.0.0.1\" is not an IP address of this machine"),
            ("network: {podCIDR: 10.244.0.0/26}", "10.244.0.0/26 has no room for a node"),
            ("network: {podCIDR: \"fd00::/48\"}", "clusters of IPv6 are not there yet"),
            ("network: {provider: cni, chain: a.conflist}", "network.chain: \"a.conflist\" is not a path"),
            ("server: {port: 10250}", "kubelet.port: 10250 is server.port too"),
            ("runtime: {endpoint: \"tcp://127.0.0.1:1\"}", "is not a unix socket (it must begin with /)"),
            ("kubelet: {cgroupRoot: ../../x}", "kubelet.cgroupRoot: \"../../x\" is not a path"),
            ("kubelet: {clusterDomain: Not A Domain}", "is not a domain"),
            ("logging: {level: shout}", "logging.level: \"shout\" is not a level or filter"),
            ("stateDir: here", "stateDir: \"here\" is not a path"),
        ] {
            let found = mistakes(&format!("kind: CoracleConfiguration\n{line}\n"));
            assert!(found.iter().any(|found| found.contains(expected)), "{line}: {found:?}");
        }
    }

    #[test]
    fn a_shutdown_waits_half_a_minute_for_pods_unless_told_otherwise() {
        let shutdown = |text: &str| {
            let config = config(&format!("kind: CoracleConfiguration\nkubelet:\n{text}")).unwrap();
            config.kubelet.shutdown
        };
        let critical = |shutdown| match shutdown {
            Shutdown::ByClass { total, critical } => {
                (total.as_secs(), Shutdown::critical(total, critical).as_secs())
            }
            Shutdown::ByPriority(_) => panic!("{shutdown:?}"),
        };
        assert_eq!(critical(Config::default().kubelet.shutdown), (30, 10));
        assert_eq!(critical(shutdown("  shutdownGracePeriod: 5s")), (5, 1), "a third is for critical pods");
        assert_eq!(critical(shutdown("  shutdownGracePeriodCriticalPods: 25s")), (30, 25));
        assert_eq!(critical(shutdown("  shutdownGracePeriod: 0s")), (0, 0));
        let list = "  shutdownGracePeriodByPodPriority: [{priority: -5, shutdownGracePeriodSeconds: 7}]";
        assert!(
            matches!(shutdown(list), Shutdown::ByPriority(list) if list.len() == 1 && list[0].priority == -5)
        );
        for (wrong, told) in [
            (
                "  shutdownGracePeriodCriticalPods: 31s",
                "must not be longer than shutdownGracePeriod, which is 30s",
            ),
            ("  shutdownGracePeriod: 25h", "must not be longer than a day"),
            (
                "  shutdownGracePeriod: 1s\n  shutdownGracePeriodByPodPriority: [{priority: 0}]",
                "goes with no",
            ),
            (
                "  shutdownGracePeriodByPodPriority: [{priority: 1}, {priority: 1}]",
                "priority: 1 stands twice",
            ),
            ("  shutdownGracePeriodByPodPriority: [{seconds: 1}]", "seconds: unknown field"),
        ] {
            let found = mistakes(&format!("kind: CoracleConfiguration\nkubelet:\n{wrong}\n"));
            assert!(found.len() == 1 && found[0].contains(told), "{wrong}: {found:?}");
        }
    }

    #[test]
    fn another_kind_is_refused() {
        assert!(mistakes("kind: Pod\n")[0].contains("must be CoracleConfiguration"));
    }

    #[test]
    fn text_that_is_not_yaml_names_its_line() {
        assert!(mistakes("kind: CoracleConfiguration\nnode: [\n")[0].contains("not valid YAML"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ -~\n]{0,200}") {
            drop(config(&text));
        }
    }
}
