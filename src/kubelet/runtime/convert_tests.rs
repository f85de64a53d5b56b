//! Golden conversions.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::runtime::{Dns, ImageUser, LinuxResources};

fn pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}, "annotations": {"a": "b"}},
        "spec": {
            "shareProcessNamespace": true, "terminationGracePeriodSeconds": 7,
            "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000, 2000],
                "sysctls": [{"name": "net.core.somaxconn", "value": "128"}], "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "c", "image": "busybox:1", "command": ["sh", "-c", "echo $(GREETING) $$(X)"], "args": ["$(NONE)"],
                "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "protocol": "UDP", "hostIP": "127.0.0.1"}],
                "securityContext": {"capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}, "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "lifecycle": {"preStop": {"sleep": {"seconds": 3}}, "stopSignal": "SIGRTMIN+3"}
            }]
        }
    }))
    .unwrap()
}

fn sandbox_request(pod: Pod) -> SandboxRequest {
    SandboxRequest {
        pod: Arc::new(pod),
        attempt: 2,
        hostname: "web".into(),
        log_directory: "/var/log/pods/shop_web_u1".into(),
        dns: Dns { servers: vec!["10.96.0.10".into()], searches: vec![], options: vec!["ndots:5".into()] },
        cgroup_parent: "/kubepods/podu1".into(),
        runtime_handler: String::new(),
        supplemental_groups: vec![4000],
    }
}

fn container_request(pod: &Pod, image_user: ImageUser) -> ContainerRequest {
    ContainerRequest {
        container: pods::containers(pod)[0].clone(),
        attempt: 3,
        hash: 0xabc,
        image_ref: "sha256:1".into(),
        image_user,
        target: None,
        env: vec![("GREETING".into(), "old".into()), ("GREETING".into(), "hello".into())],
        mounts: vec![],
        devices: vec![],
        supplemental_groups: vec![4000],
        oom_score_adj: 999,
        resources: LinuxResources {
            cpu_shares: 102,
            memory_limit_bytes: 64 << 20,
            ..LinuxResources::default()
        },
    }
}

#[test]
fn a_pod_becomes_a_sandbox_config() {
    insta::assert_debug_snapshot!(sandbox(&sandbox_request(pod())));
}

#[test]
fn a_container_becomes_a_container_config() {
    let pod = pod();
    let request = container_request(&pod, ImageUser::Unset);
    insta::assert_debug_snapshot!(container(&pod, &request, &SecurityDefaults::default()).unwrap());
}

#[test]
fn namespaces_follow_the_pods_host_settings() {
    let mut pod = pod();
    let spec = pod.spec.as_mut().unwrap();
    (spec.host_network, spec.host_pid, spec.host_ipc) = (Some(true), Some(true), Some(true));
    let config = sandbox(&sandbox_request(pod));
    let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    let node = cri::NamespaceMode::Node;
    assert_eq!((options.network(), options.pid(), options.ipc()), (node, node, node));
    assert_eq!(config.hostname, "");
}

#[test]
fn a_container_with_a_target_is_in_its_process_namespace_unless_all_are_in_one() {
    let options = |shared: Option<bool>, of_host: Option<bool>| {
        let mut pod = pod();
        let spec = pod.spec.as_mut().unwrap();
        (spec.share_process_namespace, spec.host_pid) = (shared, of_host);
        let request =
            ContainerRequest { target: Some("abc".into()), ..container_request(&pod, ImageUser::Unset) };
        let config = container(&pod, &request, &SecurityDefaults::default()).unwrap();
        let options = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!(options.network(), cri::NamespaceMode::Pod);
        (options.pid(), options.target_id)
    };
    assert_eq!(options(None, None), (cri::NamespaceMode::Target, "abc".into()));
    assert_eq!(options(Some(true), None), (cri::NamespaceMode::Pod, String::new()));
    assert_eq!(options(None, Some(true)), (cri::NamespaceMode::Node, String::new()));
}

#[test]
fn a_sandbox_takes_a_privileged_container_that_is_added() {
    let mut pod = pod();
    let is_privileged = |pod: &Pod| {
        sandbox(&sandbox_request(pod.clone())).linux.unwrap().security_context.unwrap().privileged
    };
    assert!(!is_privileged(&pod));
    let added = json!([{"name": "debug", "image": "i", "securityContext": {"privileged": true}}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(added).unwrap();
    assert!(is_privileged(&pod));
}

#[test]
fn root_is_refused_where_the_pod_forbids_it() {
    let check = |run_as: Option<i64>, image_user: ImageUser, expected: Option<&str>| {
        let mut pod = pod();
        let context = pod.spec.as_mut().unwrap().security_context.as_mut().unwrap();
        (context.run_as_user, context.run_as_non_root) = (run_as, Some(true));
        let request = container_request(&pod, image_user);
        let made = container(&pod, &request, &SecurityDefaults::default());
        assert_eq!(made.err().map(|error| error.to_string()).as_deref(), expected);
    };
    check(Some(5), ImageUser::Uid(0), None);
    check(None, ImageUser::Uid(5), None);
    check(
        Some(0),
        ImageUser::Uid(5),
        Some("container's runAsUser breaks non-root policy (pod: \"web_shop(u1)\", container: c)"),
    );
    let as_root =
        "container has runAsNonRoot and image will run as root (pod: \"web_shop(u1)\", container: c)";
    check(None, ImageUser::Uid(0), Some(as_root));
    check(None, ImageUser::Unset, Some(as_root));
    check(
        None,
        ImageUser::Name("nginx".into()),
        Some(
            "container has runAsNonRoot and image has non-numeric user (nginx), cannot verify user is non-root (pod: \"web_shop(u1)\", container: c)",
        ),
    );
}
