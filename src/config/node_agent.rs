//! The fields of a node agent that `CoracleConfiguration` and `KubeletConfiguration` call by the same names.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{
    CgroupDriver, Config, Serving, Shutdown, ShutdownPeriod, Taint, TaintEffect,
    forms::{self, Subdomain},
    section::{Section, set},
};

/// Upstream's place for it, in either kind of configuration.
const HEALTHZ_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const BY_PRIORITY: &str = "shutdownGracePeriodByPodPriority";
/// A day.
const LONGEST_SHUTDOWN_S: i64 = 86_400;

/// Reads them; what the section does not say stays as it is.
pub(crate) fn read(config: &mut Config, section: &mut Section<'_>) {
    let kubelet = &mut config.kubelet;
    set!(kubelet.pod_logs_dir, section.path("podLogsDir"));
    kubelet.static_pod_path =
        section.path("staticPodPath").map(Into::into).or(kubelet.static_pod_path.take());
    set!(kubelet.cgroup_root, section.path("cgroupRoot"));
    let drivers = [("cgroupfs", CgroupDriver::Cgroupfs), ("systemd", CgroupDriver::Systemd)];
    set!(kubelet.cgroup_driver, section.choice("cgroupDriver", &drivers));
    set!(kubelet.address, section.parsed::<IpAddr>("address", "an IP address"));
    set!(kubelet.port, section.number::<u16>("port", 1, 65535));
    set!(kubelet.max_pods, section.number::<u32>("maxPods", 1, 10_000));
    if let Some(addresses) = section.parsed_list("clusterDNS", "an IP address") {
        kubelet.cluster_dns = addresses;
    }
    set!(kubelet.cluster_domain, section.parsed::<Subdomain>("clusterDomain", "a domain"));
    set!(kubelet.resolv_conf, section.path("resolvConf").map(|path| Some(PathBuf::from(path))));
    healthz(config, section);
    certificates(config, section);
    pace(config, section);
    registration(config, section);
    shutdown(config, section);
    set!(config.kubelet.seccomp_default, section.bool("seccompDefault"));
    set!(config.kubelet.refuses_swap, section.bool("failSwapOn"));
    set!(config.kubelet.refuses_cgroup_v1, section.bool("failCgroupV1"));
    let score = section.number::<i16>("oomScoreAdj", -1000, 1000);
    config.kubelet.oom_score_adj = score.or(config.kubelet.oom_score_adj);
}

/// Port 0 is nowhere; an address without a port means upstream's.
fn healthz(config: &mut Config, section: &mut Section<'_>) {
    let address = section.parsed::<IpAddr>("healthzBindAddress", "an IP address");
    let port = section.number::<u16>("healthzPort", 0, 65535);
    if address.is_none() && port.is_none() {
        return;
    }
    let before = config.kubelet.healthz.unwrap_or(SocketAddr::new(HEALTHZ_ADDRESS, 10248));
    let (address, port) = (address.unwrap_or(before.ip()), port.unwrap_or(before.port()));
    config.kubelet.healthz = (port != 0).then_some(SocketAddr::new(address, port));
}

fn certificates(config: &mut Config, section: &mut Section<'_>) {
    let kubelet = &mut config.kubelet;
    set!(kubelet.renews_client_certificate, section.bool("rotateCertificates"));
    match section.bool("serverTLSBootstrap") {
        Some(true) => kubelet.serving = Serving::Requested,
        Some(false) if kubelet.serving == Serving::Requested => kubelet.serving = Serving::SelfSigned,
        _ => {}
    }
    let certificate = section.path("tlsCertFile");
    let key = section.path("tlsPrivateKeyFile");
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            kubelet.serving = Serving::Files { certificate: certificate.into(), key: key.into() };
        }
        (None, None) => {}
        (certificate, _) => {
            let lacks = if certificate.is_some() { "tlsPrivateKeyFile" } else { "tlsCertFile" };
            section.mistake(section.line(), lacks, "a certificate and its key go together: name both files");
        }
    }
}

