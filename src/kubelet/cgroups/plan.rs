//! Where a pod's cgroup is, what limits it has, and which files say so.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, path::PathBuf};

use api::{pods::QosClass, quantity::Quantity};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity as Text};

use super::Version;
use crate::{
    config::CgroupDriver,
    pods::{self, PodUid},
    resources::{quota, shares},
};

pub(super) const PERIOD_US: i64 = 100_000;
/// What a best-effort pod gets, and all of them together.
pub const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;

/// The three places that pods live in, and the files' names for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    Guaranteed,
    Burstable,
    BestEffort,
}

pub const TIERS: [Tier; 3] = [Tier::Guaranteed, Tier::Burstable, Tier::BestEffort];

impl Tier {
    pub fn of(pod: &Pod) -> Tier {
        match api::pods::qos_class(pod) {
            QosClass::Guaranteed => Tier::Guaranteed,
            QosClass::Burstable => Tier::Burstable,
            QosClass::BestEffort => Tier::BestEffort,
        }
    }

    fn segment(self) -> Option<&'static str> {
        match self {
            Tier::Guaranteed => None,
            Tier::Burstable => Some("burstable"),
            Tier::BestEffort => Some("besteffort"),
        }
    }
}

/// How this node writes cgroup names.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The configured root, as segments.
    root: Vec<String>,
    driver: CgroupDriver,
}

const POD: &str = "pod";

impl Naming {
    pub fn new(root: &str, driver: CgroupDriver) -> Naming {
        let root = root.split('/').filter(|segment| !segment.is_empty()).map(String::from).collect();
        Naming { root, driver }
    }

    /// The directory of all pods, relative to a controller's mount.
    pub fn kubepods(&self) -> PathBuf {
        self.path(&[])
    }

    pub fn tier(&self, tier: Tier) -> PathBuf {
        self.path(tier.segment().as_slice())
    }

    pub fn pod(&self, tier: Tier, uid: &PodUid) -> PathBuf {
        let own = format!("{POD}{uid}");
        match tier.segment() {
            Some(segment) => self.path(&[segment, &own]),
            None => self.path(&[&own]),
        }
    }

    /// The pod whose cgroup is the directory of this name, directly below its tier.
    pub fn uid_of(&self, directory: &str) -> Option<PodUid> {
        let uid = match self.driver {
            CgroupDriver::Cgroupfs => directory.strip_prefix(POD)?.to_string(),
            CgroupDriver::Systemd => {
                let name = directory.strip_suffix(".slice")?;
                // A UID holds no other dashes than those that were written as underscores.
                name.rsplit('-').next()?.strip_prefix(POD)?.replace('_', "-")
            }
        };
        (!uid.is_empty()).then(|| PodUid::from(uid.as_str()))
    }

    /// In the runtime's notation: it takes a systemd slice by its last name alone.
    pub fn parent_for_runtime(&self, tier: Tier, uid: &PodUid) -> String {
        let path = self.pod(tier, uid);
        match self.driver {
            CgroupDriver::Cgroupfs => format!("/{}", path.display()),
            CgroupDriver::Systemd => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
        }
    }

    fn path(&self, below: &[&str]) -> PathBuf {
        let segments = self.root.iter().map(String::as_str).chain(["kubepods"]).chain(below.iter().copied());
        match self.driver {
            CgroupDriver::Cgroupfs => segments.collect(),
            CgroupDriver::Systemd => slices(segments),
        }
    }
}

/// `a.slice/a-b.slice/a-b-c.slice`: systemd's place for the slice `a-b-c`. A dash would be one more level.
fn slices<'a>(segments: impl Iterator<Item = &'a str>) -> PathBuf {
    let mut path = PathBuf::new();
    let mut name = String::new();
    for segment in segments {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&segment.trim_end_matches(".slice").replace('-', "_"));
        path.push(format!("{name}.slice"));
    }
    path
}

