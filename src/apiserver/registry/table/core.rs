//! core/v1: namespaces, nodes, pods, what pods are made from, services, configuration, events.

use std::sync::Arc;

use super::acting::{Actions, acting, connect, or_absent, part};
use super::apps::scale;
use super::{Cluster, rules};
use crate::actions::{Binding, Eviction};
use crate::registry::columns::{config, event, network, node, pod as pods, workload};
use crate::registry::strategy::service::Services;
use crate::registry::strategy::{
    config as configuration, endpoints, event as events, namespace, node as nodes, pod,
    replication_controller,
};
use crate::registry::{Field, Resource, Scope, Verbs, Virtual};

const EXEC_VERBS: Verbs = Verbs::CREATE.and(Verbs::GET);
/// With HEAD, which is a `get`.
const PROXY_VERBS: Verbs =
    Verbs::CREATE.and(Verbs::DELETE).and(Verbs::GET).and(Verbs::OPTIONS).and(Verbs::PATCH).and(Verbs::UPDATE);

pub(super) fn rows(cluster: &Cluster, actions: &Actions) -> Vec<Resource> {
    let mut rows = vec![namespaces(), node_row(actions), pod_row(actions), service_row(cluster, actions)];
    rows.extend(replicated());
    rows.extend(data(actions));
    rows.push(event_row());
    rows
}

fn namespaces() -> Resource {
    Resource::cluster("", "v1", "Namespace", "namespaces", rules(namespace::NAMESPACES))
        .short(&["ns"])
        .with_verbs(Verbs::ALL.without(Verbs::DELETE_COLLECTION))
        .with_columns(config::namespaces())
        .selectable("status.phase", "")
        .with_status()
        .with_subresource(part("finalize", Verbs::UPDATE, namespace::FINALIZE))
}

fn node_row(actions: &Actions) -> Resource {
    let proxy = or_absent(actions.node_proxy.as_ref(), "nodes/proxy");
    Resource::cluster("", "v1", "Node", "nodes", rules(nodes::NODES))
        .short(&["no"])
        .with_columns(node::nodes())
        .selectable("spec.unschedulable", "false")
        .with_status()
        .with_subresource(connect("proxy", PROXY_VERBS, ("", "v1", "NodeProxyOptions"), proxy))
}

fn pod_row(actions: &Actions) -> Resource {
    let on = |action, name| or_absent(action, name);
    let (binding, eviction) = (Arc::new(Binding::of_pod()), Arc::new(Eviction::default()));
    Resource::namespaced("", "v1", "Pod", "pods", rules(pod::PODS))
        .short(&["po"])
        .in_categories(&["all"])
        .with_columns(pods::pods())
        .selectable("spec.nodeName", "")
        .selectable("spec.restartPolicy", "")
        .selectable("spec.schedulerName", "")
        .selectable("spec.serviceAccountName", "")
        .selectable("spec.hostNetwork", "false")
        .selectable("status.phase", "")
        .selectable("status.podIP", "")
        .selectable("status.nominatedNodeName", "")
        .with_status()
        .with_subresource(acting("binding", Verbs::CREATE, ("", "v1", "Binding"), binding))
        .with_subresource(acting("eviction", Verbs::CREATE, ("policy", "v1", "Eviction"), eviction))
        .with_subresource(part(
            "ephemeralcontainers",
            Verbs::GET.and(Verbs::PATCH).and(Verbs::UPDATE),
            pod::EPHEMERAL_CONTAINERS,
        ))
        // No resize: a node agent that does not carry it out would make the API promise what never happens.
        .with_subresource(connect("log", Verbs::GET, ("", "v1", "Pod"), on(actions.log.as_ref(), "pods/log")))
        .with_subresource(connect(
            "exec",
            EXEC_VERBS,
            ("", "v1", "PodExecOptions"),
            on(actions.exec.as_ref(), "pods/exec"),
        ))
        .with_subresource(connect(
            "attach",
            EXEC_VERBS,
            ("", "v1", "PodAttachOptions"),
            on(actions.attach.as_ref(), "pods/attach"),
        ))
        .with_subresource(connect(
            "portforward",
            EXEC_VERBS,
            ("", "v1", "PodPortForwardOptions"),
            on(actions.port_forward.as_ref(), "pods/portforward"),
        ))
        .with_subresource(connect(
            "proxy",
            PROXY_VERBS,
            ("", "v1", "PodProxyOptions"),
            on(actions.pod_proxy.as_ref(), "pods/proxy"),
        ))
}

