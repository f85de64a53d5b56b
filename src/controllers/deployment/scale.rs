//! How many replicas each ReplicaSet of a Deployment gets.
#![deny(clippy::disallowed_methods)]

use api::int_or_string::surge_and_unavailable;
use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::revisions;

/// What bounds a rollout, in pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) desired: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
    pub(super) recreate: bool,
}

impl Bounds {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let desired = spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let strategy = spec.and_then(|spec| spec.strategy.as_ref());
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
            return Self { desired, surge: 0, unavailable: 0, recreate: true };
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
        let quarter = || IntOrString::String("25%".into());
        // Validation has seen to it that both are numbers or percentages.
        let (surge, unavailable) = surge_and_unavailable(
            &rolling.max_surge.unwrap_or_else(quarter),
            &rolling.max_unavailable.unwrap_or_else(quarter),
            desired,
        )
        .unwrap_or((0, 1));
        let unavailable = if desired == 0 { 0 } else { unavailable.min(desired) };
        Self { desired, surge, unavailable, recreate: false }
    }

    /// The most that all ReplicaSets together may ask for.
    pub(super) fn most(&self) -> i32 {
        self.desired.saturating_add(self.surge)
    }

    pub(super) fn least_available(&self) -> i32 {
        self.desired - self.unavailable
    }
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// Pods that can be counted on. A status that lags behind a smaller spec still counts pods that are
/// going: no more than are asked for will stay.
pub(super) fn available(set: &ReplicaSet) -> i32 {
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    available.min(replicas(set))
}

/// The size of the new ReplicaSet, given the sizes of all together.
pub(super) fn grow_new(bounds: &Bounds, new: i32, total: i32) -> i32 {
    if bounds.recreate || new > bounds.desired {
        return bounds.desired;
    }
    if total >= bounds.most() {
        return new;
    }
    new + (bounds.most() - total).min(bounds.desired - new)
}

/// One old ReplicaSet, oldest first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Old {
    pub(super) replicas: i32,
    pub(super) available: i32,
}

/// The sizes of the old ReplicaSets when as many as possible go: first those that are not available
/// anyway, then available ones as far as the new ones can stand in.
pub(super) fn shrink_old(bounds: &Bounds, old: &[Old], new_replicas: i32, new_available: i32) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.replicas).collect();
    let total: i32 = sizes.iter().sum::<i32>() + new_replicas;
    let new_unavailable = new_replicas - new_available;
    let removable = total - bounds.least_available() - new_unavailable;
    if removable <= 0 {
        return sizes;
    }
    let mut unhealthy_left = removable;
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - set.available).clamp(0, unhealthy_left.max(0));
        *size -= unhealthy;
        unhealthy_left -= unhealthy;
    }
    let all_available: i32 = old.iter().map(|set| set.available).sum::<i32>() + new_available;
    let mut spare = (all_available - bounds.least_available()).max(0);
    for size in &mut sizes {
        let less = (*size).min(spare);
        *size -= less;
        spare -= less;
    }
    sizes
}

/// Shares a change of the Deployment's size among its active ReplicaSets, in proportion to theirs.
/// `sets` are ordered: the first one takes what rounding leaves over.
pub(super) fn proportional(bounds: &Bounds, sets: &[&ReplicaSet], status_replicas: i32) -> Vec<i32> {
    let sizes: Vec<i32> = sets.iter().map(|set| replicas(set)).collect();
    let allowed = if bounds.desired > 0 { bounds.most() } else { 0 };
    let to_add = allowed - sizes.iter().sum::<i32>();
    if to_add == 0 {
        return sizes;
    }
    let mut added = 0;
    let mut next: Vec<i32> = Vec::with_capacity(sets.len());
    for (set, size) in sets.iter().zip(&sizes) {
        let share = share(bounds, set, *size, status_replicas);
        let left = to_add - added;
        let part = match () {
            () if *size == 0 || left == 0 => 0,
            () if to_add > 0 => share.min(left),
            () => share.max(left),
        };
        added += part;
        next.push(size + part);
    }
    if let Some(first) = next.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    next
}

