//! What the planner does, seen from outside: tables of what a pod asks and where it goes, and properties that hold for
//! every cluster.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    diagnosis::Unschedulable,
    plan::plan,
    pod::PodInfo,
    testing::{asking, node, pod},
};

/// Two nodes, `a` with the label `disk=ssd` in zone 1 and `b` in zone 2.
fn two_nodes() -> Cluster {
    let mut cluster = Cluster::default();
    node(&mut cluster, "a", json!({"metadata": {"labels": {"disk": "ssd", "zone": "1"}}}));
    node(&mut cluster, "b", json!({"metadata": {"labels": {"zone": "2"}}}));
    cluster
}

#[track_caller]
fn goes_to(cluster: &Cluster, pod: &PodInfo, node: &str) {
    match plan(cluster, pod) {
        Ok(found) => assert_eq!(&*found, node),
        Err(why) => panic!("{why}"),
    }
}

/// What is said before "preemption:".
#[track_caller]
fn stays(cluster: &Cluster, pod: &PodInfo, why: &str) {
    let said = plan(cluster, pod).unwrap_err().to_string();
    assert_eq!(said.split(" preemption:").next().unwrap(), why);
}

fn place(cluster: &mut Cluster, pod: Arc<PodInfo>, node: &str) {
    cluster.bind(pod, node);
}

#[test]
fn a_pod_without_nodes_waits_for_them() {
    stays(&Cluster::default(), &pod("p", json!({})), "no nodes available to schedule pods");
}

#[test]
fn the_emptier_node_wins_and_then_the_first_by_name() {
    let mut cluster = two_nodes();
    goes_to(&cluster, &asking("p", json!({"cpu": "1", "memory": "1Gi"})), "a");
    place(&mut cluster, asking("q", json!({"cpu": "1", "memory": "1Gi"})), "a");
    goes_to(&cluster, &asking("p", json!({"cpu": "1", "memory": "1Gi"})), "b");
}

#[test]
fn pods_that_ask_for_nothing_spread_too() {
    let mut cluster = two_nodes();
    place(&mut cluster, pod("q", json!({})), "a");
    goes_to(&cluster, &pod("p", json!({})), "b");
}

#[test]
fn a_pod_needs_room_for_all_that_it_asks_for() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "a", json!({"status": {"allocatable": {"example.com/gpu": "1", "pods": "2"}}}));
    place(&mut cluster, asking("q", json!({"cpu": "3", "memory": "6Gi", "example.com/gpu": "1"})), "a");
    goes_to(&cluster, &asking("p", json!({"cpu": "1", "memory": "2Gi"})), "a");
    for (requests, why) in [
        (json!({"cpu": "1001m"}), "0/1 nodes are available: 1 Insufficient cpu."),
        (
            json!({"cpu": "2", "memory": "3Gi"}),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.",
        ),
        (json!({"ephemeral-storage": "21Gi"}), "0/1 nodes are available: 1 Insufficient ephemeral-storage."),
        (json!({"example.com/gpu": "1"}), "0/1 nodes are available: 1 Insufficient example.com/gpu."),
        (json!({"example.com/fpga": "1"}), "0/1 nodes are available: 1 Insufficient example.com/fpga."),
    ] {
        stays(&cluster, &asking("p", requests), why);
    }
    place(&mut cluster, pod("r", json!({})), "a");
    stays(&cluster, &pod("p", json!({})), "0/1 nodes are available: 1 Too many pods.");
}

#[test]
fn what_eviction_could_not_give_is_told_apart() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "a", json!({}));
    let too_big = plan(&cluster, &asking("p", json!({"cpu": "5"}))).unwrap_err().to_string();
    assert!(
        too_big.ends_with("preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
    );
    place(&mut cluster, asking("q", json!({"cpu": "4"})), "a");
    let full = plan(&cluster, &asking("p", json!({"cpu": "1"}))).unwrap_err().to_string();
    assert!(
        full.ends_with(
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
        )
    );
    let important = pod(
        "p",
        json!({"spec": {"priority": 1, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}}),
    );
    let said = plan(&cluster, &important).unwrap_err().to_string();
    assert!(said.ends_with("preemption: this scheduler does not evict pods of lower priority yet."));
}

#[test]
fn selectors_affinity_and_names_bind() {
    let cluster = two_nodes();
    goes_to(&cluster, &pod("p", json!({"spec": {"nodeSelector": {"zone": "2"}}})), "b");
    stays(
        &cluster,
        &pod("p", json!({"spec": {"nodeSelector": {"zone": "3"}}})),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
    );
    let named = |name: &str| {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        let required =
            json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
        pod("p", json!({"spec": {"affinity": {"nodeAffinity": required}}}))
    };
    goes_to(&cluster, &named("b"), "b");
    stays(
        &cluster,
        &named("c"),
        "0/2 nodes are available: 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
    );
}

