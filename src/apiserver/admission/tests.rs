//! The plugins against a small cluster.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::status::Reason;

/// A watch cache of a few objects.
struct Objects {
    objects: BTreeMap<(String, String, String), Arc<Value>>,
    registry: Registry,
}

impl Objects {
    fn new(objects: &[(&str, Value)]) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let keyed = objects.iter().map(|(resource, object)| {
            let meta = &object["metadata"];
            ((resource.to_string(), text(&meta["namespace"]), text(&meta["name"])), Arc::new(object.clone()))
        });
        Self { objects: keyed.collect(), registry: Registry::new(Vec::new(), Vec::new()) }
    }
}

impl Reader for Objects {
    fn get(&self, what: &GroupResource, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.objects.get(&(what.to_string(), namespace.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, what: &GroupResource, namespace: &str) -> Vec<Arc<Value>> {
        let of = |key: &(String, String, String)| {
            key.0 == what.to_string() && (namespace.is_empty() || key.1 == namespace)
        };
        self.objects.iter().filter(|(key, _)| of(key)).map(|(_, object)| object.clone()).collect()
    }

    fn changed(&self, _what: &GroupResource) -> u64 {
        0
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }
}

fn attributes(operation: Operation, resource: &str, object: Value) -> Attributes {
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    Attributes {
        operation,
        user: UserInfo { name: "someone".to_owned(), ..UserInfo::default() },
        resource: GroupResource::new(group, resource),
        version: "v1".to_owned(),
        kind: String::new(),
        subresource: String::new(),
        namespace: text("namespace"),
        name: text("name"),
        object,
        old: None,
        delete_options: None,
        dry_run: false,
        warnings: Vec::new(),
    }
}

fn as_node(mut attributes: Attributes, node: &str) -> Attributes {
    attributes.user = UserInfo {
        name: format!("system:node:{node}"),
        groups: vec!["system:nodes".to_owned()],
        ..UserInfo::default()
    };
    attributes
}

fn pod(spec: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

#[track_caller]
fn admit(
    plugin: &dyn Plugin,
    attributes: &mut Attributes,
    objects: &[(&str, Value)],
) -> Result<(), ApiError> {
    assert!(plugin.handles(attributes.operation, &attributes.resource, &attributes.subresource));
    let reader = Objects::new(objects);
    plugin.mutate(attributes, &reader)?;
    plugin.validate(attributes, &reader)
}

#[track_caller]
fn refused(plugin: &dyn Plugin, attributes: &mut Attributes, objects: &[(&str, Value)]) -> String {
    admit(plugin, attributes, objects).expect_err("refused").message
}

#[test]
fn nothing_is_made_in_a_namespace_that_is_not_there_or_is_going() {
    let mut create = attributes(Operation::Create, "pods", pod(json!({})));
    let error = admit(&NamespaceLifecycle, &mut create, &[]).unwrap_err();
    assert_eq!(error.message, "namespaces \"default\" not found");
    let going = json!({"metadata": {"name": "default"}, "status": {"phase": "Terminating"}});
    let error = admit(&NamespaceLifecycle, &mut create, &[("namespaces", going)]).unwrap_err();
    assert_eq!(error.reason, Reason::Forbidden);
    assert_eq!(
        error.message,
        "pods \"web\" is forbidden: unable to create new content in namespace default because it is being terminated"
    );
    let cause = &error.details.unwrap().causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("NamespaceTerminating", "metadata.namespace"));
}

#[test]
fn the_systems_namespaces_stay() {
    let mut delete =
        attributes(Operation::Delete, "namespaces", json!({"metadata": {"name": "kube-system"}}));
    assert_eq!(
        refused(&NamespaceLifecycle, &mut delete, &[]),
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
    delete.name = "mine".to_owned();
    admit(&NamespaceLifecycle, &mut delete, &[]).unwrap();
}

#[test]
fn a_pod_runs_as_the_default_account_and_finds_its_token() {
    let account =
        json!({"metadata": {"name": "default", "namespace": "default"}, "imagePullSecrets": [{"name": "p"}]});
    let mut create = attributes(
        Operation::Create,
        "pods",
        pod(json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}]})),
    );
    admit(&ServiceAccount, &mut create, &[("serviceaccounts", account)]).unwrap();
    let name = create.object["spec"]["volumes"][0]["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
    let text = serde_json::to_string(&create.object).unwrap().replace(&name, "kube-api-access-XXXXX");
    insta::assert_json_snapshot!(serde_json::from_str::<Value>(&text).unwrap());
}