/// What a pod may use as a whole. `None` leaves the kernel's default, which is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<i64>,
    pub cpu_quota_us: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub pids: Option<i64>,
    /// By page size in the kernel's spelling (`2MB`).
    pub hugepages: BTreeMap<String, i64>,
}

/// A limit holds for the pod only if each of its containers has one, or the pod itself.
pub fn limits(pod: &Pod, pids: Option<i64>) -> Limits {
    let (requests, limits) = (api::pods::requests(pod), api::pods::limits(pod));
    let tier = Tier::of(pod);
    if tier == Tier::BestEffort {
        return Limits { cpu_shares: Some(LEAST_SHARES), pids, ..Limits::default() };
    }
    let declared = |resource: &str| {
        tier == Tier::Guaranteed
            || pod_limit(pod, resource)
            || pods::all_containers(pod).all(|container| {
                let limits = container.resources.as_ref().and_then(|it| it.limits.as_ref());
                limits.is_some_and(|limits| is_set(limits.get(resource)))
            })
    };
    let cpu = requests.get("cpu").map_or(0, Quantity::milli_value);
    let quota = limits.get("cpu").map(|cpu| quota(cpu.milli_value())).filter(|quota| *quota > 0);
    let memory = limits.get("memory").map(Quantity::value).filter(|bytes| *bytes > 0);
    let hugepages = requests.iter().filter_map(|(name, amount)| {
        let size = name.strip_prefix("hugepages-")?.parse::<Quantity>().ok()?.value();
        Some((crate::resources::kernel_size(size), amount.value()))
    });
    Limits {
        cpu_shares: Some(shares(cpu)),
        cpu_quota_us: quota.filter(|_| declared("cpu")),
        memory_bytes: memory.filter(|_| declared("memory")),
        pids,
        hugepages: hugepages.collect(),
    }
}

fn pod_limit(pod: &Pod, resource: &str) -> bool {
    let resources = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    is_set(resources.and_then(|resources| resources.limits.as_ref()?.get(resource)))
}

fn is_set(amount: Option<&Text>) -> bool {
    amount.and_then(|text| Quantity::try_from(text).ok()).is_some_and(|amount| !amount.is_zero())
}

/// One value of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
}

/// In the order that they are written.
pub fn settings(version: Version, limits: &Limits) -> Vec<Setting> {
    let set = |controller, file: &str, value: String| Setting { controller, file: file.into(), value };
    let mut all = Vec::new();
    match version {
        Version::V1 => {
            all.extend(limits.cpu_shares.map(|it| set("cpu", "cpu.shares", it.to_string())));
            if let Some(quota) = limits.cpu_quota_us {
                all.push(set("cpu", "cpu.cfs_period_us", PERIOD_US.to_string()));
                all.push(set("cpu", "cpu.cfs_quota_us", quota.to_string()));
            }
            all.extend(limits.memory_bytes.map(|it| set("memory", "memory.limit_in_bytes", it.to_string())));
        }
        Version::V2 => {
            all.extend(limits.cpu_shares.map(|it| set("cpu", "cpu.weight", weight(it).to_string())));
            all.extend(limits.cpu_quota_us.map(|it| set("cpu", "cpu.max", format!("{it} {PERIOD_US}"))));
            all.extend(limits.memory_bytes.map(|it| set("memory", "memory.max", it.to_string())));
        }
    }
    all.extend(limits.pids.map(|it| set("pids", "pids.max", it.to_string())));
    for (size, bytes) in &limits.hugepages {
        let file = match version {
            Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
            Version::V2 => format!("hugetlb.{size}.max"),
        };
        all.push(set("hugetlb", &file, bytes.to_string()));
    }
    all
}

