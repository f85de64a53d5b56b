//! The mode iptables: its text, and a simulated `iptables-restore` that refuses what the real one refuses.

use std::collections::BTreeMap;

use netlink::nft::Family;
use proptest::prelude::*;
use proxy::{
    Config, Mode, Rules,
    iptables::{Flavour, Iptables, Layout, Programmed, Restore, Saved, plan, plan_all, plan_removal},
    model::ServiceModel,
};

use crate::{
    bed::{in_namespace, run},
    models::{any_service, numbered, one_of_each, pods, service},
};

fn layout() -> Layout {
    Layout { ipv6: false, pods: pods(), drop_invalid: true }
}

/// Rules by chain, by table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tables(BTreeMap<String, BTreeMap<String, Vec<String>>>);

impl Default for Tables {
    fn default() -> Self {
        let hooks = |names: &[&str]| names.iter().map(|name| (name.to_string(), Vec::new())).collect();
        Self(BTreeMap::from([
            ("mangle".into(), hooks(&["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"])),
            ("filter".into(), hooks(&["INPUT", "FORWARD", "OUTPUT"])),
            ("nat".into(), hooks(&["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"])),
        ]))
    }
}

fn target(rule: &str) -> &str {
    rule.rsplit_once("-j ").or_else(|| rule.rsplit_once("-g ")).unwrap().1.split(' ').next().unwrap()
}

impl Tables {
    fn restore(&mut self, restore: &Restore) -> Result<(), String> {
        let text = restore.to_string();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            let chains = self.0.get_mut(table).ok_or("no such table")?;
            Self::line(chains, line).map_err(|why| format!("{table}: {line}: {why}"))?;
        }
        Ok(())
    }

    fn line(chains: &mut BTreeMap<String, Vec<String>>, line: &str) -> Result<(), &'static str> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        if let Some(chain) = word.strip_prefix(':') {
            chains.insert(chain.to_string(), Vec::new());
            return Ok(());
        }
        if ["-A", "-I"].contains(&word) {
            let ends = ["REJECT", "DROP", "ACCEPT", "RETURN", "MARK", "DNAT", "MASQUERADE"];
            if !ends.contains(&target(rule)) && !chains.contains_key(target(rule)) {
                return Err("no chain to go to");
            }
        }
        let rules = match word {
            "-A" | "-I" | "-D" | "-X" => chains.get_mut(chain).ok_or("no such chain")?,
            _ => return Ok(()),
        };
        match word {
            "-A" => rules.push(rule.to_string()),
            "-I" => rules.insert(0, rule.to_string()),
            "-D" => {
                let at = rules.iter().position(|known| known == rule).ok_or("no such rule")?;
                rules.remove(at);
            }
            _ if !rules.is_empty() => return Err("the chain is not empty"),
            _ => {
                if chains.values().flatten().any(|rule| target(rule) == chain) {
                    return Err("something goes to the chain");
                }
                chains.remove(chain);
            }
        }
        Ok(())
    }

    fn saved(&self) -> Saved {
        let mut text = String::new();
        for (table, chains) in &self.0 {
            text += &format!("*{table}\n");
            chains.keys().for_each(|chain| text += &format!(":{chain} - [0:0]\n"));
            for (chain, rules) in chains {
                rules.iter().for_each(|rule| text += &format!("-A {chain} {rule}\n"));
            }
            text += "COMMIT\n";
        }
        Saved::parse(&text)
    }

    /// Without what the order of changes decides: entrances are one Service's each, so that the order of their rules says
    /// nothing; only the rule for node ports stays the last.
    fn sorted(mut self) -> Self {
        for chain in self.0.values_mut().flat_map(BTreeMap::iter_mut) {
            let (name, rules) = chain;
            if ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"]
                .contains(&name.as_str())
            {
                let last = rules.last().is_some_and(|rule| rule.contains("must be the last rule"));
                let among = rules.len() - usize::from(last);
                rules[..among].sort();
            }
        }
        self
    }
}

#[test]
fn one_service_of_each_sort_renders_as_written_down() {
    let services = one_of_each();
    let plan = plan_all(services.iter().map(|(key, model)| (key, model)), &Saved::default(), layout());
    insta::assert_snapshot!("iptables", plan.restore.to_string());
}

#[test]
fn what_is_no_connections_is_dropped_unless_conntrack_is_liberal() {
    for drop_invalid in [true, false] {
        let plan = plan_all::<u8>([], &Saved::default(), Layout { drop_invalid, ..layout() });
        assert_eq!(plan.restore.to_string().contains("--ctstate INVALID -j DROP"), drop_invalid);
    }
}

