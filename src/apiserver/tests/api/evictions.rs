//! Evictions and PodDisruptionBudgets over HTTP, with the budgets' status written as the controller writes it.

use apiserver::registry::table::{Actions, Cluster, rows};
use serde_json::{Value, json};

use crate::host::{Answer, Host};

const PODS: &str = "/api/v1/namespaces/a/pods";
const BUDGETS: &str = "/apis/policy/v1/namespaces/a/poddisruptionbudgets";

async fn host() -> Host {
    Host::start(rows(&Cluster::default(), &Actions::default()).0).await
}

/// A pod of `app: web`.
async fn pod(host: &Host, name: &str, phase: &str, ready: bool) -> Value {
    let pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    host.create(PODS, pod).await;
    let ready = if ready { "True" } else { "False" };
    let status = json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
    let told = host.call("PATCH", &format!("{PODS}/{name}/status"), status).await;
    assert_eq!(told.code, 200, "{}", told.text);
    told.body
}

/// A budget over `app: web` that was seen by its controller: healthy, desired, allowed.
async fn budget(host: &Host, name: &str, policy: &str, (current, desired, allowed): (i32, i32, i32)) {
    let selector = json!({"matchLabels": {"app": "web"}});
    let mut spec = json!({"minAvailable": desired, "selector": selector});
    if !policy.is_empty() {
        spec["unhealthyPodEvictionPolicy"] = json!(policy);
    }
    let made = host.create(BUDGETS, json!({"metadata": {"name": name}, "spec": spec})).await;
    assert_eq!(made["metadata"]["generation"], 1);
    let status = json!({"status": {"observedGeneration": 1, "expectedPods": current,
        "currentHealthy": current, "desiredHealthy": desired, "disruptionsAllowed": allowed}});
    let told = host.call("PATCH", &format!("{BUDGETS}/{name}/status"), status).await;
    assert_eq!(told.code, 200, "{}", told.text);
}

async fn evict_with(host: &Host, name: &str, query: &str, options: Value) -> Answer {
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": "a"}, "deleteOptions": options});
    host.call("POST", &format!("{PODS}/{name}/eviction{query}"), eviction).await
}

async fn evict(host: &Host, name: &str) -> Answer {
    evict_with(host, name, "", json!({})).await
}

async fn is_there(host: &Host, name: &str) -> bool {
    host.get(&format!("{PODS}/{name}")).await.code == 200
}

async fn status(host: &Host, budget: &str) -> Value {
    host.get(&format!("{BUDGETS}/{budget}/status")).await.body["status"].clone()
}

#[tokio::test]
async fn two_evictions_do_not_both_get_the_last_disruption() {
    let host = host().await;
    for round in 0..10 {
        let names = [format!("a{round}"), format!("b{round}")];
        for name in &names {
            pod(&host, name, "Running", true).await;
        }
        let of_round = format!("b{round}");
        budget(&host, &of_round, "", (2, 1, 1)).await;
        let (one, other) = tokio::join!(evict(&host, &names[0]), evict(&host, &names[1]));
        let mut codes = [one.code, other.code];
        codes.sort_unstable();
        assert_eq!(codes, [201, 429], "{} {}", one.text, other.text);
        let (gone, stays) = if one.code == 201 { (&names[0], &names[1]) } else { (&names[1], &names[0]) };
        assert!(!is_there(&host, gone).await && is_there(&host, stays).await);
        let spent = status(&host, &of_round).await;
        assert_eq!(spent["disruptionsAllowed"], 0);
        let noted: Vec<_> = spent["disruptedPods"].as_object().unwrap().keys().collect();
        assert_eq!(noted, [gone]);
        assert_eq!(spent["conditions"][0]["reason"], "InsufficientPods");
        host.call("DELETE", &format!("{BUDGETS}/{of_round}"), Value::Null).await;
        host.call("DELETE", &format!("{PODS}/{stays}"), Value::Null).await;
    }
}

#[tokio::test]
async fn a_refusal_names_the_budget_what_it_needs_and_what_it_has() {
    let host = host().await;
    pod(&host, "web", "Running", true).await;
    budget(&host, "b", "", (2, 2, 0)).await;
    let refused = evict(&host, "web").await;
    assert_eq!((refused.code, &refused.body["reason"]), (429, &json!("TooManyRequests")));
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "DisruptionBudget");
    assert_eq!(cause["message"], "The disruption budget b needs 2 healthy pods and has 2 currently");

    host.call("PATCH", &format!("{BUDGETS}/b"), json!({"spec": {"minAvailable": 1}})).await;
    let unseen = evict(&host, "web").await;
    assert_eq!(
        (unseen.code, unseen.headers["retry-after"].to_str().unwrap()),
        (429, "10"),
        "{}",
        unseen.text
    );
    assert!(unseen.text.contains("The disruption budget b is still being processed"), "{}", unseen.text);
    assert!(is_there(&host, "web").await);
}

