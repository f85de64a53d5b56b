//! The life of a pod on this node. Once it has begun to end there is no way back.
//!
//! ```text
//!   Syncing ──deleted, gone from its source, completed, machine goes down──▶ Terminating ──nothing alive──▶ Terminated ──torn down──▶ Finished
//! ```
#![deny(clippy::disallowed_methods, clippy::wildcard_enum_match_arm)]

/// What is true of the pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Its containers should run.
    Syncing,
    /// Its containers are being ended.
    Terminating(Ending),
    /// No container runs; what was made around them is being removed.
    Terminated(Ending),
    /// Nothing of it is left but dead containers, for their logs and states.
    Finished(Ending),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub why: Why,
    /// Seconds each container has to end by itself; only ever shortened.
    pub grace_seconds: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The machine goes down: it fails, and stays in the API.
    Shutdown,
    /// Its containers are done, or it ran out of time, and it stays in the API.
    Completed,
    /// Its API object is being deleted, or its file is gone.
    Deleted,
    /// The runtime has it, and nobody wants it.
    Orphaned,
}

/// What happened, as far as the state cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    EndAsked {
        why: Why,
        grace_seconds: i64,
    },
    /// The runtime was asked and has nothing alive.
    NothingAlive,
    TornDown,
}

/// What a transition demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What is being done for the pod is abandoned: it serves a state that is over, or a grace that is too long.
    CancelJob,
}

impl PodState {
    pub fn on(self, event: Event) -> (PodState, Vec<Effect>) {
        use PodState::{Finished, Syncing, Terminated, Terminating};
        match (self, event) {
            (Syncing, Event::EndAsked { why, grace_seconds }) => {
                (Terminating(Ending { why, grace_seconds }), vec![Effect::CancelJob])
            }
            (Terminating(ending), Event::EndAsked { why, grace_seconds }) => {
                let shorter = grace_seconds < ending.grace_seconds;
                let effects = if shorter { vec![Effect::CancelJob] } else { Vec::new() };
                (Terminating(ending.joined(why, grace_seconds)), effects)
            }
            (Terminated(ending), Event::EndAsked { why, grace_seconds }) => {
                (Terminated(ending.joined(why, grace_seconds)), Vec::new())
            }
            (Finished(ending), Event::EndAsked { why, grace_seconds }) => {
                (Finished(ending.joined(why, grace_seconds)), Vec::new())
            }
            (Terminating(ending), Event::NothingAlive) => (Terminated(ending), Vec::new()),
            (Terminated(ending), Event::TornDown) => (Finished(ending), Vec::new()),
            (state @ (Syncing | Terminated(_) | Finished(_)), Event::NothingAlive)
            | (state @ (Syncing | Terminating(_) | Finished(_)), Event::TornDown) => (state, Vec::new()),
        }
    }

    pub fn is_syncing(&self) -> bool {
        matches!(self, PodState::Syncing)
    }

    pub fn ending(&self) -> Option<&Ending> {
        match self {
            PodState::Syncing => None,
            PodState::Terminating(ending) | PodState::Terminated(ending) | PodState::Finished(ending) => {
                Some(ending)
            }
        }
    }
}

impl Ending {
    /// A pod that is deleted counts as deleted, whatever it ended by before; one that had completed goes with no shutdown.
    fn joined(self, why: Why, grace_seconds: i64) -> Ending {
        let why = match (self.why, why) {
            (Why::Shutdown | Why::Completed, Why::Deleted | Why::Orphaned) => why,
            (before, _) => before,
        };
        Ending { why, grace_seconds: self.grace_seconds.min(grace_seconds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(why: Why, grace_seconds: i64) -> Event {
        Event::EndAsked { why, grace_seconds }
    }

    #[test]
    fn a_pod_ends_step_by_step() {
        let (state, effects) = PodState::Syncing.on(asked(Why::Deleted, 30));
        assert_eq!(effects, [Effect::CancelJob]);
        let (state, _) = state.on(Event::TornDown);
        assert!(matches!(state, PodState::Terminating(_)), "nothing is torn down while something may live");
        let (state, _) = state.on(Event::NothingAlive);
        assert!(matches!(state, PodState::Terminated(_)));
        let (state, _) = state.on(Event::TornDown);
        assert!(matches!(state, PodState::Finished(_)));
    }

    #[test]
    fn a_second_delete_only_shortens_the_grace() {
        let (state, _) = PodState::Syncing.on(asked(Why::Deleted, 30));
        let (state, effects) = state.on(asked(Why::Deleted, 60));
        assert_eq!((state.ending().unwrap().grace_seconds, effects.len()), (30, 0));
        let (state, effects) = state.on(asked(Why::Deleted, 1));
        assert_eq!((state.ending().unwrap().grace_seconds, effects.len()), (1, 1));
    }

    #[test]
    fn a_shutdown_shortens_what_ends_and_is_the_reason_for_nothing_but_itself() {
        let why = |first, second| {
            let (state, _) = PodState::Syncing.on(asked(first, 30));
            let (state, _) = state.on(asked(second, 10));
            let ending = state.ending().unwrap().clone();
            assert_eq!(ending.grace_seconds, 10);
            ending.why
        };
        assert_eq!(why(Why::Completed, Why::Shutdown), Why::Completed);
        assert_eq!(why(Why::Deleted, Why::Shutdown), Why::Deleted);
        assert_eq!(why(Why::Shutdown, Why::Completed), Why::Shutdown);
        assert_eq!(why(Why::Shutdown, Why::Deleted), Why::Deleted);
    }

    #[test]
    fn a_completed_pod_that_is_deleted_becomes_deleted_and_never_runs_again() {
        let (state, _) = PodState::Syncing.on(asked(Why::Completed, 30));
        let (state, _) = state.on(Event::NothingAlive);
        let (state, _) = state.on(Event::TornDown);
        let (state, _) = state.on(asked(Why::Deleted, 0));
        assert_eq!(state, PodState::Finished(Ending { why: Why::Deleted, grace_seconds: 0 }));
    }
}
