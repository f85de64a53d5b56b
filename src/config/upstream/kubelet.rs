//! `kubelet`: its flags, and `KubeletConfiguration`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    flags::{
        Flag, Given,
        Kind::{List, Map, Number, Switch, Taints, Text},
        Place::{Alone, Field},
        Table, flag,
    },
    shared::{self, Fixed, NodeName, fixed},
};
use crate::{
    Components, Config, Mistake, NetworkProvider, Serving, Shutdown,
    forms::{self, HostAddress, UnixSocket},
    node_agent,
    section::{Section, set},
    tree::{Node, Value},
};

pub(super) const FLAGS: Table = Table {
    program: "kubelet",
    about: "Runs the pods of this node: Coracle's node agent alone, with the flags and the configuration file of upstream's kubelet.",
    kind: "KubeletConfiguration",
    api_version: "kubelet.config.k8s.io/v1beta1",
    meant: &[
        "resolvConf",
        "healthzPort",
        "oomScoreAdj",
        "registryPullQPS",
        "eventRecordQPS",
        "kubeAPIQPS",
        "imageGCHighThresholdPercent",
        "imageGCLowThresholdPercent",
        "podPidsLimit",
        "nodeStatusMaxImages",
        "containerLogMaxFiles",
        "containerLogMaxWorkers",
    ],
    whole: &["evictionHard", "enforceNodeAllocatable"],
    // Also where a flag goes over the other one.
    follows: &[("nodeStatusReportFrequency", "nodeStatusUpdateFrequency")],
    flags: ACCEPTED,
    refused: REFUSED,
    not_done: NOT_DONE,
    beside_a_file: None,
};