#[test]
fn a_pod_that_wants_no_token_gets_none() {
    let account =
        json!({"metadata": {"name": "quiet", "namespace": "default"}, "automountServiceAccountToken": false});
    for (spec, mounted) in [
        (json!({"serviceAccountName": "quiet", "containers": [{"name": "a"}]}), false),
        (
            json!({"serviceAccountName": "quiet", "automountServiceAccountToken": true, "containers": [{"name": "a"}]}),
            true,
        ),
    ] {
        let mut create = attributes(Operation::Create, "pods", pod(spec));
        admit(&ServiceAccount, &mut create, &[("serviceaccounts", account.clone())]).unwrap();
        assert_eq!(create.object["spec"]["volumes"].is_array(), mounted);
    }
}

#[test]
fn a_missing_account_is_named() {
    let mut create = attributes(Operation::Create, "pods", pod(json!({"serviceAccountName": "x"})));
    assert_eq!(
        refused(&ServiceAccount, &mut create, &[]),
        "pods \"web\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found"
    );
}

#[test]
fn a_pod_tolerates_its_nodes_trouble_for_five_minutes() {
    let mut create = attributes(
        Operation::Create,
        "pods",
        pod(
            json!({"tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]}),
        ),
    );
    admit(&DefaultTolerationSeconds, &mut create, &[]).unwrap();
    assert_eq!(create.object["spec"]["tolerations"].as_array().unwrap().len(), 2);
    let before = create.object.clone();
    admit(&DefaultTolerationSeconds, &mut create, &[]).unwrap();
    assert_eq!(create.object, before);
}

#[test]
fn a_pods_priority_is_that_of_its_class() {
    let class = json!({"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"});
    let default = json!({"metadata": {"name": "usual"}, "value": 3, "globalDefault": true});
    let classes =
        [("priorityclasses.scheduling.k8s.io", class), ("priorityclasses.scheduling.k8s.io", default)];
    for (spec, name, value, policy) in [
        (json!({"priorityClassName": "high"}), json!("high"), 7, "Never"),
        (json!({}), json!("usual"), 3, "PreemptLowerPriority"),
    ] {
        let mut create = attributes(Operation::Create, "pods", pod(spec));
        admit(&Priority, &mut create, &classes).unwrap();
        let spec = &create.object["spec"];
        assert_eq!((&spec["priorityClassName"], &spec["priority"]), (&name, &json!(value)));
        assert_eq!(spec["preemptionPolicy"], policy);
    }
    let mut create = attributes(Operation::Create, "pods", pod(json!({"priorityClassName": "x"})));
    assert_eq!(
        refused(&Priority, &mut create, &classes),
        "pods \"web\" is forbidden: no PriorityClass with name x was found"
    );
    let mut create = attributes(Operation::Create, "pods", pod(json!({"priority": 9})));
    assert!(refused(&Priority, &mut create, &classes).contains("the integer value of priority (9)"));
}

#[test]
fn a_new_node_is_not_ready() {
    let mut create = attributes(Operation::Create, "nodes", json!({"metadata": {"name": "n"}}));
    admit(&TaintNodesByCondition, &mut create, &[]).unwrap();
    admit(&TaintNodesByCondition, &mut create, &[]).unwrap();
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(create.object["spec"]["taints"], taint);
}

#[test]
fn a_runtime_class_exists_and_brings_its_overhead() {
    let class = json!({"metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}}});
    let mut create = attributes(Operation::Create, "pods", pod(json!({"runtimeClassName": "vm"})));
    admit(&RuntimeClass, &mut create, &[("runtimeclasses.node.k8s.io", class)]).unwrap();
    assert_eq!(create.object["spec"]["overhead"]["memory"], "64Mi");
    assert_eq!(create.object["spec"]["nodeSelector"]["kata"], "yes");
    let mut create = attributes(Operation::Create, "pods", pod(json!({"runtimeClassName": "x"})));
    assert_eq!(
        refused(&RuntimeClass, &mut create, &[]),
        "pods \"web\" is forbidden: pod rejected: RuntimeClass \"x\" not found"
    );
}

#[test]
fn a_node_writes_only_its_own_node() {
    let node = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let create = |object: Value| as_node(attributes(Operation::Create, "nodes", object), "n1");
    let mut fine = create(node("n1", json!({"kubernetes.io/os": "linux", "mine": "x"})));
    admit(&NodeRestriction, &mut fine, &[]).unwrap();
    for (object, why) in [
        (node("n2", json!({})), "node \"n1\" is not allowed to modify node \"n2\""),
        (
            node(
                "n1",
                json!({"node-restriction.kubernetes.io/a": "", "node-role.kubernetes.io/control-plane": ""}),
            ),
            "node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/a, node-role.kubernetes.io/control-plane",
        ),
    ] {
        let message = refused(&NodeRestriction, &mut create(object), &[]);
        assert!(message.ends_with(why), "{message}");
    }
    let update = |old: Value, new: Value| {
        let mut update = create(json!({"metadata": {"name": "n1"}, "spec": new}));
        update.operation = Operation::Update;
        update.old = Some(Arc::new(json!({"metadata": {"name": "n1"}, "spec": old})));
        update
    };
    let range = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]});
    for (old, new, what) in [
        (json!({"taints": [{"key": "a"}]}), json!({}), "taints"),
        (json!({}), range.clone(), "podCIDRs"),
        (range.clone(), json!({"podCIDR": "0.0.0.0/0", "podCIDRs": ["0.0.0.0/0"]}), "podCIDRs"),
    ] {
        let message = refused(&NodeRestriction, &mut update(old, new), &[]);
        assert!(message.ends_with(&format!("node \"n1\" is not allowed to modify {what}")), "{message}");
    }
    admit(&NodeRestriction, &mut update(range.clone(), range.clone()), &[]).unwrap();
    let mut chosen = create(json!({"metadata": {"name": "n1"}, "spec": range}));
    let message = refused(&NodeRestriction, &mut chosen, &[]);
    assert!(message.ends_with("node \"n1\" is not allowed to set podCIDRs"), "{message}");
}

#[test]
fn a_node_makes_only_mirror_pods_of_its_own() {
    let itself = json!({"metadata": {"name": "n1", "uid": "u1"}});
    let mirror = |node: &str| {
        json!({"metadata": {"name": "static", "namespace": "kube-system",
            "annotations": {"kubernetes.io/config.mirror": "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
            "spec": {"nodeName": node}})
    };
    let create = |object: Value| as_node(attributes(Operation::Create, "pods", object), "n1");
    admit(&NodeRestriction, &mut create(mirror("n1")), &[("nodes", itself.clone())]).unwrap();
    let mut secret = mirror("n1");
    secret["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "x"}}]);
    for (object, why) in [
        (mirror("n2"), "node \"n1\" can only create pods with spec.nodeName set to itself"),
        (
            pod(json!({"nodeName": "n1"})),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create mirror pods",
        ),
        (secret, "node \"n1\" can not create pods that reference secrets"),
    ] {
        let message = refused(&NodeRestriction, &mut create(object), &[("nodes", itself.clone())]);
        assert!(message.ends_with(why), "{message}");
    }
}

#[test]
fn a_node_deletes_and_reports_on_its_own_pods() {
    let mine = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"nodeName": "n1"}});
    let mut delete = as_node(attributes(Operation::Delete, "pods", pod(json!({}))), "n1");
    admit(&NodeRestriction, &mut delete, &[("pods", mine.clone())]).unwrap();
    let mut other = as_node(delete.clone(), "n2");
    assert!(
        refused(&NodeRestriction, &mut other, &[("pods", mine.clone())])
            .ends_with("node \"n2\" can only delete pods with spec.nodeName set to itself")
    );
    let mut status = as_node(attributes(Operation::Update, "pods", mine.clone()), "n1");
    status.subresource = "status".to_owned();
    status.old = Some(Arc::new(mine));
    admit(&NodeRestriction, &mut status, &[]).unwrap();
    status.object["metadata"]["labels"] = json!({"a": "b"});
    assert!(refused(&NodeRestriction, &mut status, &[]).contains("cannot update labels through pod status"));
}

#[test]
fn a_node_gets_tokens_for_its_own_pods_and_their_audiences() {
    let pod = json!({"metadata": {"name": "web", "namespace": "default", "uid": "u"}, "spec": {"nodeName": "n1",
        "volumes": [{"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]}});
    let ask = |node: &str, uid: &str, audiences: Value| {
        let object = json!({"spec": {"audiences": audiences,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid}}});
        let mut ask = as_node(attributes(Operation::Create, "serviceaccounts", object), node);
        ask.subresource = "token".to_owned();
        ask.namespace = "default".to_owned();
        ask
    };
    let objects = [("pods", pod)];
    admit(&NodeRestriction, &mut ask("n1", "u", json!([])), &objects).unwrap();
    for (mut ask, why) in [
        (ask("n2", "u", json!([])), "node requested token bound to a pod scheduled on a different node"),
        (ask("n1", "v", json!([])), "The object might have been deleted and then recreated"),
        (ask("n1", "u", json!(["vault"])), "is not authorized to request tokens for this audience"),
    ] {
        let message = refused(&NodeRestriction, &mut ask, &objects);
        assert!(message.ends_with(why), "{message}");
    }
}

#[test]
fn a_node_renews_its_own_lease() {
    let lease = |namespace: &str, name: &str| {
        let object = json!({"metadata": {"name": name, "namespace": namespace}});
        as_node(attributes(Operation::Update, "leases.coordination.k8s.io", object), "n1")
    };
    admit(&NodeRestriction, &mut lease("kube-node-lease", "n1"), &[]).unwrap();
    assert!(admit(&NodeRestriction, &mut lease("kube-node-lease", "n2"), &[]).is_err());
    assert!(admit(&NodeRestriction, &mut lease("default", "n1"), &[]).is_err());
}

#[test]
fn a_node_tells_of_its_own_devices() {
    let slice = |node: &str| json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
    let create = |node: &str| {
        as_node(attributes(Operation::Create, "resourceslices.resource.k8s.io", slice(node)), "n1")
    };
    admit(&NodeRestriction, &mut create("n1"), &[]).unwrap();
    let why = "can only create ResourceSlice with the same NodeName as the requesting node";
    assert!(refused(&NodeRestriction, &mut create("n2"), &[]).ends_with(why));
    let mut delete = create("n1");
    delete.operation = Operation::Delete;
    delete.old = Some(Arc::new(slice("n1")));
    admit(&NodeRestriction, &mut delete, &[]).unwrap();
    delete.old = Some(Arc::new(slice("n2")));
    assert!(admit(&NodeRestriction, &mut delete, &[]).is_err());
}

#[test]
fn devices_that_others_use_are_for_namespaces_that_are_marked() {
    let namespace =
        |labels: Value| ("namespaces", json!({"metadata": {"name": "default", "labels": labels}}));
    let marked = namespace(json!({"resource.kubernetes.io/admin-access": "true"}));
    let request = |admin: bool| json!({"requests": [{"exactly": {"adminAccess": admin}}]});
    let claim = |spec: Value| json!({"metadata": {"name": "c", "namespace": "default"}, "spec": spec});
    for (resource, spec) in [
        ("resourceclaims.resource.k8s.io", json!({"devices": request(true)})),
        ("resourceclaimtemplates.resource.k8s.io", json!({"spec": {"devices": request(true)}})),
    ] {
        let mut create = attributes(Operation::Create, resource, claim(spec));
        admit(&DeviceAdminAccess, &mut create, std::slice::from_ref(&marked)).unwrap();
        let message = refused(&DeviceAdminAccess, &mut create, &[namespace(json!({}))]);
        assert!(
            message.contains("spec.devices.requests[0].adminAccess: Forbidden: admin access"),
            "{message}"
        );
    }
    let usual = claim(json!({"devices": request(false)}));
    let mut create = attributes(Operation::Create, "resourceclaims.resource.k8s.io", usual.clone());
    admit(&DeviceAdminAccess, &mut create, &[]).unwrap();
    let mut granted = usual.clone();
    granted["status"] = json!({"allocation": {"devices": {"results": [{"adminAccess": true}]}}});
    let mut status = attributes(Operation::Update, "resourceclaims.resource.k8s.io", granted);
    status.subresource = "status".to_owned();
    status.old = Some(Arc::new(usual));
    assert!(admit(&DeviceAdminAccess, &mut status, &[]).is_err());
    status.old = Some(Arc::new(status.object.clone()));
    admit(&DeviceAdminAccess, &mut status, &[]).unwrap();
}

/// Allows what it lists, as `verb subresource name`.
struct Only(&'static [&'static str]);

impl crate::authz::Authorizer for Only {
    fn authorize(&self, _user: &UserInfo, what: &crate::authz::Attributes) -> crate::authz::Decision {
        let asked = format!("{} {} {}", what.verb, what.subresource, what.name);
        if self.0.contains(&asked.trim_end()) {
            return crate::authz::Decision::Allow(String::new());
        }
        crate::authz::Decision::NoOpinion(String::new())
    }
}

#[test]
fn who_writes_a_claims_status_has_the_right_for_that_part() {
    let field = json!({"key": "metadata.name", "operator": "In", "values": ["n1"]});
    let on_n1 = json!({"nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]}});
    let told = json!([{"driver": "a.b", "pool": "p", "device": "d"}]);
    let bound = json!({"allocation": on_n1, "reservedFor": [{"name": "p"}]});
    let reports = json!({"allocation": on_n1, "reservedFor": [{"name": "p"}], "devices": told});
    let ask = |rights: &'static [&'static str], node: &str, old: &Value, new: &Value| {
        let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "status": new});
        let mut update = attributes(Operation::Update, "resourceclaims.resource.k8s.io", claim);
        update.subresource = "status".to_owned();
        update.old = Some(Arc::new(json!({"status": old})));
        update.user.name = "system:serviceaccount:kube-system:driver".to_owned();
        update.user.extra =
            BTreeMap::from([("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()])]);
        admit(&DeviceStatusRights::new(Arc::new(Only(rights))), &mut update, &[])
    };
    let nothing = json!({});
    ask(&["update binding"], "n1", &nothing, &bound).unwrap();
    ask(&["patch binding"], "n1", &bound, &nothing).unwrap();
    let refused = ask(&[], "n1", &nothing, &bound).unwrap_err();
    assert!(refused.message.contains("resourceclaims/binding"), "{}", refused.message);
    ask(&[], "n1", &bound, &bound).unwrap();

    ask(&["associated-node:update driver a.b"], "n1", &bound, &reports).unwrap();
    ask(&["arbitrary-node:patch driver a.b"], "n2", &reports, &bound).unwrap();
    for (rights, node) in [
        (&["associated-node:update driver a.b"][..], "n2"),
        (&["associated-node:update driver c.d"], "n1"),
        (&["update binding"], "n1"),
    ] {
        let refused = ask(rights, node, &bound, &reports).unwrap_err();
        assert!(refused.message.contains("resourceclaims/driver"), "{}", refused.message);
    }
    ask(&["update binding"], "n1", &reports, &nothing).unwrap();
}

fn class(name: &str, made: &str, more: Value) -> (&'static str, Value) {
    let mut class = more;
    class["metadata"]["name"] = name.into();
    class["metadata"]["creationTimestamp"] = made.into();
    ("storageclasses.storage.k8s.io", class)
}

#[test]
fn a_claim_that_names_no_class_gets_the_newest_default_one() {
    let default =
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    let classes = [
        class("old", "2026-01-01T00:00:00Z", default.clone()),
        class("b", "2026-01-02T00:00:00Z", default.clone()),
        class("a", "2026-01-02T00:00:00Z", default),
        class("special", "2026-01-03T00:00:00Z", json!({})),
    ];
    let chosen = |spec: Value, classes: &[(&str, Value)]| {
        let claim = json!({"metadata": {"name": "c", "namespace": "default"}, "spec": spec});
        let mut create = attributes(Operation::Create, "persistentvolumeclaims", claim);
        admit(&DefaultStorageClass, &mut create, classes).unwrap();
        create.object["spec"]["storageClassName"].clone()
    };
    assert_eq!(chosen(json!({}), &classes), "a");
    assert_eq!(chosen(json!({"storageClassName": ""}), &classes), "", "it wants none");
    assert_eq!(chosen(json!({}), &classes[3..]), Value::Null);
}

#[test]
fn volumes_and_claims_stay_while_they_are_in_use() {
    for (resource, finalizer) in [
        ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
        ("persistentvolumes", "kubernetes.io/pv-protection"),
    ] {
        let object = json!({"metadata": {"name": "x", "finalizers": ["mine/y"]}});
        let mut create = attributes(Operation::Create, resource, object);
        for _ in 0..2 {
            admit(&StorageObjectInUseProtection, &mut create, &[]).unwrap();
            assert_eq!(create.object["metadata"]["finalizers"], json!(["mine/y", finalizer]));
        }
    }
}

#[test]
fn a_claim_grows_if_its_class_allows_it() {
    let growing = class("fast", "x", json!({"allowVolumeExpansion": true}));
    let claim = |phase: &str, size: &str| {
        let resources = json!({"requests": {"storage": size}});
        json!({"metadata": {"name": "c", "namespace": "default"}, "status": {"phase": phase},
            "spec": {"storageClassName": "fast", "resources": resources}})
    };
    let grow = |phase: &str| {
        let mut update = attributes(Operation::Update, "persistentvolumeclaims", claim(phase, "2Gi"));
        update.old = Some(Arc::new(claim(phase, "1Gi")));
        update
    };
    admit(&PersistentVolumeClaimResize, &mut grow("Bound"), std::slice::from_ref(&growing)).unwrap();
    let message = refused(&PersistentVolumeClaimResize, &mut grow("Pending"), &[growing]);
    assert!(message.ends_with("Only bound persistent volume claims can be expanded"), "{message}");
    let message = refused(&PersistentVolumeClaimResize, &mut grow("Bound"), &[class("fast", "x", json!({}))]);
    assert!(message.contains("must support resize"), "{message}");
}

#[test]
fn who_asks_for_a_certificate_is_who_they_are() {
    let csr = json!({"metadata": {"name": "c"}, "spec": {"username": "admin", "groups": ["system:masters"]}});
    let mut create = attributes(Operation::Create, "certificatesigningrequests.certificates.k8s.io", csr);
    create.user.groups = vec!["system:authenticated".to_owned()];
    admit(&CertificateRequester, &mut create, &[]).unwrap();
    assert_eq!(create.object["spec"], json!({"username": "someone", "groups": ["system:authenticated"]}));
}
