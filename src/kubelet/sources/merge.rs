//! What should run here, from all that the sources say.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    pods::{self, PodName, PodUid, annotation, annotations},
    worker::Desired,
};

/// All of a source, or `None` until it has told all it has.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub api: Option<Vec<Arc<Pod>>>,
    pub files: Option<Vec<Arc<Pod>>>,
}

/// What the API should show of static pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorPlan {
    /// Static pods without a mirror.
    pub create: Vec<Arc<Pod>>,
    /// Mirrors of no static pod, or of an older content: name and UID.
    pub delete: Vec<(PodName, PodUid)>,
}

pub fn merge(sources: &Sources) -> (Desired, MirrorPlan) {
    let mut wanted = BTreeMap::new();
    let mut files: BTreeMap<PodName, &Arc<Pod>> = BTreeMap::new();
    for pod in sources.files.iter().flatten() {
        wanted.insert(PodUid::of(pod), pod.clone());
        files.insert(PodName::of(pod), pod);
    }
    let mut mirrors: BTreeMap<PodName, &Arc<Pod>> = BTreeMap::new();
    for pod in sources.api.iter().flatten() {
        if pods::is_mirror(pod) {
            mirrors.insert(PodName::of(pod), pod);
        } else {
            wanted.insert(PodUid::of(pod), pod.clone());
        }
    }
    let synced = sources.api.is_some() && sources.files.is_some();
    let mut plan = MirrorPlan::default();
    if synced {
        for (name, pod) in &files {
            if !mirrors.contains_key(name) {
                plan.create.push((*pod).clone());
            }
        }
        for (name, mirror) in &mirrors {
            let current = files.get(name).is_some_and(|pod| mirrors_content(mirror, pod));
            if !current || mirror.metadata.deletion_timestamp.is_some() {
                plan.delete.push((name.clone(), PodUid::of(mirror)));
            }
        }
    }
    (Desired { pods: wanted, synced }, plan)
}

/// Does `mirror` show this content?
pub fn mirrors_content(mirror: &Pod, pod: &Pod) -> bool {
    annotation(mirror, annotations::CONFIG_MIRROR) == Some(PodUid::of(pod).as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, uid: &str, marks: serde_json::Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": uid, "annotations": marks}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn mirrors_follow_static_pods_and_never_run() {
        let file = |name: &str, uid: &str| pod(name, uid, json!({"kubernetes.io/config.source": "file"}));
        let mirror =
            |name: &str, uid: &str, of: &str| pod(name, uid, json!({"kubernetes.io/config.mirror": of}));
        let sources = Sources {
            api: Some(vec![
                pod("web", "1", json!({})),
                mirror("kept", "2", "h1"),
                mirror("old", "3", "h0"),
                mirror("gone", "4", "h9"),
            ]),
            files: Some(vec![file("kept", "h1"), file("old", "h2"), file("new", "h3")]),
        };
        let (desired, plan) = merge(&sources);
        let uids: Vec<&str> = desired.pods.keys().map(PodUid::as_str).collect();
        assert_eq!(uids, ["1", "h1", "h2", "h3"]);
        assert_eq!(plan.create.iter().map(|pod| PodName::of(pod).name).collect::<Vec<_>>(), ["new"]);
        assert_eq!(
            plan.delete.iter().map(|(name, _)| name.name.as_str()).collect::<Vec<_>>(),
            ["gone", "old"]
        );
    }

    #[test]
    fn until_all_sources_have_told_nothing_is_unwanted() {
        let (desired, plan) = merge(&Sources { api: None, files: Some(Vec::new()) });
        assert!(!desired.synced);
        assert_eq!(plan, MirrorPlan::default());
    }
}