const ACCEPTED: &[Flag] = &[
    flag("config", Text, Alone("config"), "a KubeletConfiguration; flags win over it"),
    flag(
        "kubeconfig",
        Text,
        Alone("kubeconfig"),
        "by what the API server is reached; written from --bootstrap-kubeconfig",
    ),
    flag(
        "bootstrap-kubeconfig",
        Text,
        Alone("bootstrap-kubeconfig"),
        "by what a certificate is asked for while --kubeconfig has none",
    ),
    flag(
        "cert-dir",
        Text,
        Alone("cert-dir"),
        "where the node's certificates are kept [/var/lib/kubelet/pki]",
    ),
    flag("root-dir", Text, Alone("root-dir"), "volumes and files of pods [/var/lib/kubelet]"),
    flag("hostname-override", Text, Alone("hostname-override"), "the node's name, instead of the host name"),
    flag(
        "node-ip",
        Text,
        Alone("node-ip"),
        "the node's address, instead of the one that routes to the API server",
    ),
    flag("node-labels", Map, Alone("node-labels"), "labels that the node registers with"),
    flag("register-node", Switch, Field("registerNode"), "make the Node object [true]"),
    flag("register-with-taints", Taints, Field("registerWithTaints"), "taints that the node registers with"),
    flag(
        "container-runtime-endpoint",
        Text,
        Field("containerRuntimeEndpoint"),
        "the runtime's socket [unix:///run/containerd/containerd.sock]",
    ),
    flag("image-service-endpoint", Text, Field("imageServiceEndpoint"), "the same socket, or nothing"),
    flag(
        "pod-manifest-path",
        Text,
        Field("staticPodPath"),
        "a directory of manifests, or one, that run without an API server",
    ),
    flag("max-pods", Number, Field("maxPods"), "how many pods the node takes [110]"),
    flag("cluster-dns", List, Field("clusterDNS"), "addresses of the cluster's DNS"),
    flag("cluster-domain", Text, Field("clusterDomain"), "the domain of Services"),
    flag("resolv-conf", Text, Field("resolvConf"), "what pods' resolv.conf is made from [/etc/resolv.conf]"),
    flag(
        "cgroup-driver",
        Text,
        Field("cgroupDriver"),
        "cgroupfs or systemd; a runtime that tells its own is followed",
    ),
    flag("cgroup-root", Text, Field("cgroupRoot"), "the cgroup under which pods live"),
    flag("address", Text, Field("address"), "where the node's server listens [0.0.0.0]"),
    flag("port", Number, Field("port"), "on which port [10250]"),
    flag("healthz-bind-address", Text, Field("healthzBindAddress"), "where /healthz is answered [127.0.0.1]"),
    flag("healthz-port", Number, Field("healthzPort"), "on which port; 0 is nowhere [10248]"),
    flag(
        "client-ca-file",
        Text,
        Field("authentication.x509.clientCAFile"),
        "who signs the certificates of callers [the kubeconfig's authority]",
    ),
    flag(
        "rotate-certificates",
        Switch,
        Field("rotateCertificates"),
        "renew the client certificate while it is in use [false]",
    ),
    flag(
        "rotate-server-certificates",
        Switch,
        Field("serverTLSBootstrap"),
        "ask the cluster for a serving certificate, and renew it [false]",
    ),
    flag(
        "tls-cert-file",
        Text,
        Field("tlsCertFile"),
        "what the node's server shows; with --tls-private-key-file",
    ),
    flag("tls-private-key-file", Text, Field("tlsPrivateKeyFile"), "its key"),
    flag(
        "node-status-update-frequency",
        Text,
        Field("nodeStatusUpdateFrequency"),
        "how often the node looks at itself [10s]",
    ),
    flag("serialize-image-pulls", Switch, Field("serializeImagePulls"), "pull one image at a time"),
    flag(
        "seccomp-default",
        Switch,
        Field("seccompDefault"),
        "the runtime's seccomp profile for containers that name none [false]",
    ),
    flag("fail-swap-on", Switch, Field("failSwapOn"), "refuse a machine with swap [false]"),
    flag("fail-cgroupv1", Switch, Field("failCgroupV1"), "refuse a machine with cgroup v1 [false]"),
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
    flag(
        "anonymous-auth",
        Switch,
        Field("authentication.anonymous.enabled"),
        "only false: nobody is anonymous",
    ),
    flag(
        "authentication-token-webhook",
        Switch,
        Field("authentication.webhook.enabled"),
        "only true: tokens are reviewed by the API server",
    ),
    flag(
        "authorization-mode",
        Text,
        Field("authorization.mode"),
        "only Webhook: the API server says who may what",
    ),
    flag("read-only-port", Number, Field("readOnlyPort"), "only 0: there is no port without authentication"),
    flag("cgroups-per-qos", Switch, Field("cgroupsPerQOS"), "only true"),
    flag("enforce-node-allocatable", List, Field("enforceNodeAllocatable"), "only pods"),
    flag("feature-gates", Map, Field("featureGates"), "only gates that say what is so anyway"),
    flag("cloud-provider", Text, Alone("cloud-provider"), "only empty"),
    flag(
        "pod-infra-container-image",
        Text,
        Alone("moot"),
        "no difference: the runtime knows its sandbox image",
    ),
    flag("runtime-cgroups", Text, Alone("moot"), "no difference: the runtime's own use is not measured"),
    flag("volume-plugin-dir", Text, Field("volumePluginDir"), "no difference: there are no FlexVolumes"),
    flag(
        "sync-frequency",
        Text,
        Field("syncFrequency"),
        "no difference: a pod is looked at when something of it changes",
    ),
    flag(
        "file-check-frequency",
        Text,
        Field("fileCheckFrequency"),
        "no difference: a changed manifest is noticed at once",
    ),
];

