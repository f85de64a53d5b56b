//! The roles and bindings that every cluster has, and how they are kept.
//!
//! - `cluster_roles.txt`, `roles.txt`, `bindings.txt` are upstream's; `our_roles.txt` and `ours.txt` are what an installer
//!   adds: kubeadm's roles and bindings for machines that join, and what our own components need.
//! - `table.rs` reads them; `reconcile.rs` says what an existing object lacks.
//! - [`ensure`] is the only effect.
//!
//! Aggregated roles (admin, edit, view) come with the rules of the roles that they gather.

mod reconcile;
mod table;

use std::sync::LazyLock;

pub use reconcile::reconcile;
use serde_json::{Map, Value, json};
use table::{Binding, Role, Subject};

use super::rbac::{GROUP, Rule};
use crate::{
    registry::{Objects, Precondition},
    status::{ApiError, GroupResource},
};

pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const LABEL_GROUP: &str = "rbac.authorization.k8s.io/";
const CONTROLLER_PREFIX: &str = "system:controller:";

struct Tables {
    roles: Vec<Role>,
    bindings: Vec<Binding>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    #[expect(clippy::expect_used, reason = "the tables are part of the program, and a test reads them")]
    read_tables().expect("the policy's tables are readable")
});

fn read_tables() -> Result<Tables, table::BadLine> {
    let mut roles = table::roles(include_str!("cluster_roles.txt"))?;
    roles.extend(table::roles(include_str!("roles.txt"))?);
    roles.extend(table::roles(include_str!("our_roles.txt"))?);
    let mut bindings = table::bindings(include_str!("bindings.txt"))?;
    bindings.extend(table::bindings(include_str!("ours.txt"))?);
    // Each controller's role is bound to its service account.
    for role in roles.iter().filter(|role| role.namespace.is_empty()) {
        if let Some(controller) = role.name.strip_prefix(CONTROLLER_PREFIX) {
            bindings.push(Binding {
                namespace: String::new(),
                name: role.name.clone(),
                role_kind: "ClusterRole".to_owned(),
                role: role.name.clone(),
                subjects: vec![Subject::ServiceAccount {
                    namespace: "kube-system".to_owned(),
                    name: controller.to_owned(),
                }],
            });
        }
    }
    Ok(Tables { roles, bindings })
}

/// What the Node authorizer allows every node where the resource is not divided among nodes.
pub fn node_rules() -> Vec<Rule> {
    let node = TABLES.roles.iter().find(|role| role.name == "system:node");
    node.map(|role| role.rules.clone()).unwrap_or_default()
}

/// All objects of the policy, roles before bindings.
pub fn objects() -> Vec<(GroupResource, Value)> {
    let roles = TABLES.roles.iter().map(|role| {
        let resource = if role.namespace.is_empty() { "clusterroles" } else { "roles" };
        (GroupResource::new(GROUP, resource), role_object(role))
    });
    let bindings = TABLES.bindings.iter().map(|binding| {
        let resource = if binding.namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        (GroupResource::new(GROUP, resource), binding_object(binding))
    });
    roles.chain(bindings).collect()
}

fn role_object(role: &Role) -> Value {
    let labels = role.labels.iter().map(|label| (format!("{LABEL_GROUP}{label}"), json!("true")));
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if role.namespace.is_empty() { "ClusterRole" } else { "Role" },
        "metadata": metadata(&role.namespace, &role.name, labels.collect()),
        "rules": gathered(role).iter().map(Rule::to_value).collect::<Vec<_>>(),
    });
    if !role.gathers.is_empty() {
        let selector = |label: &String| json!({"matchLabels": {format!("{LABEL_GROUP}{label}"): "true"}});
        let selectors: Vec<Value> = role.gathers.iter().map(selector).collect();
        object["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
    }
    object
}

