//! Whose turn it is to end, and how long it has.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

use crate::pods::PodUid;

/// From here on a pod is critical to its cluster (upstream's `SystemCriticalPriority`).
pub(crate) const CRITICAL: i32 = 2_000_000_000;

/// How long pods have whose priority is this one, or lies between this one and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub priority: i32,
    pub length: Duration,
}

impl Period {
    /// Upstream's simple form: everybody, then those that are critical. Nothing where `total` is.
    pub fn by_class(total: Duration, critical: Duration) -> Vec<Period> {
        if total.is_zero() {
            return Vec::new();
        }
        vec![
            Period { priority: 0, length: total.saturating_sub(critical) },
            Period { priority: CRITICAL, length: critical.min(total) },
        ]
    }
}

pub(super) fn total(periods: &[Period]) -> Duration {
    periods.iter().map(|period| period.length).sum()
}

/// The same periods in the order of their turns, each shortened by the same share where there is less time than they take.
pub(super) fn fit(periods: &[Period], available: Duration) -> Vec<Period> {
    let mut fitting = periods.to_vec();
    fitting.sort_by_key(|period| period.priority);
    let total = total(periods);
    if total > available {
        let share = available.as_secs_f64() / total.as_secs_f64();
        for period in &mut fitting {
            period.length = period.length.mul_f64(share);
        }
    }
    fitting
}

/// A pod that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) uid: PodUid,
    pub(crate) priority: i32,
    /// What it asks for itself.
    pub(crate) grace_seconds: i64,
    /// It was told to end for this shutdown.
    pub(crate) asked: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tell these to end, each with its grace in seconds.
    End { priority: i32, pods: Vec<(PodUid, i64)> },
    /// Look again when a pod has ended, or then, counted from the beginning.
    Wait { until: Duration },
    /// Everybody had a turn.
    Over,
}

/// How far a shutdown has come. Times count from its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// By priority, the lowest first.
    periods: Vec<Period>,
    /// Whose turn it is.
    turn: usize,
    /// Since when.
    since: Duration,
}

impl Progress {
    /// `periods` as [`fit`] gives them.
    pub(super) fn new(periods: Vec<Period>) -> Progress {
        Progress { periods, turn: 0, since: Duration::ZERO }
    }

    /// A turn is over when its pods have ended, or its time has passed; one that nobody has takes none. What of it is alive
    /// then has been told, and ends beside the next.
    pub(super) fn step(&mut self, alive: &[Alive], elapsed: Duration) -> Step {
        while let Some(period) = self.periods.get(self.turn).copied() {
            let until = self.since + period.length;
            let left = until.saturating_sub(elapsed);
            // Also those of an earlier turn that have come since.
            let due = alive.iter().filter(|pod| !pod.asked && self.turn_of(pod.priority) <= self.turn);
            let pods: Vec<(PodUid, i64)> =
                due.map(|pod| (pod.uid.clone(), pod.grace_seconds.clamp(0, seconds(left)))).collect();
            if !pods.is_empty() {
                return Step::End { priority: period.priority, pods };
            }
            let waits = alive.iter().any(|pod| self.turn_of(pod.priority) == self.turn);
            if waits && elapsed < until {
                return Step::Wait { until };
            }
            self.turn += 1;
            self.since = elapsed;
        }
        Step::Over
    }

    /// Upstream's rule: the last period that begins at or below the priority, and the first one for what is below them all.
    fn turn_of(&self, priority: i32) -> usize {
        self.periods.partition_point(|period| period.priority <= priority).saturating_sub(1)
    }
}

