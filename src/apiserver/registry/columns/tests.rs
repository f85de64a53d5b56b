//! What is printed of objects in the states that users meet.

use serde_json::{Value, json};

use super::*;

/// The cells at noon.
#[track_caller]
fn cells(columns: Vec<Column>, object: &Value) -> Vec<Value> {
    let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
    columns.iter().map(|column| column.cell.value(object, now)).collect()
}

fn web(status: Value) -> Value {
    json!({
        "metadata": {"name": "web", "creationTimestamp": "2026-01-01T11:55:00Z"},
        "spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]},
        "status": status,
    })
}

#[test]
fn a_pods_status_is_the_word_that_upstream_prints() {
    let init = |state: Value| json!([{"name": "i", "state": state}]);
    let main = |state: Value| json!([{"name": "a", "ready": false, "state": state, "restartCount": 0}]);
    let done = json!([{"name": "i", "state": {"terminated": {"exitCode": 0}}}, {"name": "j", "state": {"terminated": {"exitCode": 0}}}]);
    for (status, expected) in [
        (json!({"phase": "Pending"}), "Pending"),
        (json!({"phase": "Pending", "initContainerStatuses": init(json!({"running": {}}))}), "Init:0/2"),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(json!({"waiting": {"reason": "ErrImagePull"}}))}),
            "Init:ErrImagePull",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(json!({"terminated": {"exitCode": 1, "reason": "Error"}}))}),
            "Init:Error",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": init(json!({"terminated": {"exitCode": 137, "signal": 9}}))}),
            "Init:Signal:9",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": done, "containerStatuses": main(json!({"waiting": {"reason": "PodInitializing"}}))}),
            "PodInitializing",
        ),
        (
            json!({"phase": "Running", "containerStatuses": main(json!({"waiting": {"reason": "CrashLoopBackOff"}}))}),
            "CrashLoopBackOff",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": main(json!({"terminated": {"exitCode": 0, "reason": "Completed"}}))}),
            "Completed",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": main(json!({"terminated": {"exitCode": 2}}))}),
            "ExitCode:2",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]}),
            "SchedulingGated",
        ),
    ] {
        assert_eq!(cells(pod::pods(), &web(status.clone()))[2], expected, "{status}");
    }
}

#[test]
fn a_running_pod_that_is_deleted_is_terminating() {
    let mut object = web(json!({"phase": "Running"}));
    object["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:00Z".into();
    assert_eq!(cells(pod::pods(), &object)[2], "Terminating");
    object["status"]["phase"] = "Succeeded".into();
    assert_eq!(cells(pod::pods(), &object)[2], "Succeeded");
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let object = web(json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}], "containerStatuses": [{
        "name": "a", "ready": true, "restartCount": 3, "state": {"running": {}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T11:57:00Z"}},
    }]}));
    insta::assert_json_snapshot!(cells(pod::pods(), &object), @r#"
    [
      "web",
      "1/1",
      "Running",
      "3 (3m ago)",
      "5m",
      "10.0.0.1",
      "<none>",
      "<none>",
      "<none>"
    ]
    "#);
}

#[test]
fn a_node_shows_its_roles_and_whether_it_takes_pods() {
    let node = json!({
        "metadata": {"name": "n", "creationTimestamp": "2025-12-31T12:00:00Z", "labels": {
            "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "10.1.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "kernelVersion": "6.1", "architecture": "amd64",
                "osImage": "Debian", "containerRuntimeVersion": "containerd://1.6"},
        },
    });
    insta::assert_json_snapshot!(cells(node::nodes(), &node), @r#"
    [
      "n",
      "Ready,SchedulingDisabled",
      "control-plane,edge",
      "24h",
      "v1.36.3",
      "10.1.0.1",
      "<none>",
      "Debian",
      "6.1 (amd64)",
      "containerd://1.6"
    ]
    "#);
}

#[test]
fn a_service_shows_where_it_is_reached() {
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.10"],
        "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "selector": {"app": "web"}}});
    let shown = cells(network::services(), &service);
    assert_eq!(
        shown[1..5],
        ["LoadBalancer", "10.96.0.10", "<pending>", "80:30080/TCP,53/UDP"].map(Value::from)
    );
    assert_eq!(shown[6], "app=web");
}

#[test]
fn more_than_three_endpoints_are_counted() {
    let addresses: Vec<Value> = (1..=5).map(|i| json!({"ip": format!("10.0.0.{i}")})).collect();
    let endpoints =
        json!({"metadata": {"name": "e"}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]});
    assert_eq!(cells(network::endpoints(), &endpoints)[1], "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...");
}

