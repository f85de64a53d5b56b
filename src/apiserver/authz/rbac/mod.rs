//! RBAC: roles are lists of rules, bindings give them to users, groups and service accounts.
//!
//! The [`Index`] is made anew when one of the four resources has changed since, and shared until then: roles and
//! bindings change rarely. A request costs its subject's rules.

mod index;
mod rule;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
pub use index::{Index, MissingRole, Objects, RoleRef};
use parking_lot::Mutex;
pub use rule::{Rule, joined, quoted, uncovered};

use super::{Attributes, Decision};
use crate::{admission::Reader, status::GroupResource, user::UserInfo};

pub const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["roles", "rolebindings", "clusterroles", "clusterrolebindings"];

/// Judges by the roles and bindings of the watch cache.
pub struct Rbac {
    reader: Arc<OnceLock<Arc<dyn Reader>>>,
    resources: [GroupResource; 4],
    current: ArcSwap<Versioned>,
    /// Held while an index is made, so that one request makes it and the others wait for it.
    making: Mutex<()>,
}

#[derive(Default)]
struct Versioned {
    /// When each of the resources changed last.
    changed: [u64; 4],
    index: Arc<Index>,
}

/// What a user may do in a namespace, for SelfSubjectRulesReview and the escalation check.
#[derive(Debug, Default)]
pub struct Held {
    pub rules: Vec<Rule>,
    /// Bindings whose role is missing.
    pub errors: Vec<MissingRole>,
}

impl Rbac {
    pub(super) fn new(reader: Arc<OnceLock<Arc<dyn Reader>>>) -> Rbac {
        let resources = RESOURCES.map(|resource| GroupResource::new(GROUP, resource));
        Rbac { reader, resources, current: ArcSwap::default(), making: Mutex::new(()) }
    }

    /// The index of the present roles and bindings.
    pub fn index(&self) -> Arc<Index> {
        let Some(reader) = self.reader.get() else { return Arc::default() };
        let changed = || self.resources.each_ref().map(|resource| reader.changed(resource));
        let current = self.current.load();
        if current.changed == changed() {
            return Arc::clone(&current.index);
        }
        let _making = self.making.lock();
        let now = changed(); // before the lists: a change during them makes the next request look again
        let current = self.current.load();
        if current.changed == now {
            return Arc::clone(&current.index);
        }
        let [roles, role_bindings, cluster_roles, cluster_role_bindings] =
            self.resources.each_ref().map(|resource| reader.list(resource, ""));
        let objects = Objects { roles, role_bindings, cluster_roles, cluster_role_bindings };
        let index = Arc::new(Index::new(&objects));
        self.current.store(Arc::new(Versioned { changed: now, index: Arc::clone(&index) }));
        index
    }

    pub fn authorize(&self, user: &UserInfo, what: &Attributes) -> Decision {
        authorize(&self.index(), user, what)
    }

    pub fn held(&self, user: &UserInfo, namespace: &str) -> Held {
        held(&self.index(), user, namespace)
    }
}

/// Upstream's decision and reason. A missing role is a reason only if no other one allows.
pub fn authorize(index: &Index, user: &UserInfo, what: &Attributes) -> Decision {
    let namespace = if what.is_resource { what.namespace.as_str() } else { "" };
    let mut errors: Vec<String> = Vec::new();
    for grant in index.grants(user, namespace) {
        match &grant.rules {
            Ok(rules) if rules.iter().any(|rule| rule.allows(what)) => {
                return Decision::Allow(format!("RBAC: allowed by {grant}"));
            }
            Ok(_) => {}
            Err(missing) => {
                let text = missing.to_string();
                if !errors.contains(&text) {
                    errors.push(text);
                }
            }
        }
    }
    Decision::NoOpinion(match errors.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    })
}

pub fn held(index: &Index, user: &UserInfo, namespace: &str) -> Held {
    let mut held = Held::default();
    for grant in index.grants(user, namespace) {
        match &grant.rules {
            Ok(rules) => held.rules.extend(rules.iter().cloned()),
            Err(missing) => held.errors.push(missing.clone()),
        }
    }
    held
}

impl std::fmt::Debug for Rbac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rbac").field("changed", &self.current.load().changed).finish_non_exhaustive()
    }
}
