//! The mode nftables, and its table beside IPVS.

use std::collections::{BTreeMap, BTreeSet};

use netlink::nft::{Family, Socket};
use proptest::prelude::*;
use proxy::{
    Rules,
    model::ServiceModel,
    nftables::{Layout, Nftables, Programmed, Role, plan, plan_all, plan_all_on, plan_deletions},
};

use crate::{
    bed::{in_namespace, run},
    models::{any_service, local_targets, numbered, one_of_each, pods, service},
    table::Table,
};

fn layout() -> Layout {
    Layout { family: Family::Ip, pods: pods(), role: Role::Translate, drop_invalid: true }
}

#[test]
fn one_service_of_each_sort_renders_as_written_down() {
    for (role, name) in [(Role::Translate, "nftables"), (Role::BesideIpvs, "nftables_beside_ipvs")] {
        let layout = Layout { role, ..layout() };
        let services = one_of_each();
        let plan = plan_all(services.iter().map(|(key, model)| (key, model)), layout);
        insta::assert_snapshot!(name, plan.transaction.render());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// However Services change, and whenever tidying comes, the table is what writing it anew would make,
    /// no transaction is one that the kernel would refuse, and planning again after apply is empty.
    #[test]
    fn changes_lead_to_what_writing_anew_makes(
        steps in prop::collection::vec((0u8..4, prop::option::of(any_service()), any::<bool>()), 1..30),
        role in prop_oneof![Just(Role::Translate), Just(Role::BesideIpvs)],
    ) {
        let layout = || Layout { role, ..layout() };
        let mut table = Table::default();
        let mut programmed = Programmed::<u8>::default();
        let mut services = BTreeMap::new();
        let first = plan_all(&services, layout());
        table.commit(&first.transaction).unwrap();
        programmed.accept(first);
        for (number, service, tidy) in steps {
            let model = numbered(number, service.unwrap_or_default());
            services.insert(number, model.clone());
            let planned = plan(&programmed, [(&number, &model)], layout());
            table.commit(&planned.transaction).map_err(TestCaseError::fail)?;
            programmed.accept(planned);
            let again = plan(&programmed, [(&number, &model)], layout());
            prop_assert!(again.shadowed.is_empty());
            prop_assert!(again.is_empty(), "planned again: {}", again.transaction.render());
            if tidy {
                table.commit(&plan_deletions(&programmed, layout())).map_err(TestCaseError::fail)?;
                programmed.accept_deletions();
            }
        }
        table.commit(&plan_deletions(&programmed, layout())).map_err(TestCaseError::fail)?;
        let mut fresh = Table::default();
        let all = plan_all(&services, layout());
        fresh.commit(&all.transaction).map_err(TestCaseError::fail)?;
        prop_assert_eq!(table, fresh);
        let counts = programmed.element_counts(layout());
        programmed.accept(all);
        prop_assert_eq!(counts, programmed.element_counts(layout()));
    }
}

#[test]
fn the_older_service_has_an_address_and_the_younger_takes_over() {
    let shared = |number: u8, created: i64| {
        let mut model = service(number, &[number]);
        model.created = created;
        model.ports[0].node_port = None;
        model.ports[0].external_ips.insert("192.0.2.9".parse().unwrap());
        model
    };
    let (older, younger) = (shared(2, 10), shared(1, 20));
    let (mut table, mut programmed) = (Table::default(), Programmed::default());
    let first = plan_all([(&1, &younger)], layout());
    table.commit(&first.transaction).unwrap();
    programmed.accept(first);
    let mut step = |model: &ServiceModel| {
        let plan = plan(&programmed, [(&2, model)], layout());
        table.commit(&plan.transaction).unwrap();
        let (text, shadowed) = (plan.transaction.render(), plan.shadowed.clone());
        programmed.accept(plan);
        (text, shadowed)
    };
    let has = |text: &str, number: u8| {
        text.lines().any(|line| {
            line.starts_with("add element")
                && line.contains("192.0.2.9 . tcp . 80 : goto external-")
                && line.contains(&format!("shop/web-{number}/tcp/http"))
        })
    };
    let (text, shadowed) = step(&older);
    assert!(has(&text, 2), "{text}");
    let lost: Vec<_> = shadowed.iter().map(|s| (s.what.as_str(), s.loser, s.winner)).collect();
    assert_eq!(lost, [("192.0.2.9:80/Tcp", 1, 2)]);
    let (text, shadowed) = step(&ServiceModel::default());
    assert!(has(&text, 1) && shadowed.is_empty(), "{text}");
    // A cluster IP is its Service's, however old the one is that claims it from outside.
    let mut thief = shared(3, 0);
    thief.ports[0].external_ips = BTreeSet::from([younger.ports[0].cluster_ip]);
    let (text, shadowed) = step(&thief);
    assert!(!text.contains("10.96.0.1 . tcp"), "{text}");
    assert_eq!((shadowed[0].loser, shadowed[0].winner), (2, 1));
}

#[test]
fn beside_ipvs_an_address_of_the_nodes_own_stays_the_nodes() {
    let layout = Layout { role: Role::BesideIpvs, ..layout() };
    let own: std::net::IpAddr = "192.0.2.1".parse().unwrap();
    let mut model = service(1, &[1]);
    model.ports[0].external_ips = [own, "192.0.2.9".parse().unwrap()].into();
    let addresses = |text: &str| -> Vec<String> {
        let elements = text.lines().filter(|line| line.contains(" element "));
        let lines = elements.filter_map(|line| line.split_once("service-addresses {"));
        lines.flat_map(|(_, list)| list.trim_end_matches('}').split(',')).map(|ip| ip.trim().into()).collect()
    };
    let (mut table, mut programmed) = (Table::default(), Programmed::default());
    let first = plan_all_on([own].into(), [(&1, &model)], layout);
    table.commit(&first.transaction).unwrap();
    assert_eq!(addresses(&first.transaction.render()), ["10.96.0.1", "192.0.2.9"]);
    programmed.accept(first);
    let gone = plan(&programmed, [(&1, &ServiceModel::default())], layout);
    table.commit(&gone.transaction).unwrap();
    assert_eq!(addresses(&gone.transaction.render()), ["10.96.0.1", "192.0.2.9"]);
}

#[test]
fn beside_ipvs_this_host_is_masqueraded_also_where_no_range_of_pods_is_known() {
    let layout = Layout { role: Role::BesideIpvs, pods: proxy::model::Pods::default(), ..layout() };
    let all = plan_all([(&1, &service(1, &[1]))], layout).transaction.render();
    let rules: Vec<&str> = all.lines().filter(|line| line.contains("proxy mark-strangers ")).collect();
    assert_eq!(
        rules,
        ["add rule ip coracle-proxy mark-strangers ip saddr @service-addresses jump mark-for-masquerade"]
    );
}

#[test]
fn beside_ipvs_allowed_clients_from_outside_are_not_sent_to_other_nodes_under_a_local_policy() {
    let layout = Layout { role: Role::BesideIpvs, ..layout() };
    let sources = |here: &[u8]| {
        let mut model = service(1, &[1, 2]);
        model.ports[0].external = local_targets(here, &[1, 2]);
        model.ports[0].balancer_ips = ["192.0.2.10".parse().unwrap()].into();
        model.ports[0].source_ranges = ["203.0.113.0/24".parse().unwrap()].into();
        let text = plan_all([(&1, &model)], layout).transaction.render();
        let rules = text.lines().filter(|line| line.contains("add rule") && line.contains("proxy sources-"));
        rules.filter_map(|line| Some(line.split_once(" ip saddr ")?.1.to_string())).collect::<Vec<_>>()
    };
    assert_eq!(sources(&[]), ["203.0.113.0/24 goto insiders-only"]);
    assert_eq!(sources(&[1]), ["203.0.113.0/24 return"]);
}

#[test]
fn what_is_no_connections_is_dropped_unless_conntrack_is_liberal() {
    let drops = |layout| {
        let text = plan_all([(&1, &service(1, &[1]))], layout).transaction.render();
        text.lines().any(|line| line.ends_with("filter-forward ct state invalid drop"))
    };
    for role in [Role::Translate, Role::BesideIpvs] {
        assert!(drops(Layout { role, ..layout() }));
        assert!(!drops(Layout { role, drop_invalid: false, ..layout() }));
    }
    in_namespace(async || {
        let set = |value| run(&format!("echo {value} > /proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal"));
        for (liberal, drops) in [(1, "!"), (0, "")] {
            set(liberal);
            let mut rules: Nftables<u8> = Nftables::open(&crate::bed::config(), Role::Translate).unwrap();
            rules.write_all(&[]).await.unwrap();
            run(&format!(
                "{drops} nft list chain ip coracle-proxy filter-forward | grep -q 'ct state invalid drop'"
            ));
            assert!(rules.audit().await.unwrap());
        }
    });
}

#[test]
fn the_kernel_has_the_rules_that_we_count() {
    in_namespace(async || {
        for role in [Role::Translate, Role::BesideIpvs] {
            let layout = Layout { role, ..layout() };
            let mut socket = Socket::open().unwrap();
            let mut programmed = Programmed::default();
            let services: BTreeMap<u8, ServiceModel> = (0..50).map(|n| (n, service(n, &[1, 2]))).collect();
            let all = plan_all_on(["10.96.0.7".parse().unwrap()].into(), &services, layout);
            let table = all.transaction.table.clone();
            socket.commit(&all.transaction).await.unwrap();
            programmed.accept(all);
            let state = socket.state(&table).await.unwrap().unwrap();
            assert_eq!(state.chains, programmed.rule_counts(layout));
            for (map, count) in programmed.element_counts(layout) {
                assert_eq!(state.sets.get(map), Some(&count), "{map}");
            }
            assert_eq!(state.sets.len(), programmed.element_counts(layout).len(), "no set goes uncounted");
        }
    });
}

#[test]
fn an_audit_misses_a_rule_that_all_services_share() {
    in_namespace(async || {
        let mut rules: Nftables<u8> = Nftables::open(&crate::bed::config(), Role::Translate).unwrap();
        rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
        assert!(rules.audit().await.unwrap());
        run("nft flush chain ip coracle-proxy nat-postrouting");
        assert!(!rules.audit().await.unwrap());
    });
}
