//! What becomes of one object.
#![deny(clippy::disallowed_methods)]

use kube::api::PropagationPolicy;

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there.
    Solid,
    /// It is being deleted in the foreground.
    Waiting,
    /// The API says that no object of this UID is there.
    Absent,
}

/// The object, its owners and its dependents.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
    /// UID and state of each owner.
    pub(super) owners: Vec<(String, Owner)>,
    pub(super) dependents: usize,
    /// Dependents that hold up its end: not those that wait for it themselves.
    pub(super) blocking: usize,
    /// False while some resource has not been seen whole.
    pub(super) graph_is_whole: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Look again when the graph is whole.
    Later,
    Delete(PropagationPolicy),
    /// Drop the references to these UIDs; some owner remains.
    DropReferences(Vec<String>),
    /// Let all dependents go, then drop the finalizer `orphan`.
    OrphanDependents,
    /// No blocking dependent is left: drop the finalizer `foregroundDeletion`.
    FinishForeground,
    /// Its blocking dependents must go first: look at them.
    ChaseDependents,
}

pub(super) fn plan(observed: &Observed) -> Step {
    if observed.deleting {
        return match (observed.orphan, observed.foreground) {
            (false, false) => Step::Nothing,
            _ if !observed.graph_is_whole => Step::Later,
            (true, _) => Step::OrphanDependents,
            (false, true) if observed.blocking == 0 => Step::FinishForeground,
            (false, true) => Step::ChaseDependents,
        };
    }
    let of = |state: Owner| -> Vec<String> {
        let matching = observed.owners.iter().filter(|(_, owner)| *owner == state);
        matching.map(|(uid, _)| uid.clone()).collect()
    };
    let (solid, waiting, mut absent) = (of(Owner::Solid), of(Owner::Waiting), of(Owner::Absent));
    if waiting.is_empty() && absent.is_empty() {
        return Step::Nothing;
    }
    if !solid.is_empty() {
        absent.extend(waiting);
        return Step::DropReferences(absent);
    }
    // The owner's foreground deletion reaches down: what has dependents of its own waits for them too.
    let inherits = !waiting.is_empty() && observed.dependents > 0;
    Step::Delete(match (inherits, observed.orphan, observed.foreground) {
        (true, ..) => PropagationPolicy::Foreground,
        (false, true, _) => PropagationPolicy::Orphan,
        (false, false, true) => PropagationPolicy::Foreground,
        (false, false, false) => PropagationPolicy::Background,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(owners: &[Owner]) -> Observed {
        Observed {
            deleting: false,
            foreground: false,
            orphan: false,
            owners: owners.iter().enumerate().map(|(n, owner)| (n.to_string(), *owner)).collect(),
            dependents: 0,
            blocking: 0,
            graph_is_whole: true,
        }
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        use Owner::{Absent, Solid, Waiting};
        let background = Step::Delete(PropagationPolicy::Background);
        let cases: [(&[Owner], Step); 7] = [
            (&[], Step::Nothing),
            (&[Solid], Step::Nothing),
            (&[Absent], background.clone()),
            (&[Waiting], background.clone()),
            (&[Absent, Waiting], background),
            (&[Solid, Absent], Step::DropReferences(vec!["1".into()])),
            (&[Waiting, Solid, Absent], Step::DropReferences(vec!["2".into(), "0".into()])),
        ];
        for (owners, expected) in cases {
            assert_eq!(plan(&observed(owners)), expected, "{owners:?}");
        }
    }

    #[test]
    fn foreground_reaches_down_through_those_with_dependents() {
        let middle = Observed { dependents: 2, ..observed(&[Owner::Waiting]) };
        assert_eq!(plan(&middle), Step::Delete(PropagationPolicy::Foreground));
        let top = Observed { deleting: true, foreground: true, blocking: 1, dependents: 1, ..observed(&[]) };
        assert_eq!(plan(&top), Step::ChaseDependents);
        assert_eq!(plan(&Observed { blocking: 0, ..top.clone() }), Step::FinishForeground);
        assert_eq!(plan(&Observed { graph_is_whole: false, ..top }), Step::Later);
    }

    #[test]
    fn orphans_are_let_go_before_their_owner() {
        let owner = Observed { deleting: true, orphan: true, dependents: 3, blocking: 3, ..observed(&[]) };
        assert_eq!(plan(&owner), Step::OrphanDependents);
    }
}