#[test]
fn a_change_names_the_chains_of_its_service_alone() {
    let mut programmed = Programmed::default();
    let services: Vec<(u8, ServiceModel)> = (1..50).map(|n| (n, service(n, &[1, 2]))).collect();
    programmed.accept(plan_all(services.iter().map(|(n, m)| (n, m)), &Saved::default(), layout()));
    insta::assert_snapshot!(
        "iptables_one_endpoint_more",
        plan(&programmed, [(&7, &service(7, &[1, 2, 3]))], layout()).restore.to_string()
    );
    insta::assert_snapshot!(
        "iptables_no_endpoint_left",
        plan(&programmed, [(&7, &service(7, &[]))], layout()).restore.to_string()
    );
}

#[test]
fn what_another_proxy_left_is_replaced_and_strangers_stay() {
    let mut tables = Tables::default();
    let nat = tables.0.get_mut("nat").unwrap();
    nat.insert("DOCKER".into(), vec!["-j RETURN".into()]);
    nat.insert("KUBE-SERVICES".into(), vec!["-d 10.96.9.9 -j KUBE-SVC-OLD".into()]);
    nat.insert("KUBE-SVC-OLD".into(), Vec::new());
    nat.insert("KUBE-KUBELET-CANARY".into(), Vec::new());
    let hook = nat.get_mut("PREROUTING").unwrap();
    hook.extend(["-j DOCKER".to_string(), "-m comment --comment old -j KUBE-SERVICES".into()]);
    let model = service(1, &[1]);
    let plan = plan_all([(&1, &model)], &tables.saved(), layout());
    tables.restore(&plan.restore).unwrap();
    let mut programmed = Programmed::default();
    programmed.accept(plan);
    assert!(programmed.matches(&tables.saved(), layout()));
    assert!(!tables.0["nat"].contains_key("KUBE-SVC-OLD"));
    assert_eq!(tables.0["nat"]["PREROUTING"].iter().filter(|r| target(r) == "KUBE-SERVICES").count(), 1);
    tables.restore(&plan_removal(&tables.saved())).unwrap();
    assert!(tables.saved().is_empty());
    assert_eq!(tables.0["nat"]["PREROUTING"], ["-j DOCKER"]);
    assert_eq!(tables.0["nat"]["DOCKER"], ["-j RETURN"]);
    assert!(tables.0["nat"].contains_key("KUBE-KUBELET-CANARY"));
}

#[test]
fn rules_that_are_missing_are_noticed() {
    let model = service(1, &[1]);
    let plan = plan_all([(&1, &model)], &Saved::default(), layout());
    let (mut tables, mut programmed) = (Tables::default(), Programmed::default());
    tables.restore(&plan.restore).unwrap();
    programmed.accept(plan);
    for (table, chain) in [("nat", "PREROUTING"), ("filter", "INPUT"), ("nat", "KUBE-MARK-MASQ")] {
        let mut broken = tables.clone();
        broken.0.get_mut(table).unwrap().get_mut(chain).unwrap().pop();
        assert!(!programmed.matches(&broken.saved(), layout()), "{chain}");
    }
    let mut broken = tables.clone();
    broken.0.get_mut("mangle").unwrap().remove("KUBE-PROXY-CANARY");
    assert!(!programmed.matches(&broken.saved(), layout()));
}