/// A role's own rules, and those of all roles that it gathers.
fn gathered(role: &Role) -> Vec<Rule> {
    let mut rules = role.rules.clone();
    for other in &TABLES.roles {
        if other.labels.iter().any(|label| role.gathers.contains(label)) {
            for rule in gathered(other) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
    }
    rules
}

fn binding_object(binding: &Binding) -> Value {
    let subjects: Vec<Value> = binding
        .subjects
        .iter()
        .map(|subject| match subject {
            Subject::User(name) => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
            Subject::Group(name) => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
            Subject::ServiceAccount { namespace, name } => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
        })
        .collect();
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": if binding.namespace.is_empty() { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(&binding.namespace, &binding.name, Map::new()),
        "roleRef": {"apiGroup": GROUP, "kind": binding.role_kind, "name": binding.role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    object
}

fn metadata(namespace: &str, name: &str, mut labels: Map<String, Value>) -> Value {
    labels.insert("kubernetes.io/bootstrapping".into(), json!("rbac-defaults"));
    let mut metadata = json!({"name": name, "labels": labels, "annotations": {AUTO_UPDATE: "true"}});
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

/// Creates what of the policy is missing and completes what was changed, at each start. The namespaces kube-system and
/// kube-public must be there.
pub async fn ensure(objects: &dyn Objects) -> Result<(), ApiError> {
    for resource in ["clusterroles", "roles", "clusterrolebindings", "rolebindings"] {
        let what = GroupResource::new(GROUP, resource);
        let existing = objects.list(&what, "").await?;
        for (_, wanted) in self::objects().into_iter().filter(|(of, _)| *of == what) {
            match existing.iter().find(|object| key(object) == key(&wanted)) {
                None => match objects.create(&what, wanted).await {
                    Ok(_) => {}
                    Err(error) if error.reason == crate::status::Reason::AlreadyExists => {} // another server's
                    Err(error) => return Err(error),
                },
                Some(object) if reconcile(object, &wanted).is_none() => {}
                Some(_) => {
                    let (namespace, name) = key(&wanted);
                    let mut change = |object: &mut Value| {
                        if let Some(updated) = reconcile(object, &wanted) {
                            *object = updated;
                        }
                        Ok(())
                    };
                    objects.update(&what, namespace, name, Precondition::default(), &mut change).await?;
                }
            }
        }
    }
    Ok(())
}

fn key(object: &Value) -> (&str, &str) {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    (text("/metadata/namespace"), text("/metadata/name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_what_it_was() {
        let mut listed = String::new();
        for (resource, object) in objects() {
            let (namespace, name) = key(&object);
            let at = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let size = match object["rules"].as_array() {
                Some(rules) => format!("{} rules", rules.len()),
                None => {
                    let subjects = object["subjects"].as_array().into_iter().flatten();
                    let names: Vec<&str> = subjects.filter_map(|subject| subject["name"].as_str()).collect();
                    format!("{} to {}", object["roleRef"]["name"].as_str().unwrap(), names.join(", "))
                }
            };
            listed.push_str(&format!("{} {at}{name}: {size}\n", resource.resource));
        }
        insta::assert_snapshot!(listed);
    }

    #[test]
    fn every_binding_names_a_role_of_the_policy() {
        for binding in &TABLES.bindings {
            let namespace = if binding.role_kind == "Role" { binding.namespace.as_str() } else { "" };
            let named = |role: &&Role| role.name == binding.role && role.namespace == namespace;
            assert!(TABLES.roles.iter().any(|role| named(&role)), "{}", binding.name);
        }
    }

    #[test]
    fn aggregated_roles_hold_what_they_gather() {
        let of = |name: &str| {
            let role = TABLES.roles.iter().find(|role| role.name == name).unwrap();
            gathered(role)
        };
        let (view, edit, admin) = (of("view"), of("edit"), of("admin"));
        assert!(!view.is_empty());
        assert_eq!(super::super::rbac::uncovered(&edit, &view), []);
        assert_eq!(super::super::rbac::uncovered(&admin, &edit), []);
        assert_ne!(super::super::rbac::uncovered(&view, &edit), []);
        let secrets = |rules: &[Rule]| rules.iter().any(|rule| rule.resources.iter().any(|r| r == "secrets"));
        assert!(!secrets(&view) && secrets(&edit));
    }
}
