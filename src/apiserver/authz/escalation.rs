//! Nobody can give away what he does not have: roles and bindings are held to the rights of who writes them.
//!
//! An admission plugin over the rbac resources, where upstream wraps their storage: the words and the cases are its.

use std::sync::Arc;

use serde_json::Value;

use super::{
    Attributes, Authorization, Authorizer, Decision,
    rbac::{GROUP, RoleRef, Rule, joined, quoted, uncovered},
};
use crate::{
    admission::{self, Operation, Plugin, Reader},
    status::{ApiError, GroupResource},
    user::{MASTERS, UserInfo},
};

/// The plugin. It must see the object after mutating plugins: it only validates.
#[derive(Debug)]
pub struct Escalation {
    authorization: Arc<Authorization>,
}

impl Escalation {
    pub fn new(authorization: Arc<Authorization>) -> Escalation {
        Escalation { authorization }
    }

    fn allows(&self, user: &UserInfo, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let what = Attributes {
            verb: verb.into(),
            is_resource: true,
            namespace: namespace.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: resource.into(),
            name: name.into(),
            ..Attributes::default()
        };
        matches!(self.authorization.authorize(user, &what), Decision::Allow(_))
    }

    fn role(&self, write: &admission::Attributes) -> Result<(), ApiError> {
        let name = if write.operation == Operation::Create { "" } else { &write.name };
        if self.allows(&write.user, "escalate", &write.resource.resource, &write.namespace, name) {
            return Ok(());
        }
        let held = self.authorization.rbac().held(&write.user, &write.namespace);
        check(&write.user, &held.rules, &Rule::all_of(&write.object)).map_err(|why| write.forbidden(&why))?;
        let aggregates = |role: &Value| {
            let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
            selectors.is_some_and(|selectors| !selectors.is_empty())
        };
        let aggregated = aggregates(&write.object) || write.old.as_deref().is_some_and(aggregates);
        if aggregated && !uncovered(&held.rules, &everything()).is_empty() {
            return Err(write.forbidden("must have cluster-admin privileges to use the aggregationRule"));
        }
        Ok(())
    }

    fn binding(&self, write: &admission::Attributes) -> Result<(), ApiError> {
        let role = RoleRef::of(&write.object);
        let resource = match role.kind {
            "ClusterRole" => "clusterroles",
            "Role" => "roles",
            _ => return Ok(()), // validation refuses it
        };
        if self.allows(&write.user, "bind", resource, &write.namespace, role.name) {
            return Ok(());
        }
        let rules = self.authorization.rbac().index().role_rules(&role, &write.namespace);
        let rules =
            rules.map_err(|_| ApiError::not_found(&GroupResource::new(GROUP, resource), role.name))?;
        let held = self.authorization.rbac().held(&write.user, &write.namespace);
        check(&write.user, &held.rules, &rules).map_err(|why| write.forbidden(&why))
    }
}

impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, operation: Operation, resource: &GroupResource, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && resource.group == GROUP
            && subresource.is_empty()
    }

    fn validate(&self, write: &admission::Attributes, _: &dyn Reader) -> Result<(), ApiError> {
        if write.user.in_group(MASTERS) || only_owners_change(write) {
            return Ok(());
        }
        match write.resource.resource.as_str() {
            "roles" | "clusterroles" => self.role(write),
            _ => self.binding(write),
        }
    }
}