#[test]
fn an_event_prints_the_same_from_both_groups() {
    let mut event = json!({"metadata": {"name": "web.1"}, "type": "Normal", "reason": "Started", "message": " m ",
        "involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2026-01-01T11:00:00Z", "lastTimestamp": "2026-01-01T11:59:30Z", "count": 2});
    let core = cells(event::events(), &event);
    assert_eq!(core[..4], ["30s", "Normal", "Started", "pod/web"].map(Value::from));
    assert_eq!((&core[5], &core[6], &core[8]), (&json!("kubelet, n"), &json!("m"), &json!(2)));
    (crate::registry::strategy::event::EVENTS_V1.from_storage)(&mut event);
    assert_eq!(cells(event::events(), &event), core);
}

#[test]
fn a_claim_shows_its_volume_once_it_has_one() {
    let mut claim = json!({
        "metadata": {"name": "c", "creationTimestamp": "2026-01-01T11:55:00Z"},
        "spec": {"storageClassName": "fast", "volumeMode": "Filesystem", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    let row = |claim: &Value| cells(volume::persistent_volume_claims(), claim);
    assert_eq!(
        row(&claim),
        ["c", "Pending", "", "", "", "fast", "<unset>", "5m", "Filesystem"].map(Value::from)
    );
    claim["spec"]["volumeName"] = "v".into();
    claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"]});
    assert_eq!(
        row(&claim),
        ["c", "Bound", "v", "2Gi", "RWO,RWX", "fast", "<unset>", "5m", "Filesystem"].map(Value::from)
    );
    claim["metadata"]["deletionTimestamp"] = "2026-01-01T11:59:00Z".into();
    assert_eq!(row(&claim)[1], "Terminating");
}

#[test]
fn a_volume_shows_whose_it_is() {
    let volume = json!({
        "metadata": {"name": "v", "annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOncePod"], "storageClassName": "new",
            "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "n", "name": "c"}},
        "status": {"phase": "Released", "reason": "why"},
    });
    let row = cells(volume::persistent_volumes(), &volume);
    let expected = ["v", "1Gi", "RWOP", "Retain", "Released", "n/c", "old", "<unset>", "why"];
    assert_eq!(row[..9], expected.map(Value::from));
}

#[test]
fn a_jobs_state_is_the_word_that_upstream_prints() {
    let condition = |word: &str| json!([{"type": word, "status": "True"}]);
    for (job, expected) in [
        (json!({"spec": {"completions": 3}, "status": {"succeeded": 1}}), ["Running", "1/3", ""]),
        (
            json!({"spec": {"parallelism": 2}, "status": {"startTime": "2026-01-01T11:59:00Z"}}),
            ["Running", "0/1 of 2", "60s"],
        ),
        (
            json!({"spec": {"completions": 1}, "status": {"succeeded": 1, "conditions": condition("Complete"),
                "startTime": "2026-01-01T11:00:00Z", "completionTime": "2026-01-01T11:00:05Z"}}),
            ["Complete", "1/1", "5s"],
        ),
        (json!({"status": {"conditions": condition("Suspended")}}), ["Suspended", "0/1", ""]),
        (
            json!({"metadata": {"deletionTimestamp": "x"}, "status": {"conditions": condition("FailureTarget")}}),
            ["Terminating", "0/1", ""],
        ),
    ] {
        assert_eq!(cells(batch::jobs(), &job)[1..4], expected.map(Value::from), "{job}");
    }
}

#[test]
fn a_claim_for_devices_shows_how_far_it_has_come() {
    let state = |claim: Value| cells(device::resource_claims(), &claim)[1].clone();
    assert_eq!(state(json!({})), "pending");
    let reserved = json!({"allocation": {}, "reservedFor": [{"name": "p"}]});
    assert_eq!(state(json!({"status": {"allocation": {}}})), "allocated");
    assert_eq!(state(json!({"status": reserved})), "allocated,reserved");
    let going = json!({"metadata": {"deletionTimestamp": "x"}, "status": reserved});
    assert_eq!(state(going), "deleted,allocated,reserved");
}

#[test]
fn a_revision_names_its_controller() {
    let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]);
    let revision = json!({"metadata": {"name": "d-1", "ownerReferences": owner}, "revision": 4});
    let row = cells(workload::controller_revisions(), &revision);
    assert_eq!(row[1..3], [json!("daemonset.apps/d"), json!(4)]);
    assert_eq!(cells(workload::controller_revisions(), &json!({}))[1], "<none>");
}
