//! Strategic merge patches against what upstream makes of them.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::lookup;

fn pod() -> TypeRef {
    lookup("", "v1", "Pod").unwrap()
}

#[track_caller]
fn merges(kind: (&str, &str), original: Value, patch: Value, expected: &Value) {
    let r#type = lookup(kind.0, "v1", kind.1).unwrap();
    assert_eq!(strategic_merge(&r#type, original, patch).as_ref(), Ok(expected));
}

/// A pod's spec.
#[track_caller]
fn merges_spec(original: Value, patch: Value, expected: Value) {
    merges(("", "Pod"), json!({"spec": original}), json!({"spec": patch}), &json!({"spec": expected}));
}

#[track_caller]
fn refuses(original: Value, patch: Value, said: &str) {
    let error = strategic_merge(&pod(), json!({"spec": original}), json!({"spec": patch})).unwrap_err();
    assert_eq!(error.to_string(), said);
}

#[test]
fn containers_are_merged_by_name_and_new_ones_come_first_as_upstream_has_it() {
    merges_spec(
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}),
        json!({"containers": [{"name": "b", "image": "2"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}),
    );
    merges_spec(
        json!({"containers": [{"name": "a"}]}),
        json!({"containers": [{"name": "c", "image": null, "env": [{"name": "X", "value": null}]}]}),
        json!({"containers": [{"name": "c", "env": [{"name": "X"}]}, {"name": "a"}]}),
    );
}

#[test]
fn an_item_with_a_delete_directive_deletes() {
    merges_spec(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a"}]}),
    );
    merges_spec(
        json!({}),
        json!({"containers": [{"name": "b", "$patch": "delete"}]}),
        json!({"containers": []}),
    );
}

#[test]
fn a_replace_directive_replaces_lists_and_objects() {
    merges_spec(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
        json!({"containers": [{"name": "c"}]}),
    );
    merges_spec(
        json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2}}),
        json!({"securityContext": {"$patch": "replace", "runAsUser": 3}}),
        json!({"securityContext": {"runAsUser": 3}}),
    );
    merges_spec(
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"$patch": "delete"}}),
        json!({"securityContext": {}}),
    );
}

#[test]
fn ports_are_told_by_the_container_port_alone_whatever_the_protocol() {
    let dns = json!([
        {"containerPort": 53, "protocol": "TCP", "name": "tcp"}, {"containerPort": 53, "protocol": "UDP", "name": "udp"},
    ]);
    merges_spec(
        json!({"containers": [{"name": "a", "ports": dns}]}),
        json!({"containers": [{"name": "a", "ports": [{"containerPort": 53, "protocol": "UDP", "name": "udp"}]}]}),
        json!({"containers": [{"name": "a", "ports": [
            {"containerPort": 53, "protocol": "UDP", "name": "udp"},
            {"containerPort": 53, "protocol": "UDP", "name": "udp"},
        ]}]}),
    );
    merges(
        ("", "Service"),
        json!({"spec": {"ports": [{"port": 80, "nodePort": 30080}, {"port": 443}]}}),
        json!({"spec": {"ports": [{"port": 80, "name": "http"}]}}),
        &json!({"spec": {"ports": [{"port": 80, "nodePort": 30080, "name": "http"}, {"port": 443}]}}),
    );
}

#[test]
fn env_and_volume_mounts_have_keys_of_their_own() {
    merges_spec(
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "1"}],
            "volumeMounts": [{"mountPath": "/a", "name": "v"}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "Y", "value": "2"}],
            "volumeMounts": [{"mountPath": "/b", "name": "v"}, {"mountPath": "/a", "readOnly": true}]}]}),
        json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}],
            "volumeMounts": [{"mountPath": "/b", "name": "v"}, {"mountPath": "/a", "name": "v", "readOnly": true}]}]}),
    );
}

#[test]
fn lists_without_a_strategy_are_replaced() {
    merges_spec(
        json!({"tolerations": [{"key": "a"}, {"key": "b"}], "containers": [{"name": "a", "args": ["1", "2"]}]}),
        json!({"tolerations": [{"key": "c"}], "containers": [{"name": "a", "args": ["3"]}]}),
        json!({"tolerations": [{"key": "c"}], "containers": [{"name": "a", "args": ["3"]}]}),
    );
}