#[tokio::test]
async fn a_pod_of_two_budgets_cannot_be_evicted() {
    let host = host().await;
    pod(&host, "web", "Running", true).await;
    for name in ["a", "b"] {
        budget(&host, name, "", (2, 1, 1)).await;
    }
    let refused = evict(&host, "web").await;
    assert_eq!(refused.code, 500, "{}", refused.text);
    assert!(refused.text.contains("more than one PodDisruptionBudget"), "{}", refused.text);
    assert_eq!(status(&host, "a").await["disruptionsAllowed"], 1);
}

#[tokio::test]
async fn pods_that_do_not_serve_go_freely() {
    let host = host().await;
    budget(&host, "b", "", (0, 1, 0)).await;
    for phase in ["Pending", "Succeeded", "Failed"] {
        pod(&host, "web", phase, false).await;
        let gone = evict(&host, "web").await;
        assert_eq!(gone.code, 201, "{phase}: {}", gone.text);
        assert!(!is_there(&host, "web").await);
    }
    assert!(status(&host, "b").await["disruptedPods"].is_null());
}

#[tokio::test]
async fn a_pod_that_is_not_ready_goes_as_its_budget_says() {
    for (policy, counts, code) in [
        ("", (1, 1, 0), 201),
        ("IfHealthyBudget", (1, 1, 0), 201),
        ("IfHealthyBudget", (0, 1, 0), 429),
        ("AlwaysAllow", (0, 1, 0), 201),
    ] {
        let host = host().await;
        pod(&host, "web", "Running", false).await;
        budget(&host, "b", policy, counts).await;
        let answer = evict(&host, "web").await;
        assert_eq!(answer.code, code, "{policy} {counts:?}: {}", answer.text);
        assert_eq!(is_there(&host, "web").await, code != 201);
    }
}

#[tokio::test]
async fn a_dry_run_evicts_nobody_and_spends_nothing() {
    let host = host().await;
    pod(&host, "web", "Running", true).await;
    budget(&host, "b", "", (2, 1, 1)).await;
    for (query, options) in [("?dryRun=All", json!({})), ("", json!({"dryRun": ["All"]}))] {
        let answer = evict_with(&host, "web", query, options).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
    }
    let left = status(&host, "b").await;
    assert_eq!((&left["disruptionsAllowed"], &left["disruptedPods"]), (&json!(1), &Value::Null));
    let pod = host.get(&format!("{PODS}/web")).await.body;
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["type"] != "DisruptionTarget"));
}

#[tokio::test]
async fn an_eviction_means_the_pod_that_it_names() {
    let host = host().await;
    let web = pod(&host, "web", "Running", true).await;
    let meta = &web["metadata"];
    for (options, code) in [
        (json!({"preconditions": {"uid": "another"}}), 409),
        (json!({"preconditions": {"resourceVersion": "1"}}), 409),
        (json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true}), 422),
        (json!({"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}}), 201),
    ] {
        let answer = evict_with(&host, "web", "", options.clone()).await;
        assert_eq!(answer.code, code, "{options}: {}", answer.text);
        assert_eq!(is_there(&host, "web").await, code != 201);
    }
    let other = json!({"metadata": {"name": "other"}});
    assert_eq!(host.call("POST", &format!("{PODS}/web/eviction"), other).await.code, 400);
}

#[tokio::test]
async fn a_budgets_status_is_written_apart_and_makes_sense() {
    let host = host().await;
    budget(&host, "b", "", (2, 1, 1)).await;
    let path = format!("{BUDGETS}/b");
    host.call("PATCH", &path, json!({"status": {"disruptionsAllowed": 9}})).await;
    let mut whole = host.get(&path).await.body;
    assert_eq!(whole["status"]["disruptionsAllowed"], 1);
    whole["status"]["disruptionsAllowed"] = json!(0);
    whole["spec"]["minAvailable"] = json!(7);
    let told = host.call("PUT", &format!("{path}/status"), whole).await;
    assert_eq!((told.code, &told.body["spec"]["minAvailable"]), (200, &json!(1)), "{}", told.text);
    assert_eq!(
        (&told.body["status"]["disruptionsAllowed"], &told.body["metadata"]["generation"]),
        (&json!(0), &json!(1))
    );

    let condition = json!({"type": "DisruptionAllowed", "status": "No", "reason": "not one"});
    for (status, field) in [
        (json!({"currentHealthy": -1}), "status.currentHealthy"),
        (json!({"conditions": [condition]}), "status.conditions[0].status"),
        (json!({"conditions": [condition]}), "status.conditions[0].reason"),
        (json!({"conditions": [condition]}), "status.conditions[0].lastTransitionTime"),
    ] {
        let wrong = host.call("PATCH", &format!("{path}/status"), json!({"status": status})).await;
        assert_eq!(wrong.code, 422, "{}", wrong.text);
        let mut causes = wrong.body["details"]["causes"].as_array().unwrap().iter();
        assert!(causes.any(|cause| cause["field"] == field), "{field}: {}", wrong.text);
    }
}