/// In upstream 1.36, and not here.
const REFUSED: &[&str] = &[
    "allowed-unsafe-sysctls",
    "authentication-token-webhook-cache-ttl",
    "authorization-webhook-cache-authorized-ttl",
    "authorization-webhook-cache-unauthorized-ttl",
    "config-dir",
    "container-log-max-files",
    "container-log-max-size",
    "contention-profiling",
    "cpu-cfs-quota",
    "cpu-cfs-quota-period",
    "cpu-manager-policy",
    "cpu-manager-policy-options",
    "cpu-manager-reconcile-period",
    "enable-controller-attach-detach",
    "enable-debugging-handlers",
    "enable-server",
    "event-burst",
    "event-qps",
    "eviction-hard",
    "eviction-max-pod-grace-period",
    "eviction-minimum-reclaim",
    "eviction-pressure-transition-period",
    "eviction-soft",
    "eviction-soft-grace-period",
    "exit-on-lock-contention",
    "experimental-allocatable-ignore-eviction",
    "experimental-mounter-path",
    "hairpin-mode",
    "http-check-frequency",
    "image-credential-provider-bin-dir",
    "image-credential-provider-config",
    "image-gc-high-threshold",
    "image-gc-low-threshold",
    "kernel-memcg-notification",
    "kube-api-burst",
    "kube-api-content-type",
    "kube-api-qps",
    "kube-reserved",
    "kube-reserved-cgroup",
    "kubelet-cgroups",
    "local-storage-capacity-isolation",
    "lock-file",
    "make-iptables-util-chains",
    "manifest-url",
    "manifest-url-header",
    "max-open-files",
    "maximum-dead-containers",
    "maximum-dead-containers-per-container",
    "memory-manager-policy",
    "minimum-container-ttl-duration",
    "minimum-image-ttl-duration",
    "node-status-max-images",
    "pod-cidr",
    "pod-max-pids",
    "pods-per-core",
    "protect-kernel-defaults",
    "provider-id",
    "qos-reserved",
    "registry-burst",
    "registry-qps",
    "reserved-cpus",
    "reserved-memory",
    "runonce",
    "runtime-request-timeout",
    "streaming-connection-idle-timeout",
    "system-cgroups",
    "system-reserved",
    "system-reserved-cgroup",
    "tls-cipher-suites",
    "tls-min-version",
    "topology-manager-policy",
    "topology-manager-policy-options",
    "topology-manager-scope",
    "vmodule",
    "volume-stats-agg-period",
];

const NOT_DONE: &[(&str, Option<&str>)] = &[
    ("containerLogMaxSize", None),
    ("containerLogMaxFiles", None),
    ("containerLogMaxWorkers", None),
    ("containerLogMonitorInterval", None),
    ("imageMinimumGCAge", None),
    ("imageGCHighThresholdPercent", Some("85")),
    ("imageGCLowThresholdPercent", None),
    ("imagePullCredentialsVerificationPolicy", Some("NeverVerifyPreloadedImages")),
    ("registryPullQPS", Some("5")),
    ("registryBurst", None),
    ("evictionHard", None),
    ("evictionPressureTransitionPeriod", None),
    ("protectKernelDefaults", None),
    ("localStorageCapacityIsolation", None),
];

/// Upstream's defaults where they are others than those of `CoracleConfiguration`.
fn base() -> Config {
    let mut config = Config {
        state_dir: "/var/lib/kubelet".into(),
        components: Components {
            kubelet: true,
            proxy: false,
            scheduler: false,
            controllers: false,
            dns: false,
        },
        ..Config::default()
    };
    config.network.provider = NetworkProvider::Runtime;
    config.node.certificate_dir = Some("/var/lib/kubelet/pki".into());
    config.kubelet.cluster_domain = String::new();
    config.kubelet.healthz = Some(SocketAddr::from(([127, 0, 0, 1], 10248)));
    config.kubelet.serving = Serving::SelfSigned;
    config.kubelet.renews_client_certificate = false;
    config.kubelet.oom_score_adj = Some(-999);
    config.kubelet.shutdown = Shutdown::ByClass { total: Duration::ZERO, critical: Some(Duration::ZERO) };
    config
}

