//! Reads the policy's tables. One line is one rule or one binding:
//!
//! ```text
//! system:kube-scheduler                      a role; +x: it has the label aggregate-to-x, =x: it gathers those
//!   READ delete | core | pods                verbs | groups | resources
//!   get | core | configmaps | a b            ... | names
//!   get | url | /healthz /healthz/*          verbs | url | paths
//! system:monitoring | ClusterRole system:monitoring | Group system:monitoring     binding | role | subject | ...
//! ```
//!
//! `READ` is get list watch, `WRITE` create update patch delete deletecollection, `ALL` both. A name with a `/` is
//! namespaced. The facts are those of Kubernetes 1.36 (plugin/pkg/auth/authorizer/rbac/bootstrappolicy).
#![deny(clippy::disallowed_methods)]

use crate::authz::rbac::Rule;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Role {
    /// Empty for a ClusterRole.
    pub(super) namespace: String,
    pub(super) name: String,
    /// `aggregate-to-admin`
    pub(super) labels: Vec<String>,
    /// The labels whose roles' rules are this role's.
    pub(super) gathers: Vec<String>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) role_kind: String,
    pub(super) role: String,
    pub(super) subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

/// The line that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy table: cannot read {0:?}")]
pub(super) struct BadLine(String);

pub(super) fn roles(table: &str) -> Result<Vec<Role>, BadLine> {
    let mut roles: Vec<Role> = Vec::new();
    for line in table.lines() {
        let bad = || BadLine(line.to_owned());
        if let Some(rule) = line.strip_prefix("  ") {
            roles.last_mut().ok_or_else(bad)?.rules.push(self::rule(rule).ok_or_else(bad)?);
        } else {
            roles.push(role(line).ok_or_else(bad)?);
        }
    }
    Ok(roles)
}

pub(super) fn bindings(table: &str) -> Result<Vec<Binding>, BadLine> {
    table.lines().map(|line| binding(line).ok_or_else(|| BadLine(line.to_owned()))).collect()
}

fn role(line: &str) -> Option<Role> {
    let mut words = line.split(' ');
    let (namespace, name) = split_name(words.next()?);
    let mut role = Role { namespace, name, ..Role::default() };
    for word in words {
        match (word.strip_prefix('+'), word.strip_prefix('=')) {
            (Some(label), _) => role.labels.push(label.to_owned()),
            (_, Some(label)) => role.gathers.push(label.to_owned()),
            _ => return None,
        }
    }
    Some(role)
}

fn rule(line: &str) -> Option<Rule> {
    let columns: Vec<Vec<String>> =
        line.split(" | ").map(|column| column.split(' ').map(str::to_owned).collect()).collect();
    let verbs = columns.first()?.iter().flat_map(|verb| expand(verb)).collect();
    match columns.as_slice() {
        [_, kind, urls] if kind == &["url"] => Some(Rule { verbs, urls: urls.clone(), ..Rule::default() }),
        [_, groups, resources, rest @ ..] if rest.len() <= 1 => Some(Rule {
            verbs,
            groups: groups.iter().map(|group| if group == "core" { "" } else { group }.to_owned()).collect(),
            resources: resources.clone(),
            names: rest.first().cloned().unwrap_or_default(),
            urls: Vec::new(),
        }),
        _ => None,
    }
}

fn expand(verb: &str) -> Vec<String> {
    const READ: &str = "get list watch";
    const WRITE: &str = "create update patch delete deletecollection";
    let verbs = match verb {
        "READ" => READ,
        "WRITE" => WRITE,
        "ALL" => return [expand("READ"), expand("WRITE")].concat(),
        one => one,
    };
    verbs.split(' ').map(str::to_owned).collect()
}

fn binding(line: &str) -> Option<Binding> {
    let mut columns = line.split(" | ");
    let (namespace, name) = split_name(columns.next()?);
    let (role_kind, role) = columns.next()?.split_once(' ')?;
    let subjects = columns.map(subject).collect::<Option<_>>()?;
    Some(Binding { namespace, name, role_kind: role_kind.to_owned(), role: role.to_owned(), subjects })
}

fn subject(column: &str) -> Option<Subject> {
    let (kind, name) = column.split_once(' ')?;
    Some(match kind {
        "User" => Subject::User(name.to_owned()),
        "Group" => Subject::Group(name.to_owned()),
        "ServiceAccount" => {
            let (namespace, name) = name.split_once('/')?;
            Subject::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
        }
        _ => return None,
    })
}

fn split_name(name: &str) -> (String, String) {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        assert_eq!(roles("a\n  get").unwrap_err().to_string(), "policy table: cannot read \"  get\"");
        assert!(roles("  get | core | pods").is_err());
        assert!(roles("a b").is_err());
        assert!(bindings("a").is_err());
        assert!(bindings("a | Role b | Nobody c").is_err());
    }

    #[test]
    fn short_words_stand_for_several_verbs() {
        let roles = roles("a\n  READ delete | core apps | pods | x y").unwrap();
        let rule = &roles[0].rules[0];
        assert_eq!(rule.verbs, ["get", "list", "watch", "delete"]);
        assert_eq!(rule.groups, ["", "apps"]);
        assert_eq!(rule.names, ["x", "y"]);
    }
}
