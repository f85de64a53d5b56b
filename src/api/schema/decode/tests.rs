//! What decoding refuses, what it makes canonical, and in which words.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Field, Scalar, Type, lookup};

fn deployment() -> TypeRef {
    lookup("apps", "v1", "Deployment").unwrap()
}

fn pod() -> TypeRef {
    lookup("", "v1", "Pod").unwrap()
}

fn strict(body: &str, r#type: &TypeRef) -> Result<Value, String> {
    let decoded = decode(body.as_bytes(), Encoding::Json, r#type, FieldValidation::Strict);
    decoded.map(|decoded| decoded.value).map_err(|error| error.to_string())
}

#[track_caller]
fn refuses(r#type: &TypeRef, body: &Value, said: &str) {
    assert_eq!(strict(&body.to_string(), r#type), Err(said.to_string()));
}

#[test]
fn an_unknown_field_is_refused_with_its_path() {
    refuses(
        &deployment(),
        &json!({"spec": {"replica": 1}}),
        r#"strict decoding error: unknown field "spec.replica""#,
    );
    refuses(
        &pod(),
        &json!({"spec": {"containers": [{"name": "a"}, {"imag": "x", "ports": [{"port": 1}]}]}, "speck": 1}),
        "strict decoding error: unknown field \"spec.containers[1].imag\", \
         unknown field \"spec.containers[1].ports[0].port\", unknown field \"speck\"",
    );
}

#[test]
fn names_in_another_case_are_unknown() {
    refuses(&pod(), &json!({"Spec": {}}), r#"strict decoding error: unknown field "Spec""#);
}

#[test]
fn a_duplicate_field_is_refused_and_the_last_one_wins_where_it_is_not() {
    let body = r#"{"spec": {"replicas": 1, "replicas": 2}, "metadata": {"labels": {"a": "1", "a": "2"}}}"#;
    assert_eq!(
        strict(body, &deployment()).unwrap_err(),
        r#"strict decoding error: duplicate field "spec.replicas", duplicate field "metadata.labels.a""#
    );
    let decoded = decode(body.as_bytes(), Encoding::Json, &deployment(), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.value, json!({"spec": {"replicas": 2}, "metadata": {"labels": {"a": "2"}}}));
    assert_eq!(
        decoded.warnings,
        [r#"duplicate field "spec.replicas""#, r#"duplicate field "metadata.labels.a""#]
    );
    let decoded = decode(body.as_bytes(), Encoding::Json, &deployment(), FieldValidation::Ignore).unwrap();
    assert_eq!(decoded.warnings, Vec::<String>::new());
}

#[test]
fn a_wrong_type_is_told_as_go_tells_it_before_any_unknown_field() {
    let cases = [
        (
            json!({"speck": 1, "spec": {"replicas": "two"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 3_000_000_000_u32}}),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"paused": "yes"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": {"name": "a"}}}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type \
             []v1.Container",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"name": 1}]}}}}),
            "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.name of type \
             string",
        ),
        (
            json!({"spec": {"template": {"spec": {"volumes": [{"configMap": 1}]}}}}),
            "json: cannot unmarshal number into Go struct field Volume.spec.template.spec.volumes.VolumeSource.configMap \
             of type v1.ConfigMapVolumeSource",
        ),
        (
            json!({"metadata": {"labels": {"a": true}}}),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            json!({"metadata": {"labels": ["a"]}}),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            json!({"spec": []}),
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            json!({"metadata": {"creationTimestamp": 1}}),
            "json: cannot unmarshal number into Go value of type string",
        ),
        (
            json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": true}}}}),
            "json: cannot unmarshal bool into Go value of type int32",
        ),
    ];
    for (body, said) in cases {
        refuses(&deployment(), &body, said);
    }
}