#[test]
fn what_other_software_leads_to_a_chain_of_ours_stays() {
    let mut tables = Tables::default();
    let theirs = BTreeMap::from([
        ("CNI-HOSTPORT-SETMARK".to_string(), vec!["-j KUBE-MARK-MASQ".to_string()]),
        ("KUBE-HP-A".to_string(), vec!["-s 10.244.0.7/32 -g KUBE-MARK-MASQ".to_string()]),
        ("KUBE-MARK-MASQ".to_string(), Vec::new()),
    ]);
    tables.0.get_mut("nat").unwrap().extend(theirs.clone());
    let services = one_of_each();
    for _ in 0..2 {
        let plan = plan_all(services.iter().map(|(key, model)| (key, model)), &tables.saved(), layout());
        tables.restore(&plan.restore).unwrap();
        for chain in ["CNI-HOSTPORT-SETMARK", "KUBE-HP-A"] {
            assert_eq!(tables.0["nat"][chain], theirs[chain]);
        }
    }
    tables.restore(&plan_removal(&tables.saved())).unwrap();
    let mut expected = Tables::default();
    expected.0.get_mut("nat").unwrap().extend(theirs);
    assert_eq!(tables, expected);
    assert!(tables.saved().is_empty(), "what is left is no proxy's");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// However Services change, the rules are what writing all anew would make, nothing is asked that would be refused, and
    /// planning again after apply is empty.
    #[test]
    fn changes_lead_to_what_writing_anew_makes(
        steps in prop::collection::vec((0u8..4, prop::option::of(any_service())), 1..30),
    ) {
        let (mut tables, mut programmed) = (Tables::default(), Programmed::<u8>::default());
        let mut services = BTreeMap::new();
        let first = plan_all(&services, &tables.saved(), layout());
        tables.restore(&first.restore).map_err(TestCaseError::fail)?;
        programmed.accept(first);
        for (number, service) in steps {
            let model = numbered(number, service.unwrap_or_default());
            services.insert(number, model.clone());
            let planned = plan(&programmed, [(&number, &model)], layout());
            tables.restore(&planned.restore).map_err(TestCaseError::fail)?;
            programmed.accept(planned);
            prop_assert!(programmed.matches(&tables.saved(), layout()));
            let again = plan(&programmed, [(&number, &model)], layout());
            prop_assert!(again.restore.is_empty(), "planned again: {}", again.restore);
        }
        let mut fresh = Tables::default();
        let all = plan_all(&services, &Saved::default(), layout());
        fresh.restore(&all.restore).map_err(TestCaseError::fail)?;
        prop_assert_eq!(tables.clone().sorted(), fresh.sorted());
        // Writing anew over what there is makes the same.
        let over = plan_all(&services, &tables.saved(), layout());
        tables.restore(&over.restore).map_err(TestCaseError::fail)?;
        programmed.accept(over);
        prop_assert!(programmed.matches(&tables.saved(), layout()));
    }
}

#[test]
fn rules_of_services_in_the_other_packet_filter_are_refused_and_removed() {
    in_namespace(async || {
        let config = Config { mode: Mode::Iptables, ..crate::bed::config() };
        let mut rules: Iptables<u8> = Iptables::open_in(&config, Some(Flavour::Legacy)).await.unwrap();
        rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
        let Err(error) = Iptables::<u8>::open_in(&config, Some(Flavour::Nft)).await else {
            panic!("two packet filters would translate")
        };
        // Also where that came later.
        let mut other: Iptables<u8> = {
            assert!(proxy::iptables::remove_chains().await.unwrap());
            Iptables::open_in(&config, Some(Flavour::Nft)).await.unwrap()
        };
        rules.write_all(&[(1, service(1, &[1]))]).await.unwrap();
        let late = other.write_all(&[(1, service(1, &[1]))]).await.expect_err("two would translate");
        assert_eq!(late.to_string(), error.to_string());
        let error = error.to_string();
        assert!(error.contains("update-alternatives --set iptables /usr/sbin/iptables-legacy"), "{error}");
        assert!(proxy::iptables::remove_chains().await.unwrap());
        assert!(!proxy::iptables::remove_chains().await.unwrap());
        Iptables::<u8>::open_in(&config, Some(Flavour::Nft)).await.unwrap();
    });
}

#[test]
fn both_families_are_written_and_removed() {
    in_namespace(async || {
        let config = Config { families: vec![Family::Ip, Family::Ip6], ..crate::bed::config() };
        let mut rules: Iptables<u8> = Iptables::open_in(&config, Some(Flavour::Nft)).await.unwrap();
        let mut model = service(1, &[1]);
        let mut port = model.ports[0].clone();
        port.cluster_ip = "fd00:96::1".parse().unwrap();
        let endpoint = proxy::model::Endpoint { ip: "fd00:244::1".parse().unwrap(), port: 8080 };
        port.cluster = [endpoint].into();
        port.internal.endpoints = [endpoint].into();
        port.external.endpoints = [endpoint].into();
        port.affinity = Some(std::time::Duration::from_secs(10));
        model.ports.push(port);
        rules.write_all(&[(1, model)]).await.unwrap();
        rules.write(&[(2, service(2, &[]))]).await.unwrap();
        assert!(rules.audit().await.unwrap());
        run("ip6tables-save -t nat | grep -q 'DNAT --to-destination .fd00:244::1.:8080'");
        assert!(proxy::iptables::remove_chains().await.unwrap());
        run("! ip6tables-save | grep -q KUBE-");
        run("! iptables-save | grep -q KUBE-");
    });
}