pub(super) fn read(root: Node, given: &Given, mistakes: &mut Vec<Mistake>) -> Config {
    let mut config = base();
    alone(&mut config, given, mistakes);
    let no_host_resolvers =
        root.get("resolvConf").is_some_and(|node| node.value == Value::Text(String::new()));
    let mut section = Section::new(String::new(), root, mistakes);
    shared::kind(&mut section, FLAGS.kind, FLAGS.api_version);
    if no_host_resolvers {
        section.moot("resolvConf");
        config.kubelet.resolv_conf = None;
    }
    node_agent::read(&mut config, &mut section);
    set!(config.runtime.endpoint, section.parsed::<UnixSocket>("containerRuntimeEndpoint", "a unix socket"));
    let runtime = config.runtime.endpoint.clone();
    section.only(
        "imageServiceEndpoint",
        &[runtime.as_str()],
        "images come by the container runtime's endpoint",
    );
    callers(&mut config, &mut section);
    shared::logging(&mut config, section.section("logging"));
    shared::feature_gates(&mut section);
    eviction(&mut section);
    let mut swap = section.section("memorySwap");
    swap.only("swapBehavior", &["NoSwap"], "containers get no swap");
    swap.finish();
    let mut users = section.section("userNamespaces");
    users.only("idsPerPod", &["65536"], "ranges of user namespaces are not set here");
    users.finish();
    for (field, _why) in MOOT {
        section.moot(field);
    }
    fixed(&mut section, ONLY);
    section.finish();
    config
}

/// What only flags say.
fn alone(config: &mut Config, given: &Given, mistakes: &mut Vec<Mistake>) {
    let mut section = Section::new(String::new(), given.alone.clone(), mistakes);
    section.moot("config");
    section.moot("moot");
    config.node.kubeconfig = section.path("kubeconfig").map(PathBuf::from);
    config.node.bootstrap_kubeconfig = section.path("bootstrap-kubeconfig").map(PathBuf::from);
    set!(config.node.certificate_dir, section.path("cert-dir").map(|path| Some(PathBuf::from(path))));
    if let Some(root) = section.path("root-dir").map(PathBuf::from) {
        config.state_dir.clone_from(&root);
        config.kubelet.root_dir = root;
    }
    config.node.name = section.parsed::<NodeName>("hostname-override", "a node name").map(Into::into);
    config.node.ip = section.parsed::<HostAddress>("node-ip", "an IP address of this machine").map(|ip| ip.0);
    for (key, value) in section.texts("node-labels").into_iter().flatten() {
        if let Some(mistake) = forms::label_mistake(&key, &value) {
            section.mistake(0, "node-labels", format!("\"{key}\" {mistake}"));
        }
        config.node.labels.insert(key, value);
    }
    section.only("cloud-provider", &[], "no cloud's controller is waited for");
    if config.node.kubeconfig.is_none() {
        let text = "is needed: a kubelet without a cluster is not there; name the kubeconfig of this node, or the file that \
                    --bootstrap-kubeconfig is to make";
        section.mistake(0, "kubeconfig", text);
    }
    section.finish();
}

/// Who may call the node's server: never by less than upstream's secure defaults.
fn callers(config: &mut Config, section: &mut Section<'_>) {
    let mut authentication = section.section("authentication");
    let mut x509 = authentication.section("x509");
    set!(config.kubelet.client_authority, x509.path("clientCAFile").map(|path| Some(PathBuf::from(path))));
    x509.finish();
    let mut webhook = authentication.section("webhook");
    webhook.only("enabled", &["true"], "tokens are reviewed by the API server");
    webhook.only("cacheTTL", &["2m"], "an answer about a token is remembered for two minutes");
    webhook.finish();
    let mut anonymous = authentication.section("anonymous");
    anonymous.only("enabled", &["false"], "nobody is anonymous");
    anonymous.finish();
    authentication.finish();
    let mut authorization = section.section("authorization");
    authorization.only("mode", &["Webhook"], "the API server says who may what");
    let mut webhook = authorization.section("webhook");
    webhook.only("cacheAuthorizedTTL", &["5m"], "a yes is remembered for five minutes");
    webhook.only("cacheUnauthorizedTTL", &["30s"], "a no is remembered for half a minute");
    webhook.finish();
    authorization.finish();
}