#[test]
fn the_message_names_the_kind_and_its_version() {
    let error =
        decode(br#"{"spec": {"replica": 1}}"#, Encoding::Json, &deployment(), FieldValidation::Strict);
    assert_eq!(
        error.unwrap_err().message("Deployment", "v1", b""),
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: unknown field \
         \"spec.replica\""
    );
    let error = decode(b"nonsense", Encoding::Json, &deployment(), FieldValidation::Strict).unwrap_err();
    assert_eq!(
        error.message("Deployment", "v1", b"nonsense"),
        "the object provided is unrecognized (must be of type Deployment): couldn't get version/kind; json parse \
         error: expected ident at line 1 column 2 (6e6f6e73656e7365)"
    );
}

#[test]
fn a_body_that_is_no_object_is_refused() {
    for body in ["[]", "1", "\"x\"", "true"] {
        let said = strict(body, &pod()).unwrap_err();
        assert!(
            said.starts_with("couldn't get version/kind; json parse error: json: cannot unmarshal"),
            "{said}"
        );
    }
}

#[test]
fn nulls_and_zero_values_go_where_upstream_would_not_write_them() {
    let body = json!({
        "metadata": {"name": "a", "creationTimestamp": null, "labels": {}, "generateName": ""},
        "spec": {
            "replicas": 0, "paused": false, "minReadySeconds": 0, "strategy": {},
            "template": {"spec": {"volumes": [], "hostNetwork": false, "containers": [
                {"name": "", "resources": {}, "args": null, "command": [null]},
            ], "terminationGracePeriodSeconds": 0, "nodeSelector": {"a": null}}},
        },
        "status": {},
    });
    assert_eq!(
        strict(&body.to_string(), &deployment()).unwrap(),
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "replicas": 0, "strategy": {},
                "template": {"spec": {
                    "containers": [{"name": "", "resources": {}, "command": [""]}],
                    "terminationGracePeriodSeconds": 0, "nodeSelector": {"a": ""},
                }},
            },
            "status": {},
        })
    );
}