/// v1's shares as v2's weight, by the curve through (2, 1), (1024, 100) and (262144, 10000) that runc uses.
pub fn weight(shares: i64) -> i64 {
    if shares <= LEAST_SHARES {
        return 1;
    }
    if shares >= MOST_SHARES {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "bounded above")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, reason = "between 1 and 10000")]
    let weight = 10_f64.powf(exponent).ceil() as i64;
    weight
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u-1"}, "spec": {"containers": containers}}))
            .unwrap()
    }

    fn written(version: Version, pod: &Pod) -> Vec<String> {
        let settings = settings(version, &limits(pod, Some(100)));
        settings.iter().map(|it| format!("{} {}={}", it.controller, it.file, it.value)).collect()
    }

    #[test]
    fn a_pod_lives_in_the_tier_of_its_quality_of_service() {
        let both = json!({"cpu": "1", "memory": "64Mi"});
        let guaranteed = pod(json!([{"name": "a", "resources": {"limits": both, "requests": both}}]));
        let burstable = pod(json!([{"name": "a", "resources": {"requests": {"cpu": "1"}}}]));
        let best_effort = pod(json!([{"name": "a"}]));
        let uid = PodUid::from("u-1");
        for (pod, plain, slice) in [
            (&guaranteed, "/x/kubepods/podu-1", "x-kubepods-podu_1.slice"),
            (&burstable, "/x/kubepods/burstable/podu-1", "x-kubepods-burstable-podu_1.slice"),
            (&best_effort, "/x/kubepods/besteffort/podu-1", "x-kubepods-besteffort-podu_1.slice"),
        ] {
            let tier = Tier::of(pod);
            assert_eq!(Naming::new("/x", CgroupDriver::Cgroupfs).parent_for_runtime(tier, &uid), plain);
            let systemd = Naming::new("/x", CgroupDriver::Systemd);
            assert_eq!(systemd.parent_for_runtime(tier, &uid), slice);
            assert_eq!(systemd.uid_of(slice), Some(uid.clone()));
        }
        let systemd = Naming::new("/", CgroupDriver::Systemd);
        let path = systemd.pod(Tier::Burstable, &uid);
        let expected = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podu_1.slice";
        assert_eq!(path, PathBuf::from(expected));
        assert_eq!(systemd.uid_of("kubepods-burstable.slice"), None);
        assert_eq!(Naming::new("/", CgroupDriver::Cgroupfs).uid_of("burstable"), None);
    }

    #[test]
    fn limits_hold_for_the_pod_when_every_container_has_them() {
        let full = json!({"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"cpu": "100m", "memory": "1Mi"}});
        let all = pod(json!([{"name": "a", "resources": full}, {"name": "b", "resources": full}]));
        assert_eq!(
            written(Version::V1, &all),
            [
                "cpu cpu.shares=204",
                "cpu cpu.cfs_period_us=100000",
                "cpu cpu.cfs_quota_us=50000",
                "memory memory.limit_in_bytes=134217728",
                "pids pids.max=100",
            ]
        );
        assert_eq!(
            written(Version::V2, &all),
            [
                "cpu cpu.weight=29",
                "cpu cpu.max=50000 100000",
                "memory memory.max=134217728",
                "pids pids.max=100"
            ]
        );
        let half = pod(json!([{"name": "a", "resources": full}, {"name": "b"}]));
        assert_eq!(written(Version::V1, &half), ["cpu cpu.shares=102", "pids pids.max=100"]);
        assert_eq!(
            written(Version::V1, &pod(json!([{"name": "a"}]))),
            ["cpu cpu.shares=2", "pids pids.max=100"]
        );
    }

    #[test]
    fn a_limit_of_the_pod_itself_holds_for_all() {
        let mut pod = pod(json!([{"name": "a"}, {"name": "b"}]));
        pod.spec.as_mut().unwrap().resources =
            serde_json::from_value(json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}))
                .unwrap();
        assert!(written(Version::V2, &pod).contains(&"memory memory.max=1073741824".to_string()));
    }

    #[test]
    fn weights_are_runcs() {
        for (shares, expected) in [(0, 1), (2, 1), (3, 2), (1024, 100), (2048, 174), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
    }
}