/// How much one ReplicaSet grows or shrinks by itself.
fn share(bounds: &Bounds, set: &ReplicaSet, size: i32, status_replicas: i32) -> i32 {
    if bounds.desired == 0 {
        return -size;
    }
    let before = revisions::noted_most(set).filter(|most| *most != 0).unwrap_or(status_replicas);
    if before == 0 {
        return 0;
    }
    // Half away from zero, as upstream rounds.
    let (numerator, before) = (i64::from(size) * i64::from(bounds.most()), i64::from(before));
    let rounded = (2 * numerator + before) / (2 * before);
    i32::try_from(rounded).unwrap_or(i32::MAX) - size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds(desired: i32, surge: i32, unavailable: i32) -> Bounds {
        Bounds { desired, surge, unavailable, recreate: false }
    }

    fn set(size: i32, most: i32) -> ReplicaSet {
        let mut set = ReplicaSet::default();
        set.spec.get_or_insert_default().replicas = Some(size);
        revisions::note_size(&mut set, 0, most);
        set
    }

    #[test]
    fn the_new_set_grows_into_what_the_surge_leaves() {
        for (desired, surge, new, total, expected) in
            [(10, 3, 0, 10, 3), (10, 3, 3, 13, 3), (10, 3, 3, 8, 8), (10, 0, 0, 10, 0), (10, 3, 12, 12, 10)]
        {
            assert_eq!(grow_new(&bounds(desired, surge, 0), new, total), expected);
        }
    }

    #[test]
    fn broken_old_pods_go_first_and_healthy_ones_only_when_new_ones_stand_in() {
        let old = |replicas, available| Old { replicas, available };
        // Ten old available, three new not yet: two may be missing, so two go.
        assert_eq!(shrink_old(&bounds(10, 3, 2), &[old(10, 10)], 3, 0), [8]);
        // The new ones crash and an old one broke: nothing may go.
        assert_eq!(shrink_old(&bounds(10, 3, 2), &[old(8, 8)], 5, 0), [8]);
        // Of the old ones three are broken already: they go without harm.
        assert_eq!(shrink_old(&bounds(10, 0, 2), &[old(10, 7)], 0, 0), [8]);
        // New ones took over.
        assert_eq!(shrink_old(&bounds(10, 3, 2), &[old(2, 2), old(3, 3)], 8, 8), [0, 0]);
    }

    #[test]
    fn a_rollout_that_is_scaled_keeps_its_proportions() {
        let sets = [set(8, 13), set(5, 13)];
        let sets: Vec<&ReplicaSet> = sets.iter().collect();
        assert_eq!(proportional(&bounds(20, 3, 0), &sets, 13), [14, 9]);
        assert_eq!(proportional(&bounds(0, 3, 0), &sets, 13), [0, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn shares_add_up_and_none_is_negative(
            desired in 0..50_i32, surge in 0..10_i32, sizes in prop::collection::vec((1..30_i32, 0..40_i32), 1..5),
        ) {
            let sets: Vec<ReplicaSet> = sizes.iter().map(|(size, most)| set(*size, *most)).collect();
            let mut sets: Vec<&ReplicaSet> = sets.iter().collect();
            sets.sort_by_key(|set| -replicas(set));
            let bounds = bounds(desired, surge, 0);
            let next = proportional(&bounds, &sets, 0);
            prop_assert!(next.iter().all(|size| *size >= 0));
            let least = if desired > 0 { bounds.most() } else { 0 };
            prop_assert!(next.iter().sum::<i32>() >= least);
        }

        #[test]
        fn old_sets_never_lose_what_must_stay_available(
            desired in 1..30_i32, surge in 0..5_i32, unavailable in 0..5_i32,
            old in prop::collection::vec((0..20_i32, 0..20_i32), 0..4), new in (0..20_i32, 0..20_i32),
        ) {
            let bounds = bounds(desired, surge, unavailable.min(desired));
            let old: Vec<Old> = old.iter().map(|(a, b)| Old { replicas: *a.max(b), available: *a.min(b) }).collect();
            let (new_replicas, new_available) = (new.0.max(new.1), new.0.min(new.1));
            let sizes = shrink_old(&bounds, &old, new_replicas, new_available);
            let before: i32 = old.iter().map(|set| set.available).sum::<i32>() + new_available;
            // The worst case: within a set, available pods go first only when no other is left.
            let after: i32 = sizes.iter().zip(&old).map(|(size, set)| (*size).min(set.available)).sum::<i32>()
                + new_available;
            prop_assert!(after >= before.min(bounds.least_available()), "{before} -> {after}");
        }
    }
}
