//! What a node may do, resource by resource. Pure: the graph and the owners of volumes are arguments.
#![deny(clippy::disallowed_methods)]

use api::{quote, selector::FieldSelector};

use super::graph::{Graph, Kind};
use crate::{
    authz::{Attributes, Decision, rbac::Rule},
    status::GroupResource,
};

/// What a judgement looks at.
pub(super) struct View<'a> {
    /// Empty if the user's name says no node.
    pub(super) node: &'a str,
    pub(super) graph: &'a Graph,
    pub(super) rules: &'a [Rule],
    pub(super) owner: &'a dyn Fn(&GroupResource, &str) -> Owner,
}

/// What a cluster-scoped object belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Node(String),
    Claim { namespace: String, name: String },
}

pub(super) fn authorize(view: &View<'_>, what: &Attributes) -> Decision {
    if view.node.is_empty() {
        let user = format!("{}{}", super::NODE_PREFIX, view.node);
        return no(format!("unknown node for user {}", quote(&user)));
    }
    if !what.is_resource {
        return by_rules(view, what);
    }
    match (what.group.as_str(), what.resource.as_str()) {
        ("", "secrets") => read_referred(view, Kind::Secret, what),
        ("", "configmaps") => read_referred(view, Kind::ConfigMap, what),
        ("", "persistentvolumeclaims") => claim(view, what),
        ("", "persistentvolumes") | ("storage.k8s.io", "volumeattachments") => get_owned(view, what),
        ("", "serviceaccounts") => service_account(view, what),
        ("coordination.k8s.io", "leases") => lease(view, what),
        ("storage.k8s.io", "csinodes") => csi_node(view, what),
        ("", "nodes") => node(view, what),
        ("", "pods") => pod(view, what),
        ("resource.k8s.io", "resourceclaims") => {
            only_get(what).unwrap_or_else(|| referred(view, Kind::DeviceClaim, what))
        }
        ("resource.k8s.io", "resourceslices") => slice(view, what),
        // Pod certificates are not there; what a node may do with them is told when they are.
        ("resource.k8s.io", _) | ("certificates.k8s.io", "podcertificaterequests") => no(""),
        _ => by_rules(view, what),
    }
}

fn by_rules(view: &View<'_>, what: &Attributes) -> Decision {
    if view.rules.iter().any(|rule| rule.allows(what)) { yes() } else { no("") }
}

fn read_referred(view: &View<'_>, kind: Kind, what: &Attributes) -> Decision {
    if !matches!(what.verb.as_str(), "get" | "list" | "watch") {
        return no("can only read resources of this type");
    }
    if !what.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if what.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    referred(view, kind, what)
}

fn referred(view: &View<'_>, kind: Kind, what: &Attributes) -> Decision {
    if what.name.is_empty() {
        return no("No Object name found");
    }
    related(view, view.graph.refers(view.node, kind, &what.namespace, &what.name))
}

fn related(view: &View<'_>, holds: bool) -> Decision {
    if holds {
        return yes();
    }
    no(format!("no relationship found between node '{}' and this object", view.node))
}

/// The refusal of everything but getting one object itself.
fn only_get(what: &Attributes) -> Option<Decision> {
    if what.verb != "get" {
        return Some(no("can only get individual resources of this type"));
    }
    (!what.subresource.is_empty()).then(|| no("cannot get subresource"))
}