/// Refuses rules that the user's own do not cover, in upstream's words.
pub fn check(user: &UserInfo, held: &[Rule], granted: &[Rule]) -> Result<(), String> {
    let missing = uncovered(held, granted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = joined(&missing).iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    let (name, groups) = (api::quote(&user.name), quoted(&user.groups));
    let lines = lines.join("\n");
    Err(format!(
        "user {name} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{lines}"
    ))
}

fn everything() -> [Rule; 2] {
    let star = || vec!["*".to_owned()];
    [
        Rule { verbs: star(), groups: star(), resources: star(), ..Rule::default() },
        Rule { verbs: star(), urls: star(), ..Rule::default() },
    ]
}

/// Whether an update changes nothing but what garbage collection does on its way to a deletion.
fn only_owners_change(write: &admission::Attributes) -> bool {
    let Some(old) = &write.old else { return false };
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    rest(&write.object) == rest(old)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::tests::{Fake, authorization};

    fn write(user: &str, resource: &str, object: Value, old: Option<Value>) -> admission::Attributes {
        let namespaced = !resource.starts_with("cluster");
        admission::Attributes {
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            user: UserInfo::new(user, &[]),
            resource: GroupResource::new(GROUP, resource),
            version: "v1".into(),
            kind: String::new(),
            subresource: String::new(),
            namespace: if namespaced { "ns".into() } else { String::new() },
            name: "x".into(),
            object,
            old: old.map(Arc::new),
            delete_options: None,
            dry_run: false,
            warnings: Vec::new(),
        }
    }

    /// jane may read pods in `ns`, and may write roles there; bob may also bind and escalate.
    fn plugin() -> (Escalation, Fake) {
        let fake = Fake::default();
        let pods = json!([{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]);
        fake.role("ns", "reader", pods);
        let all = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}]);
        fake.role("ns", "secrets", all);
        let right = json!([{"verbs": ["bind", "escalate"], "apiGroups": [GROUP], "resources": ["roles", "clusterroles"]}]);
        fake.role("ns", "right", right);
        fake.bind("ns", "reader", "Role", "reader", &["User jane", "User bob"]);
        fake.bind("ns", "right", "Role", "right", &["User bob"]);
        (Escalation::new(authorization(&fake)), fake)
    }

    fn role(verbs: &[&str]) -> Value {
        let rules = json!([{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]);
        json!({"metadata": {"name": "x", "namespace": "ns"}, "rules": rules})
    }

    fn binding(role: &str) -> Value {
        json!({"metadata": {"name": "x"}, "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": role}})
    }

    #[track_caller]
    fn check(write: &admission::Attributes, expected: Result<(), &str>) {
        let (plugin, fake) = plugin();
        let result = plugin.validate(write, &fake).map_err(|error| error.message);
        assert_eq!(result, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_role_may_hold_what_its_writer_holds() {
        check(&write("jane", "roles", role(&["get"]), None), Ok(()));
        check(
            &write("jane", "roles", role(&["get", "update", "delete"]), None),
            Err("roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"jane\" \
                 (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
                 {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"update\" \"delete\"]}"),
        );
        check(&write("bob", "roles", role(&["delete"]), None), Ok(()));
    }

    #[test]
    fn rights_in_a_namespace_give_no_cluster_role() {
        let refused =
            plugin().0.validate(&write("jane", "clusterroles", role(&["get"]), None), &Fake::default());
        assert!(refused.unwrap_err().message.contains("not currently held"));
    }

    #[test]
    fn a_binding_may_give_what_its_writer_holds() {
        check(&write("jane", "rolebindings", binding("reader"), None), Ok(()));
        let refused =
            plugin().0.validate(&write("jane", "rolebindings", binding("secrets"), None), &Fake::default());
        assert!(
            refused
                .unwrap_err()
                .message
                .ends_with("{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}")
        );
        check(&write("bob", "rolebindings", binding("secrets"), None), Ok(()));
        let missing = Err("roles.rbac.authorization.k8s.io \"none\" not found");
        check(&write("jane", "rolebindings", binding("none"), None), missing);
    }

    #[test]
    fn only_an_administrator_aggregates() {
        let (plugin, fake) = plugin();
        fake.cluster_role("all", json!([
            {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]},
        ]));
        fake.bind("", "root", "ClusterRole", "all", &["User root"]);
        let mut role = role(&[]);
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
        plugin.validate(&write("root", "clusterroles", role.clone(), None), &fake).unwrap();
        let refused = plugin.validate(&write("jane", "clusterroles", role, None), &fake).unwrap_err();
        assert!(refused.message.ends_with("must have cluster-admin privileges to use the aggregationRule"));
    }

    #[test]
    fn garbage_collection_may_drop_a_finalizer_of_any_role() {
        let mut old = role(&["delete"]);
        old["metadata"]["finalizers"] = json!(["x"]);
        check(&write("jane", "roles", role(&["delete"]), Some(old)), Ok(()));
    }
}