fn pace(config: &mut Config, section: &mut Section<'_>) {
    let kubelet = &mut config.kubelet;
    let follows = section.is_in_file("nodeStatusUpdateFrequency");
    let update = section.duration("nodeStatusUpdateFrequency");
    if update == Some(Duration::ZERO) {
        section.mistake(section.line(), "nodeStatusUpdateFrequency", "must be longer than nothing");
    }
    let report = section.duration("nodeStatusReportFrequency");
    // As upstream: who wants to be asked more often means to be heard more often, if a file says so.
    set!(kubelet.status_report, report.or(update.filter(|_| follows)));
    set!(kubelet.status_update, update);
    let lease = section.number::<u32>("nodeLeaseDurationSeconds", 1, 86_400);
    set!(kubelet.lease, lease.map(|seconds| Duration::from_secs(seconds.into())));
    let serial = section.bool("serializeImagePulls");
    let parallel = section.number::<u16>("maxParallelImagePulls", 1, 1000);
    match (serial, parallel) {
        (Some(true), Some(2..)) => section.mistake(
            section.line(),
            "maxParallelImagePulls",
            "is more than 1, but serializeImagePulls is true; keep one of them",
        ),
        (Some(true), _) => kubelet.parallel_image_pulls = 1,
        (_, Some(many)) => kubelet.parallel_image_pulls = many.into(),
        (_, None) => {}
    }
    let mut crash_loop = section.section("crashLoopBackOff");
    let longest = crash_loop.duration("maxContainerRestartPeriod");
    match longest {
        Some(longest) if longest.is_zero() || longest > Duration::from_secs(300) => {
            crash_loop.mistake(crash_loop.line(), "maxContainerRestartPeriod", "must be between 1s and 300s");
        }
        longest => set!(kubelet.longest_restart_delay, longest),
    }
    crash_loop.finish();
}

/// One form takes the place of the other; upstream's own files say "none" in the simple one beside the other.
fn shutdown(config: &mut Config, section: &mut Section<'_>) {
    const SIMPLE: [&str; 2] = ["shutdownGracePeriod", "shutdownGracePeriodCriticalPods"];
    let lines = SIMPLE.map(|field| section.line_of(field));
    let said = SIMPLE.map(|field| section.duration(field));
    let line = section.line_of(BY_PRIORITY);
    let mut periods: Vec<ShutdownPeriod> = Vec::new();
    section.sections(BY_PRIORITY, |mut period| {
        let priority = period.number::<i32>("priority", i32::MIN.into(), i32::MAX.into()).unwrap_or(0);
        let seconds = period.number::<u32>("shutdownGracePeriodSeconds", 0, LONGEST_SHUTDOWN_S);
        if periods.iter().any(|other| other.priority == priority) {
            period.mistake(period.line(), "priority", format!("{priority} stands twice; keep one of them"));
        }
        periods.push(ShutdownPeriod { priority, length: Duration::from_secs(seconds.unwrap_or(0).into()) });
        period.finish();
    });
    if !periods.is_empty() {
        if said.iter().flatten().any(|said| !said.is_zero()) {
            section.mistake(line, BY_PRIORITY, "goes with no shutdownGracePeriod; keep one of them");
        }
        config.kubelet.shutdown = Shutdown::ByPriority(periods);
        return;
    }
    let [total, critical] = said;
    if total.is_none() && critical.is_none() {
        return;
    }
    let (total_before, critical_before) = match config.kubelet.shutdown {
        Shutdown::ByClass { total, critical } => (total, critical),
        Shutdown::ByPriority(_) => (Duration::ZERO, Some(Duration::ZERO)),
    };
    let (total, critical) = (total.unwrap_or(total_before), critical.or(critical_before));
    if critical.is_some_and(|critical| critical > total) {
        let text = format!("must not be longer than shutdownGracePeriod, which is {}s", total.as_secs());
        section.mistake(lines[1], SIMPLE[1], text);
    }
    if total.as_secs() > LONGEST_SHUTDOWN_S.unsigned_abs() {
        section.mistake(lines[0], SIMPLE[0], "must not be longer than a day");
    }
    config.kubelet.shutdown = Shutdown::ByClass { total, critical };
}

fn registration(config: &mut Config, section: &mut Section<'_>) {
    set!(config.node.register, section.bool("registerNode"));
    let mut taints = Vec::new();
    let said = section.sections("registerWithTaints", |mut taint| {
        let effects = [TaintEffect::NoSchedule, TaintEffect::PreferNoSchedule, TaintEffect::NoExecute];
        let (key, value) = (taint.text("key").unwrap_or_default(), taint.text("value").unwrap_or_default());
        if let Some(mistake) = forms::label_mistake(&key, &value) {
            taint.mistake(taint.line(), "key", format!("\"{key}\" {mistake}"));
        }
        match taint.choice("effect", &effects.map(|effect| (effect.as_str(), effect))) {
            Some(effect) => taints.push(Taint { key, value, effect }),
            None => taint.mistake(
                taint.line(),
                "effect",
                "a taint has an effect: NoSchedule, PreferNoSchedule or NoExecute",
            ),
        }
        // When it was set, which only the API server writes.
        taint.moot("timeAdded");
        taint.finish();
    });
    if said {
        config.node.taints = taints;
    }
}
