//! A watch cache made by hand, and tables of who may do what.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use serde_json::{Value, json};

use super::*;
use crate::{
    admission::{Changed, Changes},
    authz::rbac::GROUP,
    registry::Registry,
};

type Key = (String, String, String);

/// Objects by resource, namespace and name; each write is a revision.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    registry: Arc<Registry>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<Key, (u64, Option<Arc<Value>>)>,
    /// Changes up to here are forgotten.
    forgotten: u64,
    lists: u32,
}

impl Default for Fake {
    fn default() -> Self {
        let registry = Arc::new(Registry::new(Vec::new(), Vec::new()));
        Fake { state: Arc::default(), registry }
    }
}

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, resource: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.set(resource, namespace, name, Some(Arc::new(object)));
    }

    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.set(resource, namespace, name, None);
    }

    fn set(&self, resource: &str, namespace: &str, name: &str, object: Option<Arc<Value>>) {
        let mut state = self.state();
        state.revision += 1;
        let revision = state.revision;
        state.objects.insert((resource.into(), namespace.into(), name.into()), (revision, object));
    }

    pub(crate) fn role(&self, namespace: &str, name: &str, rules: Value) {
        self.put("roles", namespace, name, json!({"rules": rules}));
    }

    pub(crate) fn cluster_role(&self, name: &str, rules: Value) {
        self.put("clusterroles", "", name, json!({"rules": rules}));
    }

    /// Subjects are `User jane`, `Group dev`, `ServiceAccount ns/name`.
    pub(crate) fn bind(&self, namespace: &str, name: &str, kind: &str, role: &str, subjects: &[&str]) {
        let subject = |text: &&str| {
            let (kind, name) = text.split_once(' ').unwrap();
            match name.split_once('/') {
                Some((namespace, name)) => json!({"kind": kind, "namespace": namespace, "name": name}),
                None => json!({"kind": kind, "name": name}),
            }
        };
        let subjects: Vec<Value> = subjects.iter().map(subject).collect();
        let resource = if namespace.is_empty() { "clusterrolebindings" } else { "rolebindings" };
        let role = json!({"apiGroup": GROUP, "kind": kind, "name": role});
        self.put(resource, namespace, name, json!({"subjects": subjects, "roleRef": role}));
    }
}

impl Reader for Fake {
    fn get(&self, what: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (what.resource.clone(), namespace.to_owned(), name.to_owned());
        self.state().objects.get(&key).and_then(|(_, object)| object.clone())
    }

    fn list(&self, what: &GroupResource, namespace: &str) -> Vec<Arc<Value>> {
        let mut state = self.state();
        state.lists += 1;
        let wanted = |key: &Key| key.0 == what.resource && (namespace.is_empty() || key.1 == namespace);
        state
            .objects
            .iter()
            .filter(|(key, _)| wanted(key))
            .filter_map(|(_, (_, object))| object.clone())
            .collect()
    }

    fn changed(&self, what: &GroupResource) -> u64 {
        let state = self.state();
        let own = state.objects.iter().filter(|(key, _)| key.0 == what.resource);
        own.map(|(_, (revision, _))| *revision).max().unwrap_or(0)
    }

    fn changes_after(&self, what: &GroupResource, revision: u64) -> Option<Changes> {
        let current = self.changed(what);
        let state = self.state();
        if revision < state.forgotten {
            return None;
        }
        let own = state.objects.iter().filter(|(key, (at, _))| key.0 == what.resource && *at > revision);
        let objects = own.map(|((_, namespace, name), (_, object))| Changed {
            namespace: namespace.clone(),
            name: name.clone(),
            object: object.clone(),
        });
        Some(Changes { revision: current, objects: objects.collect() })
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }
}

pub(crate) fn authorization(fake: &Fake) -> Arc<Authorization> {
    let authorization = Authorization::new();
    authorization.attach(Arc::new(fake.clone()));
    authorization
}

/// The policy of a new cluster.
pub(crate) fn with_policy() -> Fake {
    let fake = Fake::default();
    for (resource, object) in policy::objects() {
        let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        fake.put(&resource.resource, &namespace, &name, object);
    }
    fake
}

/// `verb group/resource[/sub] namespace/name` with dashes for empty parts, or `verb /path`.
pub(crate) fn what(text: &str) -> Attributes {
    let words: Vec<&str> = text.split(' ').collect();
    if words[1].starts_with('/') {
        return Attributes { verb: words[0].into(), path: words[1].into(), ..Attributes::default() };
    }
    let part = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
    let mut resource = words[1].splitn(3, '/').map(part);
    let (namespace, name) = words[2].split_once('/').unwrap();
    Attributes {
        verb: words[0].into(),
        is_resource: true,
        group: resource.next().unwrap(),
        resource: resource.next().unwrap(),
        subresource: resource.next().unwrap_or_default(),
        namespace: part(namespace),
        name: part(name),
        ..Attributes::default()
    }
}

fn user(name: &str) -> UserInfo {
    match name.split_once('@') {
        Some((name, groups)) => UserInfo::new(name, &groups.split(',').collect::<Vec<_>>()),
        None => UserInfo::new(name, &[]),
    }
}