#[test]
fn quantities_times_and_bytes_become_canonical() {
    let body = json!({
        "metadata": {"creationTimestamp": "2026-01-02T03:04:05.678+01:00"},
        "spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi", "a": 2, "b": "1000m"}}}]},
    });
    assert_eq!(
        strict(&body.to_string(), &pod()).unwrap(),
        json!({
            "metadata": {"creationTimestamp": "2026-01-02T02:04:05Z"},
            "spec": {"containers": [{"resources": {"limits": {"cpu": "500m", "memory": "1Gi", "a": "2", "b": "1"}}}]},
        })
    );
    let secret = lookup("", "v1", "Secret").unwrap();
    assert_eq!(
        strict(r#"{"data": {"a": "aGVs\nbG8=", "b": ""}}"#, &secret).unwrap(),
        json!({"data": {"a": "aGVsbG8=", "b": ""}})
    );
    let lease = lookup("coordination.k8s.io", "v1", "Lease").unwrap();
    assert_eq!(
        strict(r#"{"spec": {"renewTime": "2026-01-02T03:04:05.678901Z"}}"#, &lease).unwrap(),
        json!({"spec": {"renewTime": "2026-01-02T03:04:05.678901Z"}})
    );
}

#[test]
fn quantities_times_and_bytes_that_are_none_are_refused() {
    let secret = lookup("", "v1", "Secret").unwrap();
    refuses(&secret, &json!({"data": {"a": "a"}}), "illegal base64 data at input byte 0");
    refuses(&secret, &json!({"data": {"a": "aGVs!G8="}}), "illegal base64 data at input byte 4");
    refuses(
        &pod(),
        &json!({"metadata": {"creationTimestamp": "yesterday"}}),
        r#"parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006""#,
    );
    let lease = lookup("coordination.k8s.io", "v1", "Lease").unwrap();
    refuses(
        &lease,
        &json!({"spec": {"renewTime": "2026-01-02T03:04:05Z"}}),
        r#"parsing time "2026-01-02T03:04:05Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
    );
    refuses(
        &pod(),
        &json!({"spec": {"overhead": {"cpu": "much"}}}),
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
    );
}

#[test]
fn yaml_is_read_as_json_is() {
    let body = "spec:\n  replicas: 2\n  replica: 1\n  selector: {matchLabels: {1: \"2\", on: \"x\"}}\n";
    let decoded = decode(body.as_bytes(), Encoding::Yaml, &deployment(), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"unknown field "spec.replica""#]);
    assert_eq!(decoded.value["spec"]["replicas"], 2);
    assert_eq!(decoded.value["spec"]["selector"]["matchLabels"]["1"], "2");
    let twice = "spec:\n  replicas: 2\n  replicas: 3\n";
    let error = decode(twice.as_bytes(), Encoding::Yaml, &deployment(), FieldValidation::Strict).unwrap_err();
    assert_eq!(error.to_string(), r#"strict decoding error: duplicate field "spec.replicas""#);
}

#[test]
fn yaml_that_is_none_is_a_syntax_error() {
    let error = decode(b"a: [b", Encoding::Yaml, &deployment(), FieldValidation::Warn).unwrap_err();
    assert!(error.to_string().starts_with("error converting YAML to JSON: yaml: "), "{error}");
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let body = format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    let crd = lookup("apiextensions.k8s.io", "v1", "CustomResourceDefinition").unwrap();
    for encoding in [Encoding::Json, Encoding::Yaml] {
        for r#type in [&crd, &deployment()] {
            decode(body.as_bytes(), encoding, r#type, FieldValidation::Warn).unwrap_err();
        }
        decode_untyped(body.as_bytes(), encoding, FieldValidation::Warn).unwrap_err();
    }
}

#[test]
fn a_hundred_unknown_fields_are_told_and_no_more() {
    let many: serde_json::Map<String, Value> = (0..500).map(|n| (format!("x{n}"), json!(n))).collect();
    let decoded = conform(Value::Object(many), &pod(), FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings.len(), 100);
}

#[test]
fn a_type_made_at_run_time_decodes_like_a_built_in_one() {
    let spec = Type {
        name: "example.v1.Spec".into(),
        fields: vec![
            Field::new("any", Shape::Any),
            Field { nullable: true, ..Field::new("maybe", Shape::Scalar(Scalar::String)) },
            Field::new("size", Shape::Scalar(Scalar::Int64)),
        ],
        ..Type::default()
    };
    let free = Type { preserves_unknown: true, ..Type::default() };
    let fields = vec![
        Field::new("free", Shape::Object(free.into())),
        Field::new("metadata", Shape::Object(crate::schema::named("meta.v1.ObjectMeta").unwrap())),
        Field::new("spec", Shape::Object(spec.into())),
    ];
    let made = TypeRef::from(Type { name: "example.v1.Thing".into(), fields, ..Type::default() });
    let body = json!({
        "metadata": {"name": "x", "nam": 1},
        "spec": {"any": {"x": [null]}, "maybe": null, "size": 1, "siz": 2},
        "free": {"a": {"b": null}},
    });
    let decoded = conform(body, &made, FieldValidation::Warn).unwrap();
    assert_eq!(decoded.warnings, [r#"unknown field "metadata.nam""#, r#"unknown field "spec.siz""#]);
    assert_eq!(
        decoded.value,
        json!({
            "metadata": {"name": "x"},
            "spec": {"any": {"x": [null]}, "maybe": null, "size": 1},
            "free": {"a": {"b": null}},
        })
    );
}

#[test]
fn pruning_drops_unknown_fields_and_nothing_else() {
    let mut value = json!({"x": 1, "spec": {"y": 1, "paused": false, "template": {"spec": {"containers": [{"z": 1, "name": "a"}]}}}});
    prune(&mut value, &deployment());
    assert_eq!(
        value,
        json!({"spec": {"paused": false, "template": {"spec": {"containers": [{"name": "a"}]}}}})
    );
}

/// JSON that looks like a Pod here and there.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        Just(json!("2026-01-02T03:04:05Z")),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "containers",
            "name",
            "labels",
            "resources",
            "limits",
            "volumes",
            "env",
            "ports",
            "containerPort",
            "creationTimestamp",
            "creationTime",
            "template",
            "hostNetwork",
        ])
        .prop_map(String::from),
        "[a-z.]{0,4}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics_and_what_is_accepted_is_accepted_unchanged_again(value in any_json()) {
        fuzz(value.to_string().as_bytes(), &pod());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&bytes, &pod());
    }

    #[test]
    fn no_text_panics(text in "[ -~\\n{}\\[\\]:,\"]{0,120}") {
        fuzz(text.as_bytes(), &pod());
    }
}