/// Upwards: a period that has only just begun is whole.
fn seconds(length: Duration) -> i64 {
    i64::try_from(length.as_secs() + u64::from(length.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn pod(uid: &str, priority: i32, grace_seconds: i64) -> Alive {
        Alive { uid: uid.into(), priority, grace_seconds, asked: false }
    }

    fn asked(pods: &[Alive]) -> Vec<Alive> {
        pods.iter().map(|pod| Alive { asked: true, ..pod.clone() }).collect()
    }

    fn periods(list: &[(i32, u64)]) -> Vec<Period> {
        list.iter().map(|(priority, length)| Period { priority: *priority, length: s(*length) }).collect()
    }

    fn end(priority: i32, pods: &[(&str, i64)]) -> Step {
        Step::End { priority, pods: pods.iter().map(|(uid, grace)| (PodUid::from(*uid), *grace)).collect() }
    }

    #[test]
    fn the_simple_form_is_one_turn_for_all_and_one_for_critical_pods() {
        assert_eq!(Period::by_class(s(30), s(10)), periods(&[(0, 20), (CRITICAL, 10)]));
        assert_eq!(Period::by_class(s(0), s(0)), []);
    }

    #[test]
    fn each_turn_has_its_pods_and_no_pod_more_than_it_asks_for() {
        let mut progress = Progress::new(Period::by_class(s(30), s(10)));
        let pods = [
            pod("web", 0, 300),
            pod("quick", -5, 3),
            pod("dns", CRITICAL, 30),
            pod("node", CRITICAL + 1000, 5),
        ];
        assert_eq!(progress.step(&pods, s(0)), end(0, &[("web", 20), ("quick", 3)]));
        let mut now = pods.clone();
        (now[0].asked, now[1].asked) = (true, true);
        assert_eq!(progress.step(&now, s(1)), Step::Wait { until: s(20) });
        // The others have ended early: nobody waits for the rest of their time.
        assert_eq!(progress.step(&now[2..], s(4)), end(CRITICAL, &[("dns", 10), ("node", 5)]));
        assert_eq!(progress.step(&asked(&now[2..]), s(4)), Step::Wait { until: s(14) });
        assert_eq!(progress.step(&[], s(9)), Step::Over);
    }

    #[test]
    fn a_pod_that_outlives_its_turn_holds_nobody_up() {
        let mut progress = Progress::new(Period::by_class(s(30), s(10)));
        let stuck = asked(&[pod("stuck", 0, 300)]);
        assert_eq!(progress.step(&stuck, s(19)), Step::Wait { until: s(20) });
        let with_dns = [stuck[0].clone(), pod("dns", CRITICAL, 30)];
        assert_eq!(progress.step(&with_dns, s(20)), end(CRITICAL, &[("dns", 10)]));
        assert_eq!(progress.step(&stuck, s(22)), Step::Over, "nor does it take the turn of others");
    }

    #[test]
    fn who_comes_late_has_what_is_left() {
        let mut progress = Progress::new(Period::by_class(s(30), s(10)));
        let early = asked(&[pod("web", 0, 300)]);
        assert_eq!(progress.step(&early, s(1)), Step::Wait { until: s(20) });
        let both = [early[0].clone(), pod("late", 0, 300)];
        assert_eq!(progress.step(&both, Duration::from_millis(15_500)), end(0, &[("late", 5)]));
        let critical = [early[0].clone(), pod("later", 0, 300), pod("dns", CRITICAL, 1)];
        assert_eq!(progress.step(&critical, s(25)), end(0, &[("later", 0)]), "and is told in any case");
    }

    #[test]
    fn a_period_of_nothing_ends_its_pods_without_waiting() {
        let mut progress = Progress::new(Period::by_class(s(10), s(0)));
        let dns = [pod("dns", CRITICAL, 30)];
        assert_eq!(progress.step(&dns, s(0)), end(CRITICAL, &[("dns", 0)]));
        assert_eq!(progress.step(&asked(&dns), s(0)), Step::Over);
    }

    #[test]
    fn priorities_between_two_periods_belong_to_the_lower_one() {
        let progress = Progress::new(fit(&periods(&[(100_000, 10), (0, 60), (10_000, 180)]), s(600)));
        let turns = [(-1, 0), (0, 0), (9_999, 0), (10_000, 1), (99_999, 1), (100_000, 2), (i32::MAX, 2)];
        for (priority, turn) in turns {
            assert_eq!(progress.turn_of(priority), turn, "{priority}");
        }
    }

    #[test]
    fn less_time_than_asked_for_is_shared() {
        assert_eq!(fit(&Period::by_class(s(30), s(10)), s(15)), periods(&[(0, 10), (CRITICAL, 5)]));
        assert_eq!(fit(&Period::by_class(s(30), s(10)), s(30)), Period::by_class(s(30), s(10)));
        assert_eq!(total(&fit(&Period::by_class(s(30), s(10)), s(0))), s(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Pods that end when they like, or never: everybody is told once, in order, and it is over in time.
        #[test]
        fn everybody_is_told_once_in_order_and_it_is_over_in_time(
            lengths in proptest::collection::vec((any::<i32>(), 0_u64..60), 0..5),
            pods in proptest::collection::vec((any::<i32>(), 0_i64..100, 0_u64..200), 0..12),
        ) {
            let periods: Vec<Period> =
                lengths.iter().map(|(priority, length)| Period { priority: *priority, length: s(*length) }).collect();
            let whole = total(&periods);
            let mut progress = Progress::new(fit(&periods, whole));
            let all: Vec<Alive> =
                pods.iter().enumerate().map(|(n, (priority, grace, _))| pod(&n.to_string(), *priority, *grace)).collect();
            let mut told: Vec<Option<u64>> = vec![None; all.len()];
            let mut order = Vec::new();
            let mut now = 0;
            loop {
                let alive: Vec<Alive> = all
                    .iter()
                    .zip(&told)
                    .zip(&pods)
                    .filter(|((_, told), (_, _, life))| told.is_none_or(|at| now < at + life))
                    .map(|((pod, told), _)| Alive { asked: told.is_some(), ..pod.clone() })
                    .collect();
                match progress.step(&alive, s(now)) {
                    Step::End { pods: due, .. } => {
                        for (uid, grace) in due {
                            let n: usize = uid.as_str().parse().unwrap();
                            prop_assert!(told[n].is_none() && grace <= all[n].grace_seconds && grace >= 0);
                            told[n] = Some(now);
                            order.push(progress.turn_of(all[n].priority));
                        }
                    }
                    Step::Wait { until } => {
                        prop_assert!(until > s(now));
                        now += 1;
                    }
                    Step::Over => break,
                }
            }
            prop_assert!(s(now) <= whole);
            prop_assert!(order.is_sorted());
            prop_assert!(periods.is_empty() || told.iter().all(Option::is_some));
        }
    }
}
