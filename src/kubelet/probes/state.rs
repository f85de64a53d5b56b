//! When measurements become a decision.
#![deny(clippy::disallowed_methods)]

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub success: u32,
    pub failure: u32,
}

/// What one probe has found out about one container instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gauge {
    /// Not enough was measured yet.
    Open { run: Run },
    /// It stands until enough measurements in a row say otherwise.
    Decided { success: bool, run: Run },
    /// It stands for the rest of the instance's life: it has started, or must be killed.
    Final { success: bool },
}

/// How often in a row the same was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    success: bool,
    length: u32,
}

impl Run {
    fn with(self, success: bool) -> Run {
        let length =
            if self.length > 0 && self.success == success { self.length.saturating_add(1) } else { 1 };
        Run { success, length }
    }
}

/// What a measurement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The decision is another one now: tell.
    Changed,
    /// Nothing more is to be measured.
    Stop,
}

impl Gauge {
    /// `was`: the API shows that this instance had passed before the agent started.
    pub fn new(kind: Kind, was: bool) -> Gauge {
        match kind {
            Kind::Startup if was => Gauge::Final { success: true },
            Kind::Readiness if was => Gauge::Decided { success: true, run: Run::default() },
            // What has not been found dead is alive.
            Kind::Liveness => Gauge::Decided { success: true, run: Run::default() },
            Kind::Startup | Kind::Readiness => Gauge::Open { run: Run::default() },
        }
    }

    pub fn decided(self) -> Option<bool> {
        match self {
            Gauge::Open { .. } => None,
            Gauge::Decided { success, .. } | Gauge::Final { success } => Some(success),
        }
    }

    pub fn on(self, kind: Kind, success: bool, thresholds: Thresholds) -> (Gauge, Vec<Effect>) {
        let run = match self {
            Gauge::Open { run } | Gauge::Decided { run, .. } => run.with(success),
            Gauge::Final { .. } => return (self, vec![Effect::Stop]),
        };
        let threshold = if success { thresholds.success } else { thresholds.failure };
        if run.length < threshold {
            let same = match self {
                Gauge::Decided { success, .. } => Gauge::Decided { success, run },
                Gauge::Open { .. } | Gauge::Final { .. } => Gauge::Open { run },
            };
            return (same, Vec::new());
        }
        let is_final = kind == Kind::Startup || (kind == Kind::Liveness && !success);
        let next = if is_final { Gauge::Final { success } } else { Gauge::Decided { success, run } };
        let mut effects = Vec::new();
        if self.decided() != Some(success) {
            effects.push(Effect::Changed);
        }
        if is_final {
            effects.push(Effect::Stop);
        }
        (next, effects)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Thresholds = Thresholds { success: 2, failure: 3 };

    /// `+` and `-` are measurements; what is decided after each is written as `y`, `n`, `?`, and `.` once it is final.
    fn run(kind: Kind, was: bool, measured: &str) -> String {
        let mut gauge = Gauge::new(kind, was);
        let mut shown = String::new();
        for measurement in measured.chars() {
            gauge = gauge.on(kind, measurement == '+', THREE).0;
            shown.push(match gauge.decided() {
                Some(true) => 'y',
                Some(false) => 'n',
                None => '?',
            });
            if matches!(gauge, Gauge::Final { .. }) {
                shown.push('.');
            }
        }
        shown
    }

    #[test]
    fn only_enough_in_a_row_decide() {
        assert_eq!(run(Kind::Readiness, false, "+-++--+---++"), "???yyyyyynny");
        assert_eq!(run(Kind::Readiness, false, "---"), "??n");
        assert_eq!(run(Kind::Readiness, true, "--+---"), "yyyyyn");
    }

    #[test]
    fn liveness_is_believed_until_it_fails_and_ends_then() {
        assert_eq!(run(Kind::Liveness, false, "--+--+"), "yyyyyy");
        assert_eq!(run(Kind::Liveness, false, "---+"), "yyn.n.");
    }

    #[test]
    fn startup_is_decided_once() {
        assert_eq!(run(Kind::Startup, false, "-++-"), "??y.y.");
        assert_eq!(run(Kind::Startup, false, "---"), "??n.");
        assert_eq!(run(Kind::Startup, true, "-"), "y.");
    }

    #[test]
    fn a_change_is_told_once() {
        let mut gauge = Gauge::new(Kind::Readiness, false);
        let mut told = Vec::new();
        for success in [true, true, true, false, false, false, false] {
            let (next, effects) = gauge.on(Kind::Readiness, success, THREE);
            gauge = next;
            told.push(effects.contains(&Effect::Changed));
        }
        assert_eq!(told, [false, true, false, false, false, true, false]);
    }
}