#[test]
fn preferences_outweigh_emptiness() {
    let mut cluster = two_nodes();
    place(&mut cluster, asking("q", json!({"cpu": "1"})), "a");
    let preference =
        json!({"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}});
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}});
    goes_to(&cluster, &pod("p", json!({"spec": {"affinity": affinity}})), "a");
}

#[test]
fn taints_keep_off_or_only_discourage() {
    let mut cluster = two_nodes();
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    node(&mut cluster, "a", tainted("PreferNoSchedule"));
    goes_to(&cluster, &pod("p", json!({})), "b");
    node(&mut cluster, "a", tainted("NoSchedule"));
    node(&mut cluster, "b", tainted("NoExecute"));
    stays(&cluster, &pod("p", json!({})), "0/2 nodes are available: 2 node(s) had untolerated taint(s).");
    let tolerating =
        json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute"}]}});
    goes_to(&cluster, &pod("p", tolerating), "b");
}

#[test]
fn a_cordoned_node_takes_only_those_that_tolerate_it() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "a", json!({"spec": {"unschedulable": true}}));
    stays(&cluster, &pod("p", json!({})), "0/1 nodes are available: 1 node(s) were unschedulable.");
    let tolerations = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]);
    goes_to(&cluster, &pod("p", json!({"spec": {"tolerations": tolerations}})), "a");
}

#[test]
fn a_host_port_is_taken_once_on_each_node() {
    let mut cluster = two_nodes();
    let port = |name: &str| {
        let ports = json!([{"containerPort": 80, "hostPort": 80}]);
        pod(name, json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}))
    };
    place(&mut cluster, port("q"), "a");
    goes_to(&cluster, &port("p"), "b");
    place(&mut cluster, port("r"), "b");
    stays(
        &cluster,
        &port("p"),
        "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod ports.",
    );
    cluster.remove(&port("q").key);
    goes_to(&cluster, &port("p"), "a");
}

fn term(app: &str, topology: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology}])
}

fn with_affinity(name: &str, app: &str, kind: &str, terms: Value) -> Arc<PodInfo> {
    let affinity = json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    pod(name, json!({"metadata": {"labels": {"app": app}}, "spec": {"affinity": affinity}}))
}

#[test]
fn affinity_follows_the_pods_that_it_names() {
    let mut cluster = two_nodes();
    let near_db = with_affinity("p", "web", "podAffinity", term("db", "zone"));
    stays(&cluster, &near_db, "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.");
    place(&mut cluster, pod("db", json!({"metadata": {"labels": {"app": "db"}}})), "b");
    goes_to(&cluster, &near_db, "b");
    let elsewhere = json!([{
        "labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone", "namespaces": ["other"]}]);
    stays(
        &cluster,
        &with_affinity("p", "web", "podAffinity", elsewhere),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
    );
}

#[test]
fn the_first_of_a_group_that_wants_itself_near_may_go_anywhere() {
    let mut cluster = two_nodes();
    let member = |name: &str| with_affinity(name, "web", "podAffinity", term("web", "zone"));
    goes_to(&cluster, &member("p"), "a");
    place(&mut cluster, member("p"), "b");
    goes_to(&cluster, &member("q"), "b");
}

