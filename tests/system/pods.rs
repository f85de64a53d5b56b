//! What a pod's manifest asks of the node, on real containerd.

use std::time::Duration;

use crate::hosts::Host;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_host_port_leads_to_its_pod_until_the_pod_is_gone() {
    let mut host = Host::new("hostport");
    host.up();
    host.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  \
         - {name: web, image: 'coracle.dev/demo:1', ports: [{containerPort: 8080, hostPort: 8081}]}\n",
    );
    let url = format!("http://{}:8081/", Host::ADDRESS);
    let page = host.eventually("the page is served at the host's port", SOON, |host| host.fetch(&url));
    assert!(page.contains("Hello"), "{page}");
    host.k(&["delete", "pod", "web"]);
    host.eventually("nothing answers there any more", SOON, |host| match host.fetch(&url) {
        Err(_) => Ok(()),
        Ok(page) => Err(page),
    });
}

#[test]
fn an_image_without_a_user_is_not_started_where_root_is_forbidden() {
    let mut host = Host::new("nonroot");
    host.up();
    host.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  securityContext: {runAsNonRoot: true}\n  \
         containers: [{name: web, image: 'coracle.dev/demo:1'}]\n",
    );
    host.eventually("the container is refused", SOON, |host| {
        let shown =
            host.k(&["get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].state.waiting}"]);
        let refused =
            shown.contains("CreateContainerConfigError") && shown.contains("image will run as root");
        refused.then_some(()).ok_or(shown)
    });
}