fn allowed(authorization: &Authorization, who: &str, text: &str) -> bool {
    matches!(authorization.authorize(&user(who), &what(text)), Decision::Allow(_))
}

#[test]
fn the_policy_gives_each_component_what_it_needs_and_no_more() {
    let authorization = authorization(&with_policy());
    const SA: &str = "system:serviceaccount:kube-system:";
    for (who, text, expected) in [
        ("root@system:masters", "delete -/nodes -/a", true),
        ("jane", "list -/pods ns/-", false),
        ("jane", "get /api", true),
        ("jane", "get /healthz", true),
        ("jane", "get /metrics", false),
        ("jane", "create authorization.k8s.io/selfsubjectaccessreviews -/-", true),
        ("jane", "create authorization.k8s.io/subjectaccessreviews -/-", false),
        ("m@system:monitoring", "get /metrics", true),
        ("system:kube-scheduler", "create -/pods/binding ns/a", true),
        ("system:kube-scheduler", "update coordination.k8s.io/leases kube-system/kube-scheduler", true),
        ("system:kube-scheduler", "update coordination.k8s.io/leases kube-system/other", true), // by its role there
        ("system:kube-scheduler", "update coordination.k8s.io/leases ns/other", false),
        ("system:kube-scheduler", "get -/secrets ns/a", false),
        ("system:kube-controller-manager", "watch apps/deployments -/-", true),
        ("system:kube-controller-manager", "delete -/pods ns/a", false),
        ("system:kube-proxy", "watch discovery.k8s.io/endpointslices -/-", true),
        ("kube-apiserver-kubelet-client", "get -/nodes/proxy -/a", true),
        ("kube-apiserver-kubelet-client", "get -/pods ns/a", false),
        ("SA:deployment-controller", "create apps/replicasets ns/-", true),
        ("SA:deployment-controller", "create -/pods ns/-", false),
        ("SA:replicaset-controller", "create -/pods ns/-", true),
        ("SA:endpointslice-controller", "update discovery.k8s.io/endpointslices ns/a", true),
        ("SA:namespace-controller", "deletecollection apps/deployments ns/-", true),
        (
            "SA:certificate-controller",
            "approve certificates.k8s.io/signers -/kubernetes.io/kubelet-serving",
            true,
        ),
        ("SA:root-ca-cert-publisher", "create -/configmaps ns/-", true),
        ("SA:generic-garbage-collector", "patch apps/replicasets ns/a", true),
        ("SA:node-controller", "delete -/pods ns/a", true),
        (
            "b@system:bootstrappers:kubeadm:default-node-token",
            "create certificates.k8s.io/certificatesigningrequests -/-",
            true,
        ),
        ("b@system:bootstrappers:kubeadm:default-node-token", "get -/nodes -/n1", true),
        (
            "b@system:bootstrappers:kubeadm:default-node-token",
            "get -/configmaps kube-system/kubeadm-config",
            true,
        ),
        ("b@system:bootstrappers:kubeadm:default-node-token", "get -/secrets kube-system/a", false),
        ("system:anonymous", "get -/configmaps kube-public/cluster-info", true),
        ("system:anonymous", "get -/configmaps kube-public/other", false),
        ("system:anonymous", "watch -/configmaps kube-public/cluster-info", false),
        (
            "system:node:n1@system:nodes",
            "create certificates.k8s.io/certificatesigningrequests/selfnodeclient -/-",
            true,
        ),
        (
            "system:node:n1@system:nodes",
            "create certificates.k8s.io/certificatesigningrequests/nodeclient -/-",
            false,
        ),
        ("system:node:n1@system:nodes", "watch discovery.k8s.io/endpointslices -/-", true),
        ("system:node:n1", "get -/nodes -/n1", false), // not in the group
    ] {
        let who = who.replace("SA:", SA);
        assert_eq!(allowed(&authorization, &who, text), expected, "{who} {text}");
    }
}

#[test]
fn anonymous_may_read_public_paths_by_rbac() {
    let authorization = authorization(&with_policy());
    let judge = |text| authorization.authorize(&UserInfo::anonymous(), &what(text));
    assert!(matches!(judge("get /version"), Decision::Allow(_)));
    assert_eq!(judge("get /api"), Decision::NoOpinion(String::new()));
}

#[test]
fn a_namespaced_binding_gives_rights_in_its_namespace_only() {
    let fake = with_policy();
    fake.bind("ns", "editors", "ClusterRole", "edit", &["Group dev", "ServiceAccount -/builder"]);
    let authorization = authorization(&fake);
    assert!(allowed(&authorization, "jane@dev", "create apps/deployments ns/-"));
    assert!(!allowed(&authorization, "jane@dev", "create apps/deployments other/-"));
    assert!(!allowed(&authorization, "jane@dev", "list apps/deployments -/-"));
    assert!(!allowed(&authorization, "jane@dev", "get -/nodes -/a"));
    let decision = authorization.authorize(&user("jane@dev"), &what("get -/pods ns/a"));
    let reason = r#"RBAC: allowed by RoleBinding "editors/ns" of ClusterRole "edit" to Group "dev""#;
    assert_eq!(decision, Decision::Allow(reason.into()));
}