/// The thresholds at which the node says that it is under pressure; nothing is evicted yet.
fn eviction(section: &mut Section<'_>) {
    const HARD: &[(&str, &str)] = &[
        ("memory.available", "100Mi"),
        ("nodefs.available", "10%"),
        ("nodefs.inodesFree", "5%"),
        ("imagefs.available", "15%"),
        ("imagefs.inodesFree", "5%"),
    ];
    if let Some(named) = section.keys("evictionHard") {
        let missing: Vec<&str> = HARD
            .iter()
            .map(|(signal, _)| *signal)
            .filter(|signal| !named.iter().any(|it| it == signal))
            .collect();
        if !missing.is_empty() {
            let text = format!(
                "would switch the thresholds off that it does not name, which are not settable yet; name {} too, or take it out",
                missing.join(", ")
            );
            section.mistake(section.line_of("evictionHard"), "evictionHard", text);
        }
    }
    section.judged("evictionHard", |signal, said| match HARD.iter().find(|(known, _)| *known == signal) {
        Some((_, default)) if *default == said => None,
        Some((_, default)) => Some(format!(
            "cannot be {said}: thresholds are not settable yet; only {default} can be set, or nothing"
        )),
        None => Some("thresholds are not settable yet; take it out".to_string()),
    });
}

/// Fields that make no difference here, and why.
const MOOT: &[(&str, &str)] = &[
    ("syncFrequency", "a pod is looked at when something of it changes"),
    ("fileCheckFrequency", "a changed manifest is noticed at once"),
    ("httpCheckFrequency", "only of use with staticPodURL, which is refused"),
    ("volumeStatsAggPeriod", "volumes are not measured in turns"),
    ("cpuManagerReconcilePeriod", "only of use with a cpuManagerPolicy, which is refused"),
    ("contentType", "both forms say the same"),
    ("hairpinMode", "without effect in upstream too: the network is the runtime's"),
    ("makeIPTablesUtilChains", "no rules are made by the node agent"),
    ("iptablesMasqueradeBit", "as above"),
    ("iptablesDropBit", "as above"),
    ("volumePluginDir", "there are no FlexVolumes"),
    ("kernelMemcgNotification", "only of use with eviction by threshold"),
    ("enableContentionProfiling", "there are no profiling handlers"),
    ("enableProfilingHandler", "as above"),
    ("enableDebugFlagsHandler", "there is no such handler"),
    ("enableSystemLogHandler", "there is no such handler"),
];

