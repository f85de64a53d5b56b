//! Whole command lines and files, as kubeadm and people write them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    CgroupDriver, LogFormat, NetworkProvider, ProxyMode, Serving, Shutdown, ShutdownPeriod, Taint,
    TaintEffect,
};

const KUBEADM_KUBELET: &str = include_str!("testdata/kubeadm-kubelet.yaml");
const KUBEADM_PROXY: &str = include_str!("testdata/kubeadm-kube-proxy.yaml");
/// The flags of kubeadm's unit, and those of its `kubeadm-flags.env`.
const KUBEADM_FLAGS: &str = "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf \
                             --config=/var/lib/kubelet/config.yaml --container-runtime-endpoint=unix:///run/crio.sock \
                             --pod-infra-container-image=registry.k8s.io/pause:3.10 --hostname-override=Worker-1";

type Program = fn(&[String], Box<dyn FnOnce(&Path) -> io::Result<String>>) -> Result<Asked, ConfigError>;
const KUBELET: Program = |arguments, read| kubelet(arguments, read);
const PROXY: Program = |arguments, read| kube_proxy(arguments, read);

fn run(program: Program, line: &str, file: &str) -> Result<Config, String> {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_string).collect();
    let file = file.to_string();
    match program(&arguments, Box::new(move |_| Ok(file))) {
        Ok(Asked::Run(config)) => Ok(*config),
        Ok(other) => Err(format!("{other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

/// A KubeletConfiguration of these lines, with the flags that are always needed.
fn configured(lines: &str) -> Result<Config, String> {
    let file = format!("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n{lines}\n");
    run(KUBELET, "--kubeconfig=/k --config=/c.yaml", &file)
}

fn proxied(lines: &str) -> Result<Config, String> {
    run(PROXY, "--config=/c.yaml", &proxy_file(lines))
}

fn proxy_file(lines: &str) -> String {
    format!(
        "kind: KubeProxyConfiguration\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nclientConnection: {{kubeconfig: /f}}\n{lines}\n"
    )
}

#[test]
fn what_kubeadm_writes_for_a_kubelet_is_taken_as_it_is() {
    let config = run(KUBELET, KUBEADM_FLAGS, KUBEADM_KUBELET).unwrap();
    let (node, kubelet) = (&config.node, &config.kubelet);
    assert_eq!(node.kubeconfig.as_deref(), Some(Path::new("/etc/kubernetes/kubelet.conf")));
    assert_eq!(
        node.bootstrap_kubeconfig.as_deref(),
        Some(Path::new("/etc/kubernetes/bootstrap-kubelet.conf"))
    );
    assert_eq!(node.certificate_dir.as_deref(), Some(Path::new("/var/lib/kubelet/pki")));
    assert_eq!(node.name.as_deref(), Some("worker-1"));
    assert_eq!(config.runtime.endpoint, "unix:///run/crio.sock");
    assert_eq!(config.network.provider, NetworkProvider::Runtime);
    assert_eq!((config.components.kubelet, config.components.proxy), (true, false));
    assert_eq!(kubelet.static_pod_path.as_deref(), Some(Path::new("/etc/kubernetes/manifests")));
    assert_eq!(kubelet.client_authority.as_deref(), Some(Path::new("/etc/kubernetes/pki/ca.crt")));
    assert_eq!(kubelet.cgroup_driver, CgroupDriver::Systemd);
    assert_eq!(kubelet.cluster_dns, [IpAddr::from([10, 96, 0, 10])]);
    assert_eq!(kubelet.cluster_domain, "cluster.local");
    assert_eq!(kubelet.resolv_conf.as_deref(), Some(Path::new("/run/systemd/resolve/resolv.conf")));
    assert_eq!(kubelet.healthz, Some(SocketAddr::from(([127, 0, 0, 1], 10248))));
    assert!(kubelet.renews_client_certificate);
    assert_eq!(kubelet.serving, Serving::SelfSigned);
    assert_eq!((kubelet.port, kubelet.max_pods), (10250, 110));
    assert_eq!(
        (kubelet.status_update, kubelet.status_report),
        (Duration::from_secs(10), Duration::from_secs(300))
    );
    assert_eq!(config.logging.level, "info");
}

#[test]
fn what_kubeadm_writes_for_a_kube_proxy_is_taken_as_it_is() {
    let line = "--config=/var/lib/kube-proxy/config.conf --hostname-override=worker-1";
    let config = run(PROXY, line, KUBEADM_PROXY).unwrap();
    assert_eq!(config.node.kubeconfig.as_deref(), Some(Path::new("/var/lib/kube-proxy/kubeconfig.conf")));
    assert_eq!(config.node.name.as_deref(), Some("worker-1"));
    assert_eq!(config.proxy.pod_ranges, Some(vec!["10.244.0.0/16".parse().unwrap()]));
    assert_eq!(config.proxy.healthz, Some(SocketAddr::from(([0, 0, 0, 0], 10256))));
    assert_eq!((config.components.kubelet, config.components.proxy), (false, true));
}

#[test]
fn flags_win_over_the_file() {
    let file = "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nmaxPods: 50\nclusterDNS: [1.1.1.1]\nport: 1\n";
    let line =
        "--kubeconfig=/k --config=/c --max-pods=60 --cluster-dns=2.2.2.2,3.3.3.3 --v=5 --logging-format=json";
    let config = run(KUBELET, line, file).unwrap();
    assert_eq!((config.kubelet.max_pods, config.kubelet.port), (60, 1));
    assert_eq!(config.kubelet.cluster_dns, [IpAddr::from([2, 2, 2, 2]), IpAddr::from([3, 3, 3, 3])]);
    assert_eq!((config.logging.level.as_str(), config.logging.format), ("debug", LogFormat::Json));
}

#[test]
fn of_a_kube_proxys_flags_with_a_file_only_a_few_count() {
    let line = "--kubeconfig=/k --config=/c --hostname-override=n --v=4 --cluster-cidr=10.1.0.0/16 --proxy-mode=ipvs \
                --healthz-port=0 --masquerade-all";
    let config = run(PROXY, line, &proxy_file("clusterCIDR: 10.2.0.0/16")).unwrap();
    assert_eq!(config.node.kubeconfig.as_deref(), Some(Path::new("/f")));
    assert_eq!(config.node.name.as_deref(), Some("n"));
    assert_eq!(config.logging.level, "debug");
    assert_eq!(config.proxy.pod_ranges, Some(vec!["10.2.0.0/16".parse().unwrap()]));
    assert_eq!((config.proxy.mode, config.proxy.masquerade_all), (ProxyMode::Iptables, false));
    assert!(config.proxy.healthz.is_some());
    let ignored = config.upstream.unwrap().ignored_flags;
    assert_eq!(ignored, ["kubeconfig", "cluster-cidr", "proxy-mode", "healthz-port", "masquerade-all"]);
    // A mistake in them is told all the same.
    assert!(
        run(PROXY, &line.replace("port=0", "port=x"), &proxy_file(""))
            .unwrap_err()
            .contains("--healthz-port")
    );
    assert_eq!(run(PROXY, "--kubeconfig=/k --v=4", "").unwrap().upstream.unwrap().ignored_flags, [""; 0]);
}

#[test]
fn the_report_follows_the_look_of_the_file_and_not_that_of_a_flag() {
    let pace = |line: &str, file: &str| {
        let file = format!("kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\n{file}\n");
        let kubelet = run(KUBELET, line, &file).unwrap().kubelet;
        (kubelet.status_update.as_secs(), kubelet.status_report.as_secs())
    };
    let (alone, with) = ("--kubeconfig=/k", "--kubeconfig=/k --config=/c");
    let flag = "--node-status-update-frequency=7s";
    assert_eq!(pace(&format!("{alone} {flag}"), ""), (7, 300));
    assert_eq!(pace(with, "nodeStatusUpdateFrequency: 4s"), (4, 4));
    assert_eq!(pace(&format!("{with} {flag}"), "nodeStatusUpdateFrequency: 4s"), (7, 4));
    let both = "nodeStatusUpdateFrequency: 4s\nnodeStatusReportFrequency: 60s";
    assert_eq!(pace(with, both), (4, 60));
}

#[test]
fn every_mode_of_a_kube_proxy_masquerades_by_its_own_section() {
    let masquerades = |lines: &str| proxied(lines).unwrap().proxy.masquerade_all;
    for (mode, own, other) in [
        ("iptables", "iptables", "nftables"),
        ("ipvs", "iptables", "nftables"),
        ("nftables", "nftables", "iptables"),
    ] {
        assert!(masquerades(&format!("mode: {mode}\n{own}: {{masqueradeAll: true}}")), "{mode}");
        assert!(!masquerades(&format!("mode: {mode}\n{other}: {{masqueradeAll: true}}")), "{mode}");
        let flags = format!("--kubeconfig=/k --proxy-mode={mode} --masquerade-all");
        assert!(run(PROXY, &flags, "").unwrap().proxy.masquerade_all, "{mode}");
    }
}

#[test]
fn an_empty_flag_says_nothing_and_a_zero_is_said_on_purpose() {
    let line = "--kubeconfig=/k --node-ip= --hostname-override= --bootstrap-kubeconfig= --cloud-provider= --cluster-domain= \
                --read-only-port=0";
    let config = run(KUBELET, line, "").unwrap();
    assert_eq!(config.node, run(KUBELET, "--kubeconfig=/k", "").unwrap().node);
    assert_eq!(run(KUBELET, "--kubeconfig=/k --resolv-conf=", "").unwrap().kubelet.resolv_conf, None);
    for (flag, expected) in [
        ("--max-pods=0", "--max-pods: must be between 1 and"),
        ("--port=0", "--port: must be between 1 and"),
        ("--node-status-update-frequency=0s", "--node-status-update-frequency: must be longer than nothing"),
        ("--cloud-provider=empty", "--cloud-provider: cannot be empty: no cloud's"),
        ("--resolv-conf=empty", "--resolv-conf: \"empty\" is not a path"),
        ("--kubeconfig=", "--kubeconfig: is needed"),
    ] {
        let told = run(KUBELET, &format!("--kubeconfig=/k {flag}"), "").unwrap_err();
        assert!(told.contains(expected), "{flag}: {told}");
    }
    let file = proxy_file("hostnameOverride: n1");
    let config = run(PROXY, "--config=/c --hostname-override=", &file).unwrap();
    assert_eq!(config.node.name.as_deref(), Some("n1"));
}

#[test]
fn a_kubelet_without_a_file_is_told_everything_by_flags() {
    let line = "--kubeconfig /k --root-dir=/r --cert-dir=/p --node-ip=192.0.2.7 --node-labels=a=b,example.com/c= \
                --register-with-taints=x=y:NoSchedule,z:NoExecute --register-node=false --healthz-port=0 \
                --rotate-certificates --rotate-server-certificates --cgroup-root=/kubelet --serialize-image-pulls \
                --tls-min=x";
    assert!(run(KUBELET, line, "").unwrap_err().contains("unknown flag: --tls-min"));
    let config = run(KUBELET, line.trim_end_matches("--tls-min=x"), "").unwrap();
    assert_eq!(config.kubelet.root_dir, Path::new("/r"));
    assert_eq!(config.node.certificate_dir.as_deref(), Some(Path::new("/p")));
    assert_eq!(config.node.ip, Some(IpAddr::from([192, 0, 2, 7])));
    let labels: Vec<_> = config.node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["a=b", "example.com/c="]);
    let taint = |key: &str, value: &str, effect| Taint { key: key.into(), value: value.into(), effect };
    let taints = [taint("x", "y", TaintEffect::NoSchedule), taint("z", "", TaintEffect::NoExecute)];
    assert_eq!(config.node.taints, taints);
    assert!(!config.node.register && config.kubelet.healthz.is_none());
    assert!(config.kubelet.renews_client_certificate);
    assert_eq!(config.kubelet.serving, Serving::Requested);
    assert_eq!((config.kubelet.cgroup_root.as_str(), config.kubelet.parallel_image_pulls), ("/kubelet", 1));
}

#[test]
fn fields_that_work_are_read() {
    let config = configured(
        "address: 192.0.2.1\nport: 10350\nhealthzBindAddress: 0.0.0.0\nhealthzPort: 10349\nmaxPods: 30\nregisterWithTaints: [{key: a, effect: NoSchedule}]\n\
         registerNode: false\nnodeStatusUpdateFrequency: 4s\nnodeLeaseDurationSeconds: 20\nserializeImagePulls: false\nmaxParallelImagePulls: 3\n\
         seccompDefault: true\nfailSwapOn: true\nfailCgroupV1: true\noomScoreAdj: 0\nserverTLSBootstrap: true\n\
         crashLoopBackOff: {maxContainerRestartPeriod: 30s}\nlogging: {format: json, verbosity: 6}",
    )
    .unwrap();
    let kubelet = &config.kubelet;
    assert_eq!((kubelet.address, kubelet.port), (IpAddr::from([192, 0, 2, 1]), 10350));
    assert_eq!(kubelet.healthz, Some(SocketAddr::from(([0, 0, 0, 0], 10349))));
    assert_eq!(kubelet.max_pods, 30);
    assert_eq!(config.node.taints.len(), 1);
    assert!(!config.node.register);
    // As upstream: the report follows the look.
    assert_eq!(
        (kubelet.status_update, kubelet.status_report),
        (Duration::from_secs(4), Duration::from_secs(4))
    );
    assert_eq!((kubelet.lease, kubelet.parallel_image_pulls), (Duration::from_secs(20), 3));
    assert!(kubelet.seccomp_default && kubelet.refuses_swap && kubelet.refuses_cgroup_v1);
    assert_eq!((kubelet.oom_score_adj, &kubelet.serving), (Some(0), &Serving::Requested));
    assert_eq!(kubelet.longest_restart_delay, Duration::from_secs(30));
    assert_eq!((config.logging.level.as_str(), config.logging.format), ("trace", LogFormat::Json));
    let files = configured("tlsCertFile: /a.crt\ntlsPrivateKeyFile: /a.key").unwrap().kubelet.serving;
    assert_eq!(files, Serving::Files { certificate: PathBuf::from("/a.crt"), key: PathBuf::from("/a.key") });
    assert_eq!(configured("resolvConf: ''").unwrap().kubelet.resolv_conf, None);
}

#[test]
fn an_empty_file_is_upstreams_defaults() {
    let config = configured("").unwrap();
    assert_eq!(config, run(KUBELET, "--kubeconfig=/k", "").unwrap());
    assert_eq!(config.kubelet.serving, Serving::SelfSigned);
    assert!(!config.kubelet.renews_client_certificate && config.kubelet.cluster_domain.is_empty());
    assert_eq!(config.kubelet.oom_score_adj, Some(-999));
}

#[test]
fn what_is_not_there_may_say_upstreams_default_and_nothing_else() {
    for default in [
        "readOnlyPort: 0",
        "evictionPressureTransitionPeriod: 5m0s",
        "evictionHard: {memory.available: 100Mi, nodefs.available: 10%, nodefs.inodesFree: 5%, imagefs.available: 15%, \
         imagefs.inodesFree: 5%}",
        "evictionHard: null",
        "cpuManagerPolicy: none",
        "authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 2m0s}}",
        "featureGates: {RotateKubeletServerCertificate: true}",
        "shutdownGracePeriod: 0s",
        "enforceNodeAllocatable: [pods]",
        "kubeReserved: {}",
        "imageServiceEndpoint: unix:///run/containerd/containerd.sock",
    ] {
        configured(default).unwrap();
    }
    for (line, expected) in [
        (
            "readOnlyPort: 10255",
            "3: readOnlyPort: cannot be 10255: there is no port without authentication; only 0 can be set",
        ),
        (
            "evictionHard: {memory.available: 1Gi}",
            "3: evictionHard.memory.available: cannot be 1Gi: thresholds",
        ),
        (
            "evictionHard: {memory.available: '0'}",
            "3: evictionHard.memory.available: cannot be 0: thresholds",
        ),
        (
            "evictionHard: {memory.available: 100Mi, nodefs.available: 10%, imagefs.available: 15%}",
            "3: evictionHard: would switch the thresholds off that it does not name, which are not settable yet; name \
             nodefs.inodesFree, imagefs.inodesFree too, or take it out",
        ),
        ("evictionHard: {}", "3: evictionHard: would switch"),
        ("enforceNodeAllocatable: []", "enforceNodeAllocatable: cannot be an empty list"),
        (
            "cpuManagerPolicy: static",
            "cpuManagerPolicy: cannot be static: there are no exclusive processors yet; only none can be set",
        ),
        (
            "authentication: {anonymous: {enabled: true}}",
            "authentication.anonymous.enabled: cannot be true: nobody is anonymous",
        ),
        ("authorization: {mode: AlwaysAllow}", "authorization.mode: cannot be AlwaysAllow"),
        ("featureGates: {NodeSwap: true}", "featureGates.NodeSwap: there are no feature gates here"),
        ("shutdownGracePeriod: 500ms", "shutdownGracePeriod: \"500ms\" is not a length of time"),
        (
            "shutdownGracePeriodCriticalPods: 5s",
            "3: shutdownGracePeriodCriticalPods: must not be longer than shutdownGracePeriod, which is 0s",
        ),
        ("kubeReserved: {cpu: 100m}", "kubeReserved: cannot be cpu=100m"),
        ("maxPod: 7", "3: maxPod: unknown field; did you mean \"maxPods\"?"),
        ("whateverElse: 7", "3: whateverElse: unknown field\n"),
        ("tlsCertFile: /a", "tlsPrivateKeyFile: a certificate and its key go together"),
        ("staticPodPath: here", "3: staticPodPath: \"here\" is not a path (it must begin with /)"),
        (
            "registerWithTaints: [{key: a, effect: Never}]",
            "registerWithTaints[0].effect: \"Never\" is none of",
        ),
        ("maxParallelImagePulls: 4\nserializeImagePulls: true", "maxParallelImagePulls: is more than 1"),
        ("crashLoopBackOff: {maxContainerRestartPeriod: 1h}", "must be between 1s and 300s"),
    ] {
        let told = configured(line).expect_err(line) + "\n";
        assert!(told.contains(expected), "{line}: {told}");
    }
}

#[test]
fn a_shutdown_is_held_up_only_where_a_file_says_so() {
    let shutdown = |text: &str| configured(text).unwrap().kubelet.shutdown;
    let by_class = |total, critical| Shutdown::ByClass {
        total: Duration::from_secs(total),
        critical: Some(Duration::from_secs(critical)),
    };
    assert_eq!(shutdown(""), by_class(0, 0));
    assert_eq!(
        shutdown("shutdownGracePeriod: 30s"),
        by_class(30, 0),
        "upstream's default keeps nothing back"
    );
    let both = "shutdownGracePeriod: 1m\nshutdownGracePeriodCriticalPods: 20s";
    assert_eq!(shutdown(both), by_class(60, 20));
    // What kubeadm writes beside it says nothing.
    let by_priority = "shutdownGracePeriod: 0s\nshutdownGracePeriodCriticalPods: 0s\nshutdownGracePeriodByPodPriority:\n\
                       - {priority: 0, shutdownGracePeriodSeconds: 60}\n- {priority: 100000, shutdownGracePeriodSeconds: 10}";
    let period = |priority, seconds| ShutdownPeriod { priority, length: Duration::from_secs(seconds) };
    assert_eq!(shutdown(by_priority), Shutdown::ByPriority(vec![period(0, 60), period(100_000, 10)]));
}

#[test]
fn what_is_taken_and_not_done_yet_is_told() {
    let told = |config: Config| config.upstream.unwrap().not_done;
    assert_eq!(told(run(KUBELET, KUBEADM_FLAGS, KUBEADM_KUBELET).unwrap()), [""; 0]);
    let config = configured(
        "registryPullQPS: 5\ncontainerLogMaxFiles: 5\nimageGCHighThresholdPercent: 100\nprotectKernelDefaults: false\n\
         imagePullCredentialsVerificationPolicy: NeverVerify\nsingleProcessOOMKill: true",
    );
    assert_eq!(told(config.unwrap()), ["containerLogMaxFiles", "registryPullQPS", "protectKernelDefaults"]);
    let policy = "imagePullCredentialsVerificationPolicy";
    assert_eq!(told(configured(&format!("{policy}: NeverVerifyPreloadedImages")).unwrap()), [policy]);
    assert!(configured(&format!("{policy}: AlwaysVerify")).unwrap_err().contains("cannot be AlwaysVerify"));
    let config =
        proxied("conntrack: {min: 0, maxPerCore: 32768}\niptables: {localhostNodePorts: false}").unwrap();
    assert_eq!(told(config), ["conntrack.maxPerCore"]);
    assert_eq!(
        told(proxied("iptables: {localhostNodePorts: true}").unwrap()),
        ["iptables.localhostNodePorts"]
    );
    let told = proxied("nftables: {localhostNodePorts: false}").unwrap_err();
    assert!(told.contains("nftables.localhostNodePorts: unknown field"), "{told}");
}

#[test]
fn a_mistake_names_the_file_and_line_or_the_flag() {
    let told = run(
        KUBELET,
        "--max-pods=20000 --cluster-dns=1.2.3.4,x --fail-swap-on --node-labels=a/b/c=d --read-only-port=1",
        "",
    )
    .unwrap_err();
    for expected in [
        "--kubeconfig: is needed",
        "--max-pods: must be between 1 and 10000",
        "--cluster-dns: \"x\" is not an IP address",
        "--node-labels: \"a/b/c\" is no label key",
        "--read-only-port: cannot be 1",
    ] {
        assert!(told.lines().any(|line| line.starts_with(expected)), "{expected}: {told}");
    }
    let told = run(KUBELET, "--kubeconfig=/k --config=/c.yaml", "kind: Pod\n").unwrap_err();
    assert!(told.contains("/c.yaml:1: kind: must be KubeletConfiguration"), "{told}");
    let told = run(KUBELET, "--kubeconfig=/k --config=/c.yaml", "kind: [\n").unwrap_err();
    assert!(told.contains("not valid YAML"), "{told}");
}

#[test]
fn a_file_in_json_is_read_too() {
    let file =
        r#"{"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1", "maxPods": 9}"#;
    assert_eq!(run(KUBELET, "--kubeconfig=/k --config=/c.json", file).unwrap().kubelet.max_pods, 9);
}

#[test]
fn a_kube_proxy_is_told_by_flags_or_file() {
    let line = "--kubeconfig=/k --proxy-mode=nftables --cluster-cidr=10.1.0.0/16 --healthz-bind-address=127.0.0.1 --v=2";
    let config = run(PROXY, line, "").unwrap();
    assert_eq!(config.proxy.pod_ranges, Some(vec!["10.1.0.0/16".parse().unwrap()]));
    assert_eq!(config.proxy.healthz, Some(SocketAddr::from(([127, 0, 0, 1], 10256))));
    assert_eq!(config.proxy.mode, ProxyMode::Nftables);
    let config =
        run(PROXY, "--kubeconfig=/k --proxy-mode=ipvs --ipvs-scheduler=lc --masquerade-all", "").unwrap();
    assert_eq!((config.proxy.mode, config.proxy.ipvs_scheduler), (ProxyMode::Ipvs, "lc"));
    assert!(config.proxy.masquerade_all);
    let config = proxied("bindAddress: 192.0.2.1").unwrap();
    assert_eq!(config.proxy.mode, ProxyMode::Iptables, "upstream's default");
    assert_eq!(config.proxy.healthz, Some(SocketAddr::from(([0, 0, 0, 0], 10256))));
    let healthz = proxied("bindAddress: fd00::1").unwrap().proxy.healthz;
    assert_eq!(healthz, Some("[::]:10256".parse().unwrap()), "its family alone");
    let flag = run(PROXY, "--kubeconfig=/k --bind-address=fd00::1", "").unwrap().proxy.healthz;
    assert_eq!(flag, Some("0.0.0.0:10256".parse().unwrap()), "not the flag's");
    assert_eq!(config.proxy.pod_ranges, Some(Vec::new()));
    for (line, expected) in [
        ("clusterCIDR: fd00::/48", "Services of IPv6 are not there yet"),
        ("clusterCIDR: '10.1.0.0/16,10.2.0.0/16'", "there is one range of a family"),
        ("nodePortAddresses: [127.0.0.0/8]", "nodePortAddresses: cannot be 127.0.0.0/8"),
        ("conntrack: {min: 5}", "conntrack.min: cannot be 5"),
        ("metricsBindAddress: 0.0.0.0:10249", "metricsBindAddress: cannot be 0.0.0.0:10249"),
        ("detectLocalMode: BridgeInterface", "detectLocalMode: cannot be BridgeInterface"),
    ] {
        let told = proxied(line).expect_err(line);
        assert!(told.contains(expected), "{line}: {told}");
    }
    let told = run(PROXY, "--proxy-mode=userspace", "").unwrap_err();
    assert!(told.contains("--proxy-mode: \"userspace\" is none of: iptables, ipvs, nftables"), "{told}");
    assert!(told.contains("--kubeconfig: is needed"), "{told}");
}

#[test]
fn help_version_and_cleaning_up_are_no_runs() {
    let asked = |program: Program, line: &str| {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        program(&arguments, Box::new(|_| Err(io::Error::other("nothing is read")))).unwrap()
    };
    assert_eq!(asked(KUBELET, "--version"), Asked::Version);
    assert!(matches!(asked(PROXY, "--cleanup"), Asked::CleanUp(_)));
    for (program, name) in [(KUBELET, "kubelet"), (PROXY, "kube-proxy")] {
        let Asked::Help(text) = asked(program, "-h --config=/nowhere") else { panic!("{name}") };
        assert!(text.contains(&format!("Usage: {name} [flags]")), "{text}");
        assert!(text.lines().all(|line| line.len() < 180), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let arguments = ["--kubeconfig=/k".to_string(), "--config=/nowhere.yaml".to_string()];
    let error = kubelet(&arguments, |_| Err(io::Error::from(io::ErrorKind::NotFound))).unwrap_err();
    assert_eq!(error.to_string(), "cannot read the configuration /nowhere.yaml");
}

#[test]
fn no_flag_is_both_taken_and_refused_and_each_is_there_once() {
    for table in [&kubelet::FLAGS, &proxy::FLAGS] {
        let mut names: Vec<&str> =
            table.flags.iter().map(|flag| flag.name).chain(table.refused.iter().copied()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "{}", table.program);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_file_makes_the_reader_panic(
        lines in proptest::collection::vec("(maxPods|clusterDNS|evictionHard|authentication|registerWithTaints|logging|tlsCertFile|iptables|conntrack|healthzBindAddress): [ -~]{0,24}", 0..6)
    ) {
        let text = lines.join("\n");
        drop(configured(&text));
        drop(proxied(&text));
    }
}
