//! Conditions: one list of named facts with the moment each last changed, on pods, nodes, workloads and the rest.
//!
//! The rule everywhere: `lastTransitionTime` moves only when `status` does.
#![deny(clippy::disallowed_methods)]

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition},
        batch::v1::JobCondition,
        core::v1::{NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition},
    },
    apimachinery::pkg::apis::meta::v1::{Condition as MetaCondition, Time},
};

pub const TRUE: &str = "True";
pub const FALSE: &str = "False";
pub const UNKNOWN: &str = "Unknown";

/// What every kind's condition has.
pub trait Condition: Clone + PartialEq {
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn message(&self) -> &str;
    fn last_transition_time(&self) -> Option<Timestamp>;
    fn set_last_transition_time(&mut self, at: Timestamp);
    /// Whether the two differ in more than their times.
    fn says_the_same(&self, other: &Self) -> bool {
        self.status() == other.status()
            && self.reason() == other.reason()
            && self.message() == other.message()
    }
}

macro_rules! condition {
    ($($kind:ty),*) => {$(
        impl Condition for $kind {
            fn type_(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> &str { self.reason.as_deref().unwrap_or_default() }
            fn message(&self) -> &str { self.message.as_deref().unwrap_or_default() }
            fn last_transition_time(&self) -> Option<Timestamp> {
                self.last_transition_time.as_ref().map(|time| time.0)
            }
            fn set_last_transition_time(&mut self, at: Timestamp) { self.last_transition_time = Some(Time(at)); }
        }
    )*};
}

condition!(
    PodCondition,
    NodeCondition,
    NamespaceCondition,
    PersistentVolumeClaimCondition,
    DeploymentCondition,
    ReplicaSetCondition,
    StatefulSetCondition,
    DaemonSetCondition,
    JobCondition
);

impl Condition for MetaCondition {
    fn type_(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn reason(&self) -> &str {
        &self.reason
    }
    fn message(&self) -> &str {
        &self.message
    }
    fn last_transition_time(&self) -> Option<Timestamp> {
        Some(self.last_transition_time.0)
    }
    fn set_last_transition_time(&mut self, at: Timestamp) {
        self.last_transition_time = Time(at);
    }
}

/// The condition of this type. Takes the API's optional list as it is: `status.conditions.as_deref()`.
pub fn get<'a, C: Condition>(conditions: Option<&'a [C]>, type_: &str) -> Option<&'a C> {
    conditions.unwrap_or_default().iter().find(|c| c.type_() == type_)
}

/// Whether the condition of this type is there, and `True`.
pub fn is_true<C: Condition>(conditions: Option<&[C]>, type_: &str) -> bool {
    get(conditions, type_).is_some_and(|c| c.status() == TRUE)
}

/// Puts `condition` in the place of the one of its type, or at the end. Its transition time becomes `now` if the
/// status changed and stays what it was otherwise. Answers whether anything changed.
pub fn set<C: Condition>(conditions: &mut Option<Vec<C>>, mut condition: C, now: Timestamp) -> bool {
    let list = conditions.get_or_insert_default();
    match list.iter_mut().find(|c| c.type_() == condition.type_()) {
        None => {
            condition.set_last_transition_time(now);
            list.push(condition);
            true
        }
        Some(old) => {
            let since = match old.last_transition_time() {
                Some(since) if old.status() == condition.status() => since,
                _ => now,
            };
            condition.set_last_transition_time(since);
            let changed = *old != condition;
            *old = condition;
            changed
        }
    }
}

/// Answers whether it was there.
pub fn remove<C: Condition>(conditions: &mut Option<Vec<C>>, type_: &str) -> bool {
    let Some(list) = conditions else { return false };
    let before = list.len();
    list.retain(|c| c.type_() != type_);
    list.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: &str, reason: &str) -> PodCondition {
        PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            reason: Some(reason.into()),
            ..PodCondition::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut conditions = None;
        assert!(set(&mut conditions, ready(FALSE, "a"), at(1)));
        assert!(!set(&mut conditions, ready(FALSE, "a"), at(2)), "nothing changed");
        assert!(set(&mut conditions, ready(FALSE, "b"), at(3)), "the reason did");
        let since =
            |c: &Option<Vec<PodCondition>>| get(c.as_deref(), "Ready").unwrap().last_transition_time();
        assert_eq!(since(&conditions), Some(at(1)));
        assert!(set(&mut conditions, ready(TRUE, "b"), at(4)));
        assert_eq!(since(&conditions), Some(at(4)));
        assert!(is_true(conditions.as_deref(), "Ready"));
    }

    #[test]
    fn other_conditions_keep_their_places() {
        let other = PodCondition { type_: "Other".into(), ..ready(TRUE, "") };
        let mut conditions = Some(vec![other.clone(), ready(TRUE, "")]);
        assert!(remove(&mut conditions, "Ready"));
        assert!(!remove(&mut conditions, "Ready"));
        assert_eq!(conditions, Some(vec![other]));
    }
}