/// Fields that may say what is so anyway, or upstream's default (see [`NOT_DONE`]), or that the thing is off where it is not there.
const ONLY: &[Fixed] = &[
    ("enableServer", &["true"], "the node's server always runs"),
    ("enableDebuggingHandlers", &["true"], "logs and exec are always served"),
    ("enableSystemLogQuery", &["false"], "logs of the machine are not served"),
    ("readOnlyPort", &["0"], "there is no port without authentication"),
    ("staticPodURL", &[], "manifests come from a directory"),
    ("staticPodURLHeader", &[], "manifests come from a directory"),
    ("tlsCipherSuites", &[], "suites are those that rustls holds safe"),
    ("tlsCurvePreferences", &[], "curves are those that rustls holds safe"),
    ("tlsMinVersion", &["VersionTLS12"], "TLS 1.2 and 1.3 are spoken"),
    ("registryPullQPS", &["5", "0"], "pulls are bounded by maxParallelImagePulls"),
    ("registryBurst", &["10"], "pulls are bounded by maxParallelImagePulls"),
    (
        "imagePullCredentialsVerificationPolicy",
        &["NeverVerify", "NeverVerifyPreloadedImages"],
        "there is no such check yet",
    ),
    ("preloadedImagesVerificationAllowlist", &[], "there is no such check yet"),
    ("eventRecordQPS", &["50"], "its rate is not settable"),
    ("eventBurst", &["100"], "its rate is not settable"),
    ("kubeAPIQPS", &["50"], "its rate is not settable"),
    ("kubeAPIBurst", &["100"], "its rate is not settable"),
    ("streamingConnectionIdleTimeout", &["4h"], "it is the runtime's"),
    ("imageMinimumGCAge", &["2m"], "images are not collected yet"),
    ("imageMaximumGCAge", &[], "images are not collected yet"),
    ("imageGCHighThresholdPercent", &["85", "100"], "images are not collected yet"),
    ("imageGCLowThresholdPercent", &["80"], "images are not collected yet"),
    ("kubeletCgroups", &[], "the process stays in the cgroup that it was started in"),
    ("systemCgroups", &[], "other processes are left where they are"),
    ("cgroupsPerQOS", &["true"], "pods live in cgroups by their class"),
    ("cpuManagerPolicy", &["none"], "there are no exclusive processors yet"),
    ("cpuManagerPolicyOptions", &[], "there are no exclusive processors yet"),
    ("memoryManagerPolicy", &["None"], "memory is not pinned yet"),
    ("reservedMemory", &[], "memory is not pinned yet"),
    ("topologyManagerPolicy", &["none"], "topology is not looked at yet"),
    ("topologyManagerScope", &["container"], "topology is not looked at yet"),
    ("topologyManagerPolicyOptions", &[], "topology is not looked at yet"),
    ("qosReserved", &[], "it is not there yet"),
    ("singleProcessOOMKill", &["true"], "only the process that runs out of memory is killed"),
    ("runtimeRequestTimeout", &["2m"], "each request has a deadline of its own"),
    ("podCIDR", &[], "the network is the runtime's"),
    ("podPidsLimit", &["-1"], "processes of pods are not bounded yet"),
    ("runOnce", &["false"], "it runs until told to stop"),
    ("cpuCFSQuota", &["true"], "limits are enforced"),
    ("cpuCFSQuotaPeriod", &["100ms"], "the period is 100ms"),
    ("nodeStatusMaxImages", &["50"], "fifty images are shown"),
    (
        "maxOpenFiles",
        &["1000000"],
        "it is a million, or as many as its service manager lets it have (LimitNOFILE)",
    ),
    ("evictionSoft", &[], "thresholds are not settable yet"),
    ("evictionSoftGracePeriod", &[], "thresholds are not settable yet"),
    ("evictionPressureTransitionPeriod", &["5m"], "thresholds are not settable yet"),
    ("evictionMaxPodGracePeriod", &[], "thresholds are not settable yet"),
    ("evictionMinimumReclaim", &[], "thresholds are not settable yet"),
    ("mergeDefaultEvictionSettings", &["false"], "thresholds are not settable yet"),
    ("podsPerCore", &[], "maxPods bounds them"),
    ("enableControllerAttachDetach", &["true"], "volumes are attached by the controller"),
    ("protectKernelDefaults", &["false"], "`coracle doctor` looks at the kernel's settings"),
    ("containerLogMaxSize", &["10Mi"], "logs are not rotated yet"),
    ("containerLogMaxFiles", &["5"], "logs are not rotated yet"),
    ("containerLogMaxWorkers", &["1"], "logs are not rotated yet"),
    ("containerLogMonitorInterval", &["10s"], "logs are not rotated yet"),
    ("configMapAndSecretChangeDetectionStrategy", &["Watch"], "changes are watched"),
    ("systemReserved", &[], "reservations are not there yet"),
    ("kubeReserved", &[], "reservations are not there yet"),
    ("reservedSystemCPUs", &[], "reservations are not there yet"),
    ("systemReservedCgroup", &[], "reservations are not there yet"),
    ("kubeReservedCgroup", &[], "reservations are not there yet"),
    ("enforceNodeAllocatable", &["pods"], "reservations are not there yet"),
    ("showHiddenMetricsForVersion", &[], "no metrics are hidden"),
    ("allowedUnsafeSysctls", &[], "only safe sysctls are let through"),
    ("providerID", &[], "it is not there yet"),
    ("memoryThrottlingFactor", &["0.9"], "memory is not throttled"),
    ("memoryReservationPolicy", &["None"], "memory is not reserved"),
    ("tracing", &[], "traces are not exported"),
    ("localStorageCapacityIsolation", &["true"], "what pods write is not bounded yet"),
];