fn service_row(cluster: &Cluster, actions: &Actions) -> Resource {
    let strategy = Services { families: cluster.service_families.clone() };
    let proxy = or_absent(actions.service_proxy.as_ref(), "services/proxy");
    Resource::namespaced("", "v1", "Service", "services", Arc::new(strategy))
        .short(&["svc"])
        .in_categories(&["all"])
        .with_columns(network::services())
        .selectable("spec.clusterIP", "")
        .selectable("spec.type", "")
        .with_status()
        .with_subresource(connect("proxy", PROXY_VERBS, ("", "v1", "ServiceProxyOptions"), proxy))
}

/// What pods are made from.
fn replicated() -> [Resource; 2] {
    let controllers = rules(replication_controller::REPLICATION_CONTROLLERS);
    [
        Resource::namespaced("", "v1", "PodTemplate", "podtemplates", rules(pod::POD_TEMPLATES))
            .with_columns(pods::pod_templates()),
        Resource::namespaced("", "v1", "ReplicationController", "replicationcontrollers", controllers)
            .short(&["rc"])
            .in_categories(&["all"])
            .with_columns(workload::replication_controllers())
            .selectable("status.replicas", "0")
            .with_status()
            .with_subresource(scale()),
    ]
}

fn data(actions: &Actions) -> Vec<Resource> {
    let token = or_absent(actions.token.as_ref(), "serviceaccounts/token");
    vec![
        Resource::namespaced("", "v1", "Endpoints", "endpoints", rules(endpoints::ENDPOINTS))
            .short(&["ep"])
            .with_columns(network::endpoints()),
        Resource::namespaced("", "v1", "ConfigMap", "configmaps", rules(configuration::CONFIG_MAPS))
            .short(&["cm"])
            .with_columns(config::config_maps()),
        Resource::namespaced("", "v1", "Secret", "secrets", rules(configuration::SECRETS))
            .with_columns(config::secrets())
            .selectable("type", ""),
        Resource::namespaced(
            "",
            "v1",
            "ServiceAccount",
            "serviceaccounts",
            rules(configuration::SERVICE_ACCOUNTS),
        )
        .short(&["sa"])
        .with_columns(config::plain())
        .with_subresource(acting(
            "token",
            Verbs::CREATE,
            ("authentication.k8s.io", "v1", "TokenRequest"),
            token,
        )),
    ]
}

/// The fields of an event that its object is selected by, in the words of either group.
const INVOLVED: [&str; 7] =
    ["kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath"];

fn event_row() -> Resource {
    let mut row = Resource::namespaced("", "v1", "Event", "events", rules(events::EVENTS))
        .short(&["ev"])
        .with_columns(event::events())
        .selectable("reason", "")
        .selectable("reportingComponent", "")
        .selectable("type", "")
        .also_served("events.k8s.io", "v1", Some(events::EVENTS_V1));
    // Those of the newer group only say who reports.
    let source = Field::new("source", "/source/component", "");
    row.fields.push(Field { otherwise: Some("/reportingComponent".into()), ..source });
    row.fields.push(Field::new("reportingController", "/reportingComponent", ""));
    for field in INVOLVED {
        for prefix in ["involvedObject", "regarding"] {
            let (label, pointer) = (format!("{prefix}.{field}"), format!("/involvedObject/{field}"));
            row.fields.push(Field::new(label, pointer, ""));
        }
    }
    row
}

pub(super) fn virtuals() -> Vec<Virtual> {
    vec![Virtual {
        group: "".into(),
        version: "v1".into(),
        kind: "Binding".into(),
        plural: "bindings".into(),
        singular: "binding".into(),
        scope: Scope::Namespaced,
        action: Arc::new(Binding::by_name()),
    }]
}
