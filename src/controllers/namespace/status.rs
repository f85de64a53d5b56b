//! What a namespace shows while it goes, in upstream's conditions.
#![deny(clippy::disallowed_methods)]

use std::{collections::BTreeMap, time::Duration};

use api::conditions;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

/// What one sweep left.
#[derive(Clone, Debug, Default)]
pub(super) struct Remaining {
    /// Objects by resource.
    pub(super) resources: BTreeMap<String, usize>,
    /// Objects by finalizer that holds them.
    pub(super) finalizers: BTreeMap<String, usize>,
    /// Group versions whose server does not answer.
    pub(super) undiscovered: Vec<String>,
    pub(super) failures: Vec<String>,
    /// The longest grace period of what is left.
    pub(super) grace: Duration,
}

impl Remaining {
    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }

    /// When to look again: upstream waits half of the grace period.
    pub(super) fn wait(&self) -> Duration {
        (self.grace / 2).clamp(Duration::from_secs(1), Duration::from_secs(15))
    }
}

/// The status with its conditions brought up to date, and whether anything changed.
pub(super) fn status(
    old: Option<&NamespaceStatus>,
    left: &Remaining,
    now: Timestamp,
) -> (NamespaceStatus, bool) {
    let mut status = old.cloned().unwrap_or_default();
    let mut changed = status.phase.as_deref() != Some("Terminating");
    status.phase = Some("Terminating".into());
    let counted = |counts: &BTreeMap<String, usize>, middle: &str| {
        let each = counts.iter().map(|(name, count)| format!("{name}{middle}{count} resource instances"));
        each.collect::<Vec<_>>().join(", ")
    };
    let resources = counted(&left.resources, ". has ");
    let finalizers = counted(&left.finalizers, " in ");
    let facts = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!left.undiscovered.is_empty()).then(|| {
                let (count, all) = (left.undiscovered.len(), left.undiscovered.join(", "));
                ("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {all}"))
            }),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!left.failures.is_empty()).then(|| {
                let (count, all) = (left.failures.len(), left.failures.join(", "));
                let words = format!("Failed to delete all resource types, {count} remaining: {all}");
                ("ContentDeletionFailed", words)
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!resources.is_empty())
                .then(|| ("SomeResourcesRemain", format!("Some resources are remaining: {resources}"))),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!finalizers.is_empty()).then(|| {
                let words = format!("Some content in the namespace has finalizers remaining: {finalizers}");
                ("SomeFinalizersRemain", words)
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    for (type_, bad, good) in facts {
        let (value, (reason, message)) = match bad {
            Some(bad) => (conditions::TRUE, bad),
            None => (conditions::FALSE, (good.0, good.1.to_string())),
        };
        let condition = NamespaceCondition {
            type_: type_.into(),
            status: value.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: None,
        };
        changed |= conditions::set(&mut status.conditions, condition, now);
    }
    (status, changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_upstreams_words() {
        let left = Remaining {
            resources: BTreeMap::from([("pods".into(), 2)]),
            finalizers: BTreeMap::from([("example.com/hold".into(), 1)]),
            ..Remaining::default()
        };
        let (told, changed) = status(None, &left, Timestamp::UNIX_EPOCH);
        assert!(changed);
        let conditions = told.conditions.as_ref().unwrap();
        let message = |type_| conditions::get(Some(conditions), type_).unwrap().message.clone().unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert!(!status(Some(&told), &left, Timestamp::UNIX_EPOCH).1);
    }
}
