//! How long to wait after the n-th failure in a row.
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// Exponential back-off with jitter. A value, not a state: whoever retries counts the failures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub base: Duration,
    /// No wait is longer than this (before jitter).
    pub max: Duration,
    /// Each further failure multiplies the wait by this.
    pub factor: f64,
    /// The share of the wait, from 0 to 1, that [`Backoff::jittered`] may add.
    pub jitter: f64,
}

impl Backoff {
    /// Doubling from `base` to `max`, with a tenth of jitter.
    #[must_use]
    pub const fn doubling(base: Duration, max: Duration) -> Self {
        Self { base, max, factor: 2.0, jitter: 0.1 }
    }

    /// The wait after `failures` failures in a row; nothing before the first.
    #[must_use]
    pub fn delay(&self, failures: u32) -> Duration {
        let Some(steps) = failures.checked_sub(1) else { return Duration::ZERO };
        let seconds = self.base.as_secs_f64() * self.factor.powf(f64::from(steps));
        if seconds >= self.max.as_secs_f64() { self.max } else { Duration::from_secs_f64(seconds) }
    }

    /// [`Backoff::delay`] plus up to `jitter` of it; `seed` decides how much, so that a test can too.
    #[must_use]
    pub fn jittered(&self, failures: u32, seed: u64) -> Duration {
        let delay = self.delay(failures);
        delay + delay.mul_f64(self.jitter.clamp(0.0, 1.0) * unit(seed))
    }
}

/// A number in `[0, 1)` from `seed` (the finalizer of splitmix64).
fn unit(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let top = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0);
    f64::from(top) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff::doubling(Duration::from_secs(10), Duration::from_secs(300));

    #[test]
    fn each_failure_doubles_the_wait_up_to_the_maximum() {
        let seconds: Vec<u64> = (0..8).map(|n| BACKOFF.delay(n).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_very_long_row_of_failures_stays_at_the_maximum() {
        assert_eq!(BACKOFF.delay(u32::MAX), BACKOFF.max);
    }

    #[test]
    fn jitter_only_ever_adds_up_to_its_share() {
        for seed in 0..1000 {
            let wait = BACKOFF.jittered(1, seed);
            assert!(wait >= BACKOFF.base && wait <= BACKOFF.base.mul_f64(1.1), "{wait:?}");
        }
    }
}
