//! Takes everything away that the network made on this host. What is not there is no failure.

use std::time::Duration;

use lifecycle::{Chain, Workers};
use netlink::nft::Family;

use crate::{
    builtin::{self, TABLE},
    config::Config,
    host::Ledger,
    offer,
    provider::{Provider, Saved},
    routes,
};

const DEADLINE: Duration = Duration::from_secs(120);

/// What was removed, and what could not be, in words for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub removed: Vec<String>,
    pub failed: Vec<String>,
}

impl Report {
    fn note<T>(
        &mut self,
        what: &str,
        result: Result<T, impl std::error::Error>,
        removed: impl FnOnce(T) -> Vec<String>,
    ) {
        match result {
            Ok(value) => self.removed.extend(removed(value)),
            Err(error) => self.failed.push(format!("{what}: {}", Chain(&error))),
        }
    }
}

/// Removes the offer to the runtime, pods' interfaces and addresses, node routes, the nf_tables table, and puts
/// sysctls back. One failure does not hide the rest. The agent must not be running.
pub async fn reset(config: &Config) -> Report {
    let mut report = Report::default();
    let saved = Saved::load(&config.state_dir);
    if let Ok(Some(saved @ Saved::Chain { .. })) = &saved {
        match Provider::open(saved, &config.state_dir) {
            Ok(Provider::Chain(chain)) => {
                report.note("attachments of the chain", chain.clear().await, |()| Vec::new());
            }
            Ok(Provider::BuiltIn(_)) => {}
            Err(error) => report.note("the chain", Err::<(), _>(error), |()| Vec::new()),
        }
    }
    let owned = config.clone();
    let blocking = Workers::new(1).run("reset", DEADLINE, move || remove(&owned)).await;
    match blocking {
        Ok(rest) => {
            report.removed.extend(rest.removed);
            report.failed.extend(rest.failed);
        }
        Err(error) => report.note("reset", Err::<(), _>(error), |()| Vec::new()),
    }
    report
}

fn remove(config: &Config) -> Report {
    let mut report = Report::default();
    // The runtime first, so that nothing new is made.
    report.note(
        "the runtime's CNI folders",
        offer::withdraw(&config.cni_conf_dir, &config.cni_bin_dir),
        |paths| paths.iter().map(|path| format!("file {}", path.display())).collect(),
    );
    let network = builtin::Builtin::new(&config.state_dir, builtin::Settings::default());
    report.note("pods", network.clear(), |swept| {
        let pods = swept.attachments.iter().map(|id| format!("attachment of container {}", id.container_id));
        pods.chain(swept.interfaces.iter().map(|name| format!("interface {name}"))).collect()
    });
    let mut failed = Vec::new();
    report.note("ways to other nodes", routes::sync(&routes::Local::default(), &[]), |outcome| {
        failed = outcome.failed;
        outcome.plan.steps.iter().filter_map(removed_way).collect()
    });
    for error in failed {
        report.note("a way to another node", Err::<(), _>(error), |()| Vec::new());
    }
    let table = builtin::Table::default();
    for family in [Family::Ip, Family::Ip6] {
        let text = match family {
            Family::Ip => format!("nf_tables table ip {TABLE}"),
            Family::Ip6 => format!("nf_tables table ip6 {TABLE}"),
        };
        report.note(TABLE, table.remove(family), |there| if there { vec![text] } else { Vec::new() });
    }
    report.note("sysctls", Ledger::new(&config.state_dir).restore(), |restored| {
        restored.iter().map(|sysctl| format!("our value of {sysctl}")).collect()
    });
    report.note("settings", Saved::remove(&config.state_dir), |there| {
        if there { vec!["the network's settings".to_string()] } else { Vec::new() }
    });
    report.note("socket", crate::files::remove(&config.socket()), |there| {
        if there { vec![format!("socket {}", config.socket().display())] } else { Vec::new() }
    });
    report
}

fn removed_way(step: &routes::Step) -> Option<String> {
    match step {
        routes::Step::RemoveRoute(route) => route.destination.map(|net| format!("route to {net}")),
        routes::Step::RemoveDevice(underlay) => Some(format!("interface {}", underlay.device())),
        _ => None,
    }
}