#[test]
fn anti_affinity_holds_both_ways() {
    let mut cluster = two_nodes();
    let alone = |name: &str| with_affinity(name, "web", "podAntiAffinity", term("web", "zone"));
    place(&mut cluster, alone("q"), "a");
    goes_to(&cluster, &alone("p"), "b");
    place(&mut cluster, alone("r"), "b");
    stays(&cluster, &alone("p"), "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.");
    let plain = pod("p", json!({"metadata": {"labels": {"app": "web"}}}));
    stays(
        &cluster,
        &plain,
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
    cluster.remove(&alone("q").key);
    goes_to(&cluster, &plain, "a");
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    let mut cluster = two_nodes();
    let selecting = json!([{"labelSelector": {"matchLabels": {"app": "db"}}, "topologyKey": "zone",
        "namespaceSelector": {"matchLabels": {"team": "x"}}}]);
    let db = json!({"metadata": {"namespace": "other", "labels": {"app": "db"}}});
    place(&mut cluster, pod("db", db), "b");
    let wishing = with_affinity("p", "web", "podAffinity", selecting);
    assert!(plan(&cluster, &wishing).is_err());
    let namespace =
        serde_json::from_value(json!({"metadata": {"name": "other", "labels": {"team": "x"}}})).unwrap();
    assert!(cluster.set_namespace("other", Some(&namespace)));
    assert!(!cluster.set_namespace("other", Some(&namespace)), "nothing new");
    goes_to(&cluster, &wishing, "b");
}

#[test]
fn only_pods_that_a_rule_is_about_wake_those_that_wait_for_others() {
    let web = |more: Value| pod("w", more);
    let app = |app: &str| web(json!({"metadata": {"labels": {"app": app}}}));
    let near = with_affinity("p", "x", "podAffinity", term("web", "zone"));
    let far = with_affinity("p", "x", "podAntiAffinity", term("web", "zone"));
    for waiting in [&near, &far] {
        assert!(waiting.is_concerned_by(&app("web")) && !waiting.is_concerned_by(&app("db")));
    }
    assert!(app("web").is_concerned_by(&far), "its going may stop keeping others away");
    assert!(!app("web").is_concerned_by(&near));
}

#[test]
fn spread_keeps_domains_level() {
    let mut cluster = two_nodes();
    let spread = |name: &str, when: &str| {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}});
        let labels = json!({"labels": {"app": "web"}});
        pod(name, json!({"metadata": labels, "spec": {"topologySpreadConstraints": [constraint]}}))
    };
    let hard = |name: &str| spread(name, "DoNotSchedule");
    place(&mut cluster, hard("q"), "a");
    goes_to(&cluster, &hard("p"), "b");
    node(&mut cluster, "b", json!({"metadata": {"labels": {"zone": "2"}}, "spec": {"unschedulable": true}}));
    stays(
        &cluster,
        &hard("p"),
        "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) were \
         unschedulable.",
    );
    goes_to(&cluster, &spread("p", "ScheduleAnyway"), "a");
    node(&mut cluster, "b", json!({}));
    stays(
        &cluster,
        &pod(
            "p",
            json!({"spec": {"nodeSelector": {"kubernetes.io/hostname": "b"}, "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}}),
        ),
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod \
         topology spread constraints (missing required label).",
    );
}

#[test]
fn what_is_not_implemented_waits_and_says_so() {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    stays(
        &two_nodes(),
        &pod("p", json!({"spec": {"volumes": volumes}})),
        "0/2 nodes are available: this scheduler does not place pods with PersistentVolumeClaims yet.",
    );
}

#[test]
fn an_image_that_is_there_attracts() {
    let mut cluster = two_nodes();
    let images = json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": 900_000_000}]}});
    node(&mut cluster, "b", images);
    goes_to(&cluster, &pod("p", json!({"spec": {"containers": [{"name": "c", "image": "big"}]}})), "b");
}

#[test]
fn pods_may_be_known_before_their_node() {
    let mut cluster = Cluster::default();
    place(&mut cluster, asking("q", json!({"cpu": "4"})), "a");
    node(&mut cluster, "a", json!({}));
    stays(&cluster, &asking("p", json!({"cpu": "1"})), "0/1 nodes are available: 1 Insufficient cpu.");
    cluster.remove_node("a");
    node(&mut cluster, "a", json!({}));
    stays(&cluster, &asking("p", json!({"cpu": "1"})), "0/1 nodes are available: 1 Insufficient cpu.");
    cluster.remove(&asking("q", json!({})).key);
    goes_to(&cluster, &asking("p", json!({"cpu": "1"})), "a");
}

#[test]
fn an_assumption_counts_until_it_is_taken_back() {
    let mut cluster = Cluster::default();
    node(&mut cluster, "a", json!({}));
    let (all, now) = (asking("p", json!({"cpu": "4"})), tokio::time::Instant::now());
    cluster.assume(Arc::clone(&all), "a");
    assert!(cluster.expired(now).is_empty(), "not while it is being written");
    cluster.expect_by(&all.key, &all.uid, now);
    assert_eq!(cluster.expired(now), std::slice::from_ref(&all.key));
    assert!(plan(&cluster, &asking("q", json!({"cpu": "1"}))).is_err());
    assert!(cluster.forget(&all.key, "another").is_none(), "not what was assumed of a namesake");
    assert!(cluster.forget(&all.key, &all.uid).is_some());
    goes_to(&cluster, &asking("q", json!({"cpu": "1"})), "a");
    place(&mut cluster, Arc::clone(&all), "a");
    assert!(cluster.forget(&all.key, &all.uid).is_none(), "not what the API said");
}

/// Processors, GiB and slots of each node; thousandths, GiB and peculiarities of each pod.
type Input = (Vec<(u32, u32, u32)>, Vec<(u32, u32, u8)>);

fn any_cluster() -> impl Strategy<Value = Input> {
    let nodes = prop::collection::vec((0..8_u32, 0..8_u32, 0..6_u32), 0..8);
    let pods = prop::collection::vec((0..3000_u32, 0..4_u32, any::<u8>()), 0..40);
    (nodes, pods)
}

fn build((nodes, pods): &Input) -> (Cluster, Vec<Arc<PodInfo>>) {
    let mut cluster = Cluster::default();
    for (i, (cpu, memory, slots)) in nodes.iter().enumerate() {
        let allocatable =
            json!({"cpu": cpu.to_string(), "memory": format!("{memory}Gi"), "pods": slots.to_string()});
        let more = json!({
            "metadata": {"labels": {"zone": (i % 2).to_string()}},
            "spec": {"unschedulable": i % 5 == 4},
            "status": {"allocatable": allocatable},
        });
        node(&mut cluster, &format!("n{i}"), more);
    }
    let make = |(i, (cpu, memory, bits)): (usize, &(u32, u32, u8))| {
        let requests = json!({"cpu": format!("{cpu}m"), "memory": format!("{memory}Gi")});
        let mut container = json!({"name": "c", "resources": {"requests": requests}});
        if bits & 1 == 1 {
            container["ports"] = json!([{"containerPort": 1, "hostPort": 80 + (bits >> 6)}]);
        }
        let app = json!({"app": (bits >> 4 & 3).to_string()});
        let mut spec = json!({"containers": [container], "priority": bits >> 5});
        if bits & 2 == 2 {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": app}}]);
        }
        if bits & 12 == 12 {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [{"labelSelector": {"matchLabels": app}, "topologyKey": "kubernetes.io/hostname"}]}});
        }
        pod(&format!("p{i}"), json!({"metadata": {"labels": app}, "spec": spec}))
    };
    (cluster, pods.iter().enumerate().map(make).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_node_is_ever_overcommitted(input in any_cluster()) {
        let (mut cluster, pods) = build(&input);
        for pod in pods {
            if let Ok(node) = plan(&cluster, &pod) {
                cluster.assume(pod, &node);
            }
        }
        for node in cluster.nodes() {
            let (has, taken) = (&node.facts.allocatable, &node.requested);
            prop_assert!(taken.milli_cpu <= has.milli_cpu && taken.memory_bytes <= has.memory_bytes);
            prop_assert!(node.pods.len() as i64 <= node.facts.pod_slots);
            prop_assert!(node.host_ports.values().all(|count| *count == 1));
            prop_assert!(!node.facts.unschedulable || node.pods.is_empty());
            let sum = node.pods.values().map(|pod| pod.requests.milli_cpu).sum::<i64>();
            prop_assert_eq!(sum, taken.milli_cpu);
        }
    }

    #[test]
    fn planning_is_deterministic_and_a_failure_names_each_node_once(input in any_cluster()) {
        let place_all = || {
            let (mut cluster, pods) = build(&input);
            let mut answers = Vec::new();
            for pod in pods {
                let answer = plan(&cluster, &pod);
                match &answer {
                    Ok(node) => cluster.assume(pod, node),
                    Err(Unschedulable::Rejected(diagnosis)) => {
                        let nodes = cluster.nodes().map(|node| Arc::clone(&node.name));
                        assert!(nodes.eq(diagnosis.rejections.keys().cloned()));
                        assert!(diagnosis.rejections.values().all(|r| !r.reasons.is_empty()));
                    }
                    Err(_) => {}
                }
                answers.push(answer);
            }
            answers
        };
        prop_assert_eq!(place_all(), place_all());
    }

    #[test]
    fn what_is_removed_leaves_no_trace(input in any_cluster()) {
        let (mut cluster, pods) = build(&input);
        let before = format!("{cluster:?}");
        for pod in &pods {
            if let Ok(node) = plan(&cluster, pod) {
                cluster.bind(Arc::clone(pod), &node);
            }
        }
        for pod in &pods {
            cluster.remove(&pod.key);
        }
        prop_assert_eq!(format!("{cluster:?}"), before);
    }
}