#[test]
fn a_service_account_subject_without_a_namespace_is_of_the_bindings() {
    let fake = Fake::default();
    fake.role("ns", "r", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]));
    fake.bind("ns", "b", "Role", "r", &["ServiceAccount builder"]);
    let authorization = authorization(&fake);
    assert!(allowed(&authorization, "system:serviceaccount:ns:builder", "get -/pods ns/a"));
    assert!(!allowed(&authorization, "system:serviceaccount:other:builder", "get -/pods ns/a"));
}

#[test]
fn a_missing_role_is_told_only_when_nothing_else_allows() {
    let fake = Fake::default();
    fake.bind("", "a", "ClusterRole", "gone", &["User jane"]);
    fake.bind("ns", "b", "Role", "lost", &["User jane"]);
    fake.bind("ns", "c", "Role", "lost", &["User jane"]);
    let authorization = authorization(&fake);
    let judge = || authorization.authorize(&user("jane"), &what("get -/pods ns/a"));
    let reason = "RBAC: [clusterrole.rbac.authorization.k8s.io \"gone\" not found, \
                  role.rbac.authorization.k8s.io \"lost\" not found]";
    assert_eq!(judge(), Decision::NoOpinion(reason.into()));
    fake.cluster_role("gone", json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
    assert!(matches!(judge(), Decision::Allow(_)));
}

#[test]
fn a_change_of_a_role_or_binding_counts_from_the_next_request() {
    let fake = with_policy();
    let authorization = authorization(&fake);
    assert!(!allowed(&authorization, "jane", "get -/pods ns/a"));
    fake.bind("ns", "viewers", "ClusterRole", "view", &["User jane"]);
    assert!(allowed(&authorization, "jane", "get -/pods ns/a"));
    fake.remove("rolebindings", "ns", "viewers");
    assert!(!allowed(&authorization, "jane", "get -/pods ns/a"));
}

#[test]
fn the_index_is_not_made_again_while_nothing_changes() {
    let fake = with_policy();
    let authorization = authorization(&fake);
    for _ in 0..5 {
        assert!(!allowed(&authorization, "jane", "get -/pods ns/a"));
    }
    assert_eq!(fake.state().lists, 4);
    fake.put("pods", "ns", "a", json!({}));
    assert!(!allowed(&authorization, "jane", "get -/pods ns/a"));
    assert_eq!(fake.state().lists, 4);
}

#[test]
fn a_node_follows_its_pods_as_they_come_and_go() {
    let fake = with_policy();
    let authorization = authorization(&fake);
    let reads = || allowed(&authorization, "system:node:n1@system:nodes", "get -/secrets ns/s");
    let pod = |node: &str| json!({"spec": {"nodeName": node, "volumes": [{"secret": {"secretName": "s"}}]}});
    assert!(!reads());
    fake.put("pods", "ns", "p", pod("n1"));
    assert!(reads());
    fake.remove("pods", "ns", "p");
    assert!(!reads());
    let lists = fake.state().lists;
    fake.put("pods", "ns", "p", pod("n1"));
    assert!(reads());
    assert_eq!(fake.state().lists, lists, "changes are taken in without a list");
    let revision = fake.state().revision;
    fake.state().forgotten = revision + 1; // as after a burst: list again
    fake.put("pods", "ns", "p", pod("n2"));
    assert!(!reads());
    assert!(fake.state().lists > lists);
}

#[test]
fn a_nodes_refusal_tells_both_reasons() {
    let fake = with_policy();
    fake.bind("", "a", "ClusterRole", "gone", &["Group system:nodes"]);
    let authorization = authorization(&fake);
    let decision = authorization.authorize(&user("system:node:n1@system:nodes"), &what("get -/secrets ns/s"));
    let reason = "no relationship found between node 'n1' and this object\n\
                  RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found";
    assert_eq!(decision, Decision::NoOpinion(reason.into()));
}

#[test]
fn a_refusal_is_in_upstreams_words() {
    for (text, message) in [
        (
            "list -/pods ns/-",
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "ns": why"#,
        ),
        (
            "get apps/deployments/scale ns/a",
            r#"deployments.apps "a" is forbidden: User "jane" cannot get resource "deployments/scale" in API group "apps" in the namespace "ns": why"#,
        ),
        (
            "list -/nodes -/-",
            r#"nodes is forbidden: User "jane" cannot list resource "nodes" in API group "" at the cluster scope: why"#,
        ),
        ("get /metrics", r#"forbidden: User "jane" cannot get path "/metrics": why"#),
    ] {
        assert_eq!(forbidden(&user("jane"), &what(text), "why").message, message);
    }
    assert!(forbidden(&user("a<b"), &what("get /x"), "").message.contains("a&lt;b"));
}

#[test]
fn until_the_cache_is_there_only_masters_may_do_anything() {
    let authorization = Authorization::new();
    assert!(allowed(&authorization, "root@system:masters", "get -/pods ns/a"));
    assert!(!allowed(&authorization, "system:kube-scheduler", "get -/pods ns/a"));
}