#[test]
fn maps_are_merged_and_nulls_remove() {
    merges(
        ("", "ConfigMap"),
        json!({"metadata": {"labels": {"a": "1", "b": "1"}, "annotations": {"x": "y"}}, "data": {"k": "v"}}),
        json!({"metadata": {"labels": {"a": "2", "b": null, "c": null}, "annotations": null}, "data": {"l": "w"}}),
        &json!({"metadata": {"labels": {"a": "2"}}, "data": {"k": "v", "l": "w"}}),
    );
}

#[test]
fn finalizers_are_added_and_deleted_one_by_one() {
    let original = || json!({"metadata": {"finalizers": ["a", "b"]}});
    merges(
        ("", "Pod"),
        original(),
        json!({"metadata": {"finalizers": ["c", "a"]}}),
        &json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
    );
    merges(
        ("", "Pod"),
        original(),
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        &json!({"metadata": {"finalizers": ["b"]}}),
    );
    merges(
        ("", "Pod"),
        original(),
        json!({"metadata": {
            "$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"],
        }}),
        &json!({"metadata": {"finalizers": ["c", "b"]}}),
    );
}

#[test]
fn retained_keys_clear_the_rest() {
    merges(
        ("apps", "Deployment"),
        json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
        json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
        &json!({"spec": {"strategy": {"type": "Recreate"}}}),
    );
    merges_spec(
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"$retainKeys": ["emptyDir", "name"], "name": "v", "emptyDir": {}}]}),
        json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    refuses(
        json!({"volumes": [{"name": "v"}]}),
        json!({"volumes": [{"$retainKeys": ["name"], "name": "v", "emptyDir": {}}]}),
        "invalid patch format of retainKeys",
    );
}

#[test]
fn the_order_that_kubectl_apply_asks_for_is_kept_and_the_servers_own_items_stay_near_their_place() {
    merges_spec(
        json!({"containers": [{"name": "a"}, {"name": "sidecar"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]}),
        json!({"containers": [{"name": "sidecar"}, {"name": "b", "image": "x"}, {"name": "a"}]}),
    );
    merges_spec(
        json!({"containers": [{"name": "a"}, {"name": "b"}]}),
        json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
        json!({"containers": [{"name": "b"}, {"name": "a"}]}),
    );
    merges_spec(
        json!({}),
        json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a"}]}),
        json!({"containers": [{"name": "a"}]}),
    );
    merges_spec(json!({}), json!({"$setElementOrder/containers": [{"name": "a"}]}), json!({}));
}

#[test]
fn an_order_that_contradicts_its_list_is_refused() {
    refuses(
        json!({"containers": [{"name": "a"}]}),
        json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}),
        "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
    );
}

