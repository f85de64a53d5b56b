//! Who may do what, over TLS, with the certificates, the tokens and the policy of a new cluster.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod cluster;

use cluster::{Caller, Cluster};
use serde_json::{Value, json};

fn pod(account: &str) -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "n1", "serviceAccountName": account,
        "containers": [{"name": "c", "image": "i"}],
        "volumes": [{"name": "v", "secret": {"secretName": "used"}}],
    }})
}

async fn with_pod() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "ns"}})).await;
    cluster.create("/api/v1/namespaces/ns/serviceaccounts", json!({"metadata": {"name": "sa"}})).await;
    for name in ["used", "other"] {
        cluster.create("/api/v1/namespaces/ns/secrets", json!({"metadata": {"name": name}})).await;
    }
    cluster.create("/api/v1/namespaces/ns/pods", pod("sa")).await;
    cluster
}

async fn pod_token(cluster: &Cluster) -> String {
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    let request = json!({"spec": {"boundObjectRef": reference, "expirationSeconds": 600}});
    let path = "/api/v1/namespaces/ns/serviceaccounts/sa/token";
    let (code, answer) = cluster.call(&Caller::Node, "POST", path, request).await;
    assert_eq!(code, 201, "{answer}");
    answer["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_only_health_and_version_are_answered() {
    let cluster = Cluster::start().await;
    for (path, expected) in
        [("/healthz", 200), ("/livez", 200), ("/readyz", 200), ("/version", 200), ("/api", 401)]
    {
        assert_eq!(cluster.get(&Caller::Nobody, path).await.0, expected, "{path}");
        assert_eq!(cluster.get(&Caller::Token("nonsense".into()), path).await.0, 401, "{path}");
    }
    let (code, answer) = cluster.get(&Caller::Nobody, "/api/v1/namespaces/ns/pods").await;
    assert_eq!((code, answer["message"].as_str()), (401, Some("Unauthorized")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let cluster = with_pod().await;
    let secrets = "/api/v1/namespaces/ns/secrets";
    assert_eq!(cluster.get(&Caller::Node, &format!("{secrets}/used")).await.0, 200);
    let (code, answer) = cluster.get(&Caller::Node, &format!("{secrets}/other")).await;
    assert_eq!(code, 403);
    let told = "secrets \"other\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \
                \"\" in the namespace \"ns\": no relationship found between node 'n1' and this object";
    assert_eq!(answer["message"], told);
    let pods = "/api/v1/pods?fieldSelector=spec.nodeName%3D";
    assert_eq!(cluster.get(&Caller::Node, &format!("{pods}n1")).await.0, 200);
    assert_eq!(cluster.get(&Caller::Node, &format!("{pods}n2")).await.0, 403);
    assert_eq!(
        cluster
            .call(&Caller::Admin, "DELETE", "/api/v1/namespaces/ns/pods/p?gracePeriodSeconds=0", Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(cluster.get(&Caller::Node, &format!("{secrets}/used")).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_token_has_the_rights_of_its_account_until_the_pod_is_gone() {
    let cluster = with_pod().await;
    let token = Caller::Token(pod_token(&cluster).await);
    let pods = "/api/v1/namespaces/ns/pods";
    let (code, answer) = cluster.get(&token, pods).await;
    assert_eq!(code, 403);
    let told = "pods is forbidden: User \"system:serviceaccount:ns:sa\" cannot list resource \"pods\" in API group \
                \"\" in the namespace \"ns\"";
    assert_eq!(answer["message"], told);

    let binding = json!({
        "metadata": {"name": "viewers"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "ns"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    });
    cluster.create("/apis/rbac.authorization.k8s.io/v1/namespaces/ns/rolebindings", binding).await;
    assert_eq!(cluster.get(&token, pods).await.0, 200);
    assert_eq!(cluster.get(&token, "/api/v1/namespaces/ns/secrets").await.0, 403);

    let me = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = cluster.call(&token, "POST", path, me).await;
    assert_eq!(
        (code, &answer["status"]["userInfo"]["username"]),
        (201, &json!("system:serviceaccount:ns:sa"))
    );

    cluster.call(&Caller::Admin, "DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), Value::Null).await;
    assert_eq!(cluster.get(&token, pods).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_rights_that_he_does_not_hold() {
    let cluster = with_pod().await;
    let token = Caller::Token(pod_token(&cluster).await);
    let binding = json!({
        "metadata": {"name": "admins"},
        "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": "ns"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/ns/rolebindings";
    cluster.create(bindings, binding.clone()).await;
    let mut more = binding.clone();
    more["metadata"]["name"] = json!("more");
    assert_eq!(cluster.call(&token, "POST", bindings, more.clone()).await.0, 201); // an admin gives what he has
    more["metadata"]["name"] = json!("root");
    more["roleRef"]["name"] = json!("cluster-admin");
    let (code, answer) = cluster.call(&token, "POST", bindings, more).await;
    assert_eq!(code, 403, "{answer}");
    let told = answer["message"].as_str().unwrap();
    assert!(
        told.contains("is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"]"),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn may_i_is_answered_for_components_too() {
    let cluster = Cluster::start().await;
    let ask = |user: &str, verb: &str, resource: &str| {
        let attributes = json!({"verb": verb, "resource": resource, "namespace": "kube-system"});
        json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        })
    };
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    for (user, verb, resource, expected) in [
        ("system:kube-scheduler", "list", "pods", true),
        ("system:kube-scheduler", "list", "secrets", false),
        ("system:kube-controller-manager", "list", "secrets", true),
    ] {
        let (code, answer) = cluster.call(&Caller::Admin, "POST", path, ask(user, verb, resource)).await;
        assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(expected)), "{user} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_changes_nothing_of_a_complete_policy() {
    let cluster = Cluster::start().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let before = cluster.get(&Caller::Admin, roles).await.1;
    assert!(before["items"].as_array().unwrap().len() > 60);
    cluster.ensure_policy().await;
    assert_eq!(cluster.get(&Caller::Admin, roles).await.1, before);
    cluster.call(&Caller::Admin, "DELETE", &format!("{roles}/view"), json!({})).await;
    cluster.ensure_policy().await;
    assert_eq!(cluster.get(&Caller::Admin, &format!("{roles}/view")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_can_verify_our_tokens_by_the_published_keys() {
    let cluster = Cluster::start().await;
    let (code, configuration) = cluster.get(&Caller::Admin, "/.well-known/openid-configuration").await;
    assert_eq!((code, &configuration["jwks_uri"]), (200, &json!("https://127.0.0.1:6443/openid/v1/jwks")));
    let (code, keys) = cluster.get(&Caller::Admin, "/openid/v1/jwks").await;
    assert_eq!((code, &keys["keys"][0]["crv"]), (200, &json!("P-256")));
    assert_eq!(cluster.get(&Caller::Node, "/openid/v1/jwks").await.0, 403);
}