#[test]
#[ignore = "a measurement: cargo test --release -p scheduler -- --ignored --nocapture thousand"]
fn a_thousand_nodes_take_five_thousand_pods() {
    let mut cluster = Cluster::default();
    for i in 0..1000 {
        let allocatable = json!({"cpu": "32", "memory": "128Gi", "pods": "110"});
        let labels = json!({"zone": (i % 3).to_string()});
        node(
            &mut cluster,
            &format!("node-{i:04}"),
            json!({"metadata": {"labels": labels}, "status": {"allocatable": allocatable}}),
        );
    }
    let pods: Vec<_> =
        (0..5000).map(|i| asking(&format!("p{i}"), json!({"cpu": "250m", "memory": "512Mi"}))).collect();
    let started = std::time::Instant::now();
    let mut by_node: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for pod in pods {
        let node = plan(&cluster, &pod).expect("there is room");
        *by_node.entry(Arc::clone(&node)).or_default() += 1;
        cluster.assume(pod, &node);
    }
    let took = started.elapsed();
    assert_eq!(by_node.values().copied().max(), Some(5));
    let rate = 5000.0 / took.as_secs_f64();
    eprintln!("5000 pods on 1000 nodes: {took:?}, {rate:.0} pods/s, {:?} each", took / 5000);
}
