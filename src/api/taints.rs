//! Taints of nodes and the tolerations of pods.
#![deny(clippy::disallowed_methods)]

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::constants::taint::{NO_EXECUTE, NO_SCHEDULE};

/// An empty key with `Exists` tolerates every taint; an empty effect every effect.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let empty = |field: &Option<String>| field.as_deref().is_none_or(str::is_empty);
    let effect = empty(&toleration.effect) || toleration.effect.as_deref() == Some(&taint.effect);
    let key = empty(&toleration.key) || toleration.key.as_deref() == Some(&taint.key);
    let value = match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        Some("Exists") => true,
        Some(_) => false,
    };
    effect && key && value
}

pub fn is_tolerated(taint: &Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|toleration| tolerates(toleration, taint))
}

/// The first taint of those that `counts` which no toleration covers.
pub fn first_untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    counts: impl Fn(&Taint) -> bool,
) -> Option<&'a Taint> {
    taints.iter().filter(|taint| counts(taint)).find(|taint| !is_tolerated(taint, tolerations))
}

/// Whether this taint keeps new pods off a node.
pub fn keeps_off(taint: &Taint) -> bool {
    taint.effect == NO_SCHEDULE || taint.effect == NO_EXECUTE
}

/// Whether this taint makes running pods leave a node.
pub fn evicts(taint: &Taint) -> bool {
    taint.effect == NO_EXECUTE
}

/// Taints are the same when key and effect are: a node holds one of each.
pub fn same(a: &Taint, b: &Taint) -> bool {
    a.key == b.key && a.effect == b.effect
}

/// Puts `taint` in the place of the same one, or at the end. Answers whether anything changed but the time.
pub fn set(taints: &mut Option<Vec<Taint>>, taint: Taint) -> bool {
    let list = taints.get_or_insert_default();
    match list.iter_mut().find(|old| same(old, &taint)) {
        Some(old) if old.value == taint.value => false,
        Some(old) => {
            *old = taint;
            true
        }
        None => {
            list.push(taint);
            true
        }
    }
}

/// Answers whether it was there.
pub fn remove(taints: &mut Option<Vec<Taint>>, key: &str, effect: &str) -> bool {
    let Some(list) = taints else { return false };
    let before = list.len();
    list.retain(|taint| !(taint.key == key && taint.effect == effect));
    list.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: Some(value.into()), effect: effect.into(), time_added: None }
    }

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        Toleration {
            key: some(key),
            operator: some(operator),
            value: some(value),
            effect: some(effect),
            toleration_seconds: None,
        }
    }

    #[test]
    fn a_toleration_matches_key_value_and_effect() {
        let tainted = taint("k", "v", "NoSchedule");
        for (toleration, expected) in [
            (toleration("k", "", "v", "NoSchedule"), true),
            (toleration("k", "Equal", "v", ""), true),
            (toleration("k", "Exists", "", "NoSchedule"), true),
            (toleration("", "Exists", "", ""), true),
            (toleration("k", "Equal", "other", "NoSchedule"), false),
            (toleration("k", "", "", "NoSchedule"), false),
            (toleration("other", "Exists", "", ""), false),
            (toleration("k", "Exists", "", "NoExecute"), false),
            (toleration("k", "Gt", "v", ""), false),
        ] {
            assert_eq!(tolerates(&toleration, &tainted), expected, "{toleration:?}");
        }
    }

    #[test]
    fn preferences_do_not_keep_pods_off() {
        let taints = [taint("soft", "", "PreferNoSchedule"), taint("hard", "", "NoExecute")];
        let found = first_untolerated(&taints, &[], keeps_off);
        assert_eq!(found.map(|t| t.key.as_str()), Some("hard"));
        assert!(first_untolerated(&taints, &[toleration("hard", "Exists", "", "")], keeps_off).is_none());
    }

    #[test]
    fn a_node_holds_one_taint_of_each_key_and_effect() {
        let mut taints = None;
        assert!(set(&mut taints, taint("k", "1", "NoSchedule")));
        assert!(!set(&mut taints, taint("k", "1", "NoSchedule")));
        assert!(set(&mut taints, taint("k", "2", "NoSchedule")));
        assert!(set(&mut taints, taint("k", "2", "NoExecute")));
        assert_eq!(taints.as_ref().map(Vec::len), Some(2));
        assert!(remove(&mut taints, "k", "NoExecute"));
        assert!(!remove(&mut taints, "k", "NoExecute"));
    }
}