fn claim(view: &View<'_>, what: &Attributes) -> Decision {
    if what.subresource == "status" {
        if !matches!(what.verb.as_str(), "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        return referred(view, Kind::Claim, what);
    }
    only_get(what).unwrap_or_else(|| referred(view, Kind::Claim, what))
}

fn get_owned(view: &View<'_>, what: &Attributes) -> Decision {
    if let Some(refusal) = only_get(what) {
        return refusal;
    }
    owned(view, what)
}

fn owned(view: &View<'_>, what: &Attributes) -> Decision {
    if what.name.is_empty() {
        return no("No Object name found");
    }
    let resource = GroupResource::new(what.group.as_str(), what.resource.as_str());
    let holds = match (view.owner)(&resource, &what.name) {
        Owner::Nobody => false,
        Owner::Node(node) => node == view.node,
        Owner::Claim { namespace, name } => view.graph.refers(view.node, Kind::Claim, &namespace, &name),
    };
    related(view, holds)
}

fn service_account(view: &View<'_>, what: &Attributes) -> Decision {
    if what.verb == "get" && what.subresource.is_empty() {
        return read_referred(view, Kind::ServiceAccount, what);
    }
    if what.verb != "create" || what.name.is_empty() {
        return no("can only create tokens for individual service accounts");
    }
    if what.subresource != "token" {
        return no("can only create token subresource of serviceaccount");
    }
    referred(view, Kind::ServiceAccount, what)
}

/// The verbs of an object that a node has to itself. For a create the name is not known yet: NodeRestriction looks.
fn is_own_write(what: &Attributes) -> bool {
    matches!(what.verb.as_str(), "get" | "create" | "update" | "patch" | "delete")
}

fn lease(view: &View<'_>, what: &Attributes) -> Decision {
    if !is_own_write(what) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if what.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if what.verb != "create" && what.name != view.node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(view: &View<'_>, what: &Attributes) -> Decision {
    if !is_own_write(what) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !what.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if what.verb != "create" && what.name != view.node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

/// What a node tells of its devices.
fn slice(view: &View<'_>, what: &Attributes) -> Decision {
    if !what.subresource.is_empty() {
        return no("cannot authorize ResourceSlice subresources");
    }
    match what.verb.as_str() {
        // Whose it will be is for NodeRestriction to look at.
        "create" => yes(),
        "get" | "update" | "patch" | "delete" => owned(view, what),
        "list" | "watch" | "deletecollection" if selects_node(what, view.node) => yes(),
        "list" | "watch" | "deletecollection" => {
            no("can only list/watch/deletecollection resourceslices with nodeName field selector")
        }
        _ => {
            no("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, \
                 patch, delete, deletecollection")
        }
    }
}

fn node(view: &View<'_>, what: &Attributes) -> Decision {
    let node = view.node;
    match (what.subresource.as_str(), what.verb.as_str()) {
        // Which node is written is for NodeRestriction to look at.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if what.name == node => yes(),
        ("", "get" | "list" | "watch") if what.name.is_empty() => {
            no(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("", "get" | "list" | "watch") => {
            no(format!("node '{node}' cannot read '{}', only its own Node object", what.name))
        }
        _ => no(""),
    }
}

fn pod(view: &View<'_>, what: &Attributes) -> Decision {
    let runs = || related(view, view.graph.runs(view.node, &what.namespace, &what.name));
    match (what.subresource.as_str(), what.verb.as_str()) {
        ("", "get") if what.name.is_empty() => no("No Object name found"),
        ("", "get") => runs(),
        ("", "list" | "watch") if selects_node(what, view.node) => yes(),
        ("", "list" | "watch") if !what.name.is_empty() => runs(),
        ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
        // Mirror pods, the status of its pods, their eviction: NodeRestriction looks at whose they are.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
        _ => no(""),
    }
}

fn selects_node(what: &Attributes, node: &str) -> bool {
    let selector = what.field_selector.as_deref().and_then(|text| text.parse::<FieldSelector>().ok());
    selector.is_some_and(|selector| selector.requires_exact("spec.nodeName") == Some(node))
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::policy;

    fn graph() -> Graph {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "serviceAccountName": "sa", "volumes": [
            {"secret": {"secretName": "s"}}, {"configMap": {"name": "c"}},
            {"persistentVolumeClaim": {"claimName": "claim"}},
        ], "resourceClaims": [{"name": "d", "resourceClaimName": "devices"}]}});
        let mut graph = Graph::default();
        graph.put("ns", "p", &pod);
        graph
    }

    /// `verb group/resource[/sub] namespace/name [selector]`; a dash stands for an empty part.
    fn what(text: &str) -> Attributes {
        let words: Vec<&str> = text.split(' ').collect();
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
            field_selector: words.get(3).map(|text| (*text).to_owned()),
            ..Attributes::default()
        }
    }

    #[track_caller]
    fn check(text: &str, expected: Decision) {
        let owner = |resource: &GroupResource, name: &str| match (resource.resource.as_str(), name) {
            ("persistentvolumes", "pv") => Owner::Claim { namespace: "ns".into(), name: "claim".into() },
            ("volumeattachments", "va") | ("resourceslices", "slice") => Owner::Node("n1".into()),
            ("volumeattachments", "other") => Owner::Node("n2".into()),
            _ => Owner::Nobody,
        };
        let (graph, rules) = (graph(), policy::node_rules());
        let view = View { node: "n1", graph: &graph, rules: &rules, owner: &owner };
        assert_eq!(authorize(&view, &what(text)), expected, "{text}");
    }

    #[test]
    fn a_node_may_do_what_its_pods_need() {
        for text in [
            "get -/secrets ns/s",
            "watch -/secrets ns/s",
            "list -/configmaps ns/c",
            "get -/persistentvolumeclaims ns/claim",
            "patch -/persistentvolumeclaims/status ns/claim",
            "get -/persistentvolumes -/pv",
            "get storage.k8s.io/volumeattachments -/va",
            "get -/serviceaccounts ns/sa",
            "create -/serviceaccounts/token ns/sa",
            "get resource.k8s.io/resourceclaims ns/devices",
            "create resource.k8s.io/resourceslices -/-",
            "update resource.k8s.io/resourceslices -/slice",
            "watch resource.k8s.io/resourceslices -/- spec.nodeName=n1",
            "deletecollection resource.k8s.io/resourceslices -/- spec.nodeName=n1",
            "get coordination.k8s.io/leases kube-node-lease/n1",
            "create coordination.k8s.io/leases kube-node-lease/-",
            "patch storage.k8s.io/csinodes -/n1",
            "create -/nodes -/-",
            "get -/nodes -/n1",
            "watch -/nodes -/n1",
            "patch -/nodes/status -/n1",
            "get -/pods ns/p",
            "list -/pods -/- spec.nodeName=n1",
            "watch -/pods -/- spec.nodeName=n1,metadata.namespace=x",
            "create -/pods ns/-",
            "delete -/pods ns/p",
            "patch -/pods/status ns/p",
            "create -/pods/eviction ns/p",
            "create -/events ns/-",
            "list -/services -/-",
            "watch node.k8s.io/runtimeclasses -/-",
            "create certificates.k8s.io/certificatesigningrequests -/-",
            "create authentication.k8s.io/tokenreviews -/-",
        ] {
            check(text, Decision::Allow(String::new()));
        }
    }

    #[test]
    fn a_node_may_do_nothing_with_what_belongs_to_others() {
        let none = "no relationship found between node 'n1' and this object";
        for (text, reason) in [
            ("get -/secrets ns/other", none),
            ("get -/secrets elsewhere/s", none),
            ("list -/secrets ns/-", "No Object name found"),
            ("list -/secrets -/-", "can only read namespaced object of this type"),
            ("update -/secrets ns/s", "can only read resources of this type"),
            ("get -/configmaps ns/s", none),
            ("list -/persistentvolumeclaims ns/claim", "can only get individual resources of this type"),
            ("get -/persistentvolumes -/other", none),
            ("get storage.k8s.io/volumeattachments -/other", none),
            ("create -/serviceaccounts/token ns/default", none),
            ("get resource.k8s.io/resourceclaims ns/other", none),
            ("list resource.k8s.io/resourceclaims ns/-", "can only get individual resources of this type"),
            ("delete resource.k8s.io/resourceslices -/other", none),
            (
                "list resource.k8s.io/resourceslices -/- spec.nodeName=n2",
                "can only list/watch/deletecollection resourceslices with nodeName field selector",
            ),
            ("list resource.k8s.io/deviceclasses -/-", ""),
            ("create -/serviceaccounts ns/sa", "can only create token subresource of serviceaccount"),
            ("delete -/serviceaccounts ns/sa", "can only create tokens for individual service accounts"),
            (
                "list coordination.k8s.io/leases kube-node-lease/-",
                "can only get, create, update, patch, or delete a node lease",
            ),
            (
                "get coordination.k8s.io/leases ns/n1",
                "can only access leases in the \"kube-node-lease\" system namespace",
            ),
            (
                "update coordination.k8s.io/leases kube-node-lease/n2",
                "can only access node lease with the same name as the requesting node",
            ),
            (
                "update storage.k8s.io/csinodes -/n2",
                "can only access CSINode with the same name as the requesting node",
            ),
            ("get -/nodes -/n2", "node 'n1' cannot read 'n2', only its own Node object"),
            ("list -/nodes -/-", "node 'n1' cannot read all nodes, only its own Node object"),
            ("delete -/nodes -/n1", ""),
            ("get -/pods ns/other", none),
            ("list -/pods -/-", "can only list/watch pods with spec.nodeName field selector"),
            (
                "list -/pods -/- spec.nodeName=n2",
                "can only list/watch pods with spec.nodeName field selector",
            ),
            (
                "list -/pods -/- spec.nodeName!=n1",
                "can only list/watch pods with spec.nodeName field selector",
            ),
            ("update -/pods ns/p", ""),
            ("get -/pods/log ns/p", ""),
            ("create -/services ns/x", ""),
            ("get apps/deployments ns/x", ""),
        ] {
            check(text, Decision::NoOpinion(reason.into()));
        }
    }
}
