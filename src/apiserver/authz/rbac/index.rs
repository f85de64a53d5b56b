//! Which rules a subject has: every binding, resolved to its role's rules, filed under its subjects.
#![deny(clippy::disallowed_methods)]

use std::{fmt, sync::Arc};

use api::quote;
use rustc_hash::FxHashMap;
use serde_json::Value;

use super::rule::Rule;
use crate::user::UserInfo;

/// All roles and bindings of one moment.
#[derive(Debug, Default)]
pub struct Index {
    cluster: Grants,
    namespaces: FxHashMap<String, Grants>,
    roles: Roles,
}

/// The objects that an index is made of.
#[derive(Debug, Default)]
pub struct Objects {
    pub roles: Vec<Arc<Value>>,
    pub role_bindings: Vec<Arc<Value>>,
    pub cluster_roles: Vec<Arc<Value>>,
    pub cluster_role_bindings: Vec<Arc<Value>>,
}

type Rules = Arc<[Rule]>;

#[derive(Debug, Default)]
struct Roles {
    cluster: FxHashMap<String, Rules>,
    /// By namespace and name.
    namespaced: FxHashMap<(String, String), Rules>,
}

#[derive(Debug, Default)]
struct Grants {
    users: FxHashMap<String, Vec<Grant>>,
    groups: FxHashMap<String, Vec<Grant>>,
}

/// A role given to one subject by one binding.
#[derive(Clone, Debug)]
pub struct Grant {
    source: Source,
    /// The role's rules, or why there are none.
    pub rules: Result<Rules, MissingRole>,
}

#[derive(Clone, Debug)]
struct Source {
    binding: Arc<str>,
    subject: Arc<str>,
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.source.binding, self.source.subject)
    }
}

/// A binding's reference to a role that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MissingRole {
    #[error("{kind}.rbac.authorization.k8s.io {} not found", quote(name))]
    NotFound { kind: &'static str, name: String },
    #[error("unsupported role reference kind: {}", quote(.0))]
    Kind(String),
}

impl Index {
    pub fn new(objects: &Objects) -> Index {
        let mut index = Index { roles: Roles::new(objects), ..Index::default() };
        for binding in &objects.cluster_role_bindings {
            let (name, role) = (text(binding, "/metadata/name"), RoleRef::of(binding));
            let source = format!("ClusterRoleBinding {} of {role}", quote(name));
            index.cluster.add(binding, "", &source.into(), &index.roles.rules(&role, ""));
        }
        for binding in &objects.role_bindings {
            let (namespace, name) = (text(binding, "/metadata/namespace"), text(binding, "/metadata/name"));
            let role = RoleRef::of(binding);
            let source = format!("RoleBinding {} of {role}", quote(&format!("{name}/{namespace}")));
            let rules = index.roles.rules(&role, namespace);
            index.namespaces.entry(namespace.to_owned()).or_default().add(
                binding,
                namespace,
                &source.into(),
                &rules,
            );
        }
        index
    }

    /// What bindings give to a user in a namespace (empty: what is cluster-scoped), cluster-wide ones first.
    pub fn grants<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let local = self.namespaces.get(namespace).filter(|_| !namespace.is_empty());
        self.cluster.of(user).chain(local.into_iter().flat_map(move |grants| grants.of(user)))
    }

    /// The rules of a binding's role.
    pub fn role_rules(&self, role: &RoleRef<'_>, namespace: &str) -> Result<Rules, MissingRole> {
        self.roles.rules(role, namespace)
    }
}

/// `roleRef` of a binding.
#[derive(Clone, Copy, Debug)]
pub struct RoleRef<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub name: &'a str,
}

impl<'a> RoleRef<'a> {
    pub fn of(binding: &'a Value) -> RoleRef<'a> {
        RoleRef {
            group: text(binding, "/roleRef/apiGroup"),
            kind: text(binding, "/roleRef/kind"),
            name: text(binding, "/roleRef/name"),
        }
    }
}

impl fmt::Display for RoleRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, quote(self.name))
    }
}

impl Roles {
    fn new(objects: &Objects) -> Roles {
        let name = |role: &Value| text(role, "/metadata/name").to_owned();
        let key = |role: &Value| (text(role, "/metadata/namespace").to_owned(), name(role));
        let rules = |role: &Value| Rule::all_of(role).into();
        Roles {
            cluster: objects.cluster_roles.iter().map(|role| (name(role), rules(role))).collect(),
            namespaced: objects.roles.iter().map(|role| (key(role), rules(role))).collect(),
        }
    }

    fn rules(&self, role: &RoleRef<'_>, namespace: &str) -> Result<Rules, MissingRole> {
        let missing = |kind| MissingRole::NotFound { kind, name: role.name.to_owned() };
        match role.kind {
            "ClusterRole" => self.cluster.get(role.name).cloned().ok_or_else(|| missing("clusterrole")),
            "Role" => {
                let key = (namespace.to_owned(), role.name.to_owned());
                self.namespaced.get(&key).cloned().ok_or_else(|| missing("role"))
            }
            other => Err(MissingRole::Kind(other.to_owned())),
        }
    }
}

impl Grants {
    fn add(
        &mut self,
        binding: &Value,
        namespace: &str,
        source: &Arc<str>,
        rules: &Result<Rules, MissingRole>,
    ) {
        for subject in binding.get("subjects").and_then(Value::as_array).into_iter().flatten() {
            let (kind, name) = (text(subject, "/kind"), text(subject, "/name"));
            let (by, key, shown) = match kind {
                "User" => (&mut self.users, name.to_owned(), name.to_owned()),
                "Group" => (&mut self.groups, name.to_owned(), name.to_owned()),
                "ServiceAccount" => {
                    let own = text(subject, "/namespace");
                    let namespace = if own.is_empty() { namespace } else { own };
                    if namespace.is_empty() {
                        continue;
                    }
                    let user = crate::authn::service_account_name(namespace, name);
                    (&mut self.users, user, format!("{name}/{namespace}"))
                }
                _ => continue,
            };
            let source =
                Source { binding: source.clone(), subject: format!("{kind} {}", quote(&shown)).into() };
            by.entry(key).or_default().push(Grant { source, rules: rules.clone() });
        }
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        own.chain(user.groups.iter().filter_map(|group| self.groups.get(group)).flatten())
    }
}

/// The text at a JSON pointer, or none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