#[test]
fn patches_that_make_no_sense_are_refused() {
    let spec = || json!({"containers": [{"name": "a"}]});
    refuses(
        spec(),
        json!({"containers": [{"image": "x"}]}),
        r#"map: map[image:x] does not contain declared merge key: name"#,
    );
    refuses(
        spec(),
        json!({"containers": [{"name": "a", "$patch": "burn"}]}),
        r#"unknown patch type: burn in map: map[$patch:burn name:a]"#,
    );
    refuses(spec(), json!({"containers": ["a"]}), r#"list element types are not identical: [map[name:a] a]"#);
    refuses(
        spec(),
        json!({"$setElementOrder/containers": "a"}),
        "expected a []interface {}, but received a string",
    );
    refuses(
        spec(),
        json!({"$setElementOrder/x": []}),
        r#"unable to find api field in struct v1.PodSpec for the json field "x""#,
    );
    assert_eq!(strategic_merge(&pod(), json!({}), json!([])), Err(PatchError::NotAnObject));
}

#[test]
fn unknown_fields_are_left_for_decoding_to_report() {
    merges_spec(
        json!({"containers": []}),
        json!({"contaners": []}),
        json!({"containers": [], "contaners": []}),
    );
}

#[test]
fn rollout_restart_and_scale_and_set_image_and_label_do_what_kubectl_means() {
    let original = json!({
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"replicas": 2, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "a"}]},
        }},
    });
    let patches = [
        json!({"spec": {"template": {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}}}),
        json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "web"}], "containers": [{"image": "b", "name": "web"}],
        }}}}),
        json!({"spec": {"replicas": 3}}),
        json!({"metadata": {"labels": {"tier": "front"}}}),
    ];
    let r#type = lookup("apps", "v1", "Deployment").unwrap();
    let patched = patches
        .into_iter()
        .try_fold(original, |object, patch| strategic_merge(&r#type, object, patch))
        .unwrap();
    assert_eq!(
        patched,
        json!({
            "metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}},
            "spec": {"replicas": 3, "template": {
                "metadata": {"labels": {"app": "web"}, "annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
                "spec": {"containers": [{"name": "web", "image": "b"}]},
            }},
        })
    );
}

#[test]
fn long_lists_are_merged_in_time_that_grows_with_them() {
    let names =
        |from: usize| (from..from + 20_000).map(|n| json!({"name": format!("c{n}")})).collect::<Value>();
    let patch = json!({"spec": {"containers": names(10_000), "$setElementOrder/containers": names(10_000)}});
    let merged = strategic_merge(&pod(), json!({"spec": {"containers": names(0)}}), patch).unwrap();
    assert_eq!(merged["spec"]["containers"].as_array().unwrap().len(), 30_000);
}

/// Pods, and patches of them, with directives here and there.
fn any_pod() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let directive = prop_oneof![
        6 => Just(None),
        1 => prop::sample::select(vec!["delete", "replace", "merge", "?"]).prop_map(Some),
    ];
    let container =
        (name.clone(), directive, prop::option::of("[xy]")).prop_map(|(name, directive, image)| {
            let mut item = json!({"name": name, "image": image});
            if let Some(directive) = directive {
                item["$patch"] = directive.into();
            }
            item
        });
    let order = prop::option::of(prop::collection::vec(name.clone(), 0..3));
    let lists = (prop::collection::vec(container, 0..4), order, prop::collection::vec(name, 0..3));
    lists.prop_map(|(containers, order, finalizers)| {
        let mut spec = json!({"containers": containers});
        if let Some(order) = order {
            spec["$setElementOrder/containers"] = order.iter().map(|name| json!({"name": name})).collect();
        }
        json!({"metadata": {"finalizers": finalizers}, "spec": spec})
    })
}

fn clean(value: Value) -> Value {
    fresh(value).unwrap()
}

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(original in any_pod()) {
        let original = clean(original);
        prop_assert_eq!(strategic_merge(&pod(), original.clone(), json!({})), Ok(original));
    }

    #[test]
    fn a_patch_of_an_object_with_itself_changes_nothing_but_repeated_scalars(original in any_pod()) {
        let mut original = clean(original);
        let mut seen = Vec::new();
        let mut names = Vec::new();
        original["metadata"]["finalizers"].as_array_mut().unwrap().retain(|item| {
            !seen.contains(item) && { seen.push(item.clone()); true }
        });
        original["spec"]["containers"].as_array_mut().unwrap().retain(|item| {
            !names.contains(&item["name"]) && { names.push(item["name"].clone()); true }
        });
        prop_assert_eq!(strategic_merge(&pod(), original.clone(), original.clone()), Ok(original));
    }

    #[test]
    fn no_patch_panics_and_no_directive_survives(original in any_pod(), patch in any_pod()) {
        if let Ok(merged) = strategic_merge(&pod(), clean(original), patch) {
            let text = merged.to_string();
            prop_assert!(!text.contains('$'), "{}", text);
        }
    }

    #[test]
    fn applying_a_patch_twice_is_applying_it_once(original in any_pod(), patch in any_pod()) {
        if let Ok(once) = strategic_merge(&pod(), clean(original), patch.clone()) {
            prop_assert_eq!(strategic_merge(&pod(), once.clone(), patch), Ok(once));
        }
    }
}
