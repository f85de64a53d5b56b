//! The loop: wake, observe, plan, apply.

use std::{collections::HashSet, time::Duration};

use client::{Cache, ObjectKey};
use ipnet::IpNet;
use lifecycle::{Backoff, Scope};
use netlink::nft::{CommitError, Family, TableState};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    apply::{Kernel, ProxyError},
    flows::Flows,
    model::ServiceModel,
    nftables::{PodRange, Programmed, Shadowed, plan, plan_all, plan_deletions},
    observe::World,
};

/// Emptied chains are deleted this long after the last change: not in the way of the next one.
const TIDY_AFTER: Duration = Duration::from_secs(1);
/// The kernel's connections are read no more often than this while UDP endpoints change all the time.
const FLOWS_APART: Duration = Duration::from_secs(1);
const FLOWS_RETRY: Duration = Duration::from_secs(10);
/// Notifications tell of foreign changes at once; this is for those that were lost.
const AUDIT_EVERY: Duration = Duration::from_secs(60);
const RETRY: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(30));

#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name: endpoints on it are local.
    pub node_name: String,
    /// The address ranges of all pods, at most one in each family.
    pub pod_ranges: Vec<IpNet>,
    pub families: Vec<Family>,
}

/// Why the loop runs again.
enum Wake {
    Changed(HashSet<ObjectKey>),
    /// Somebody else changed our table, or an earlier transaction was refused.
    Anew,
    /// UDP flows may lead where their Services do not any more.
    Flows,
    Tidy,
    Audit,
    Stop,
}

/// Programs Services until `scope` is cancelled.
///
/// # Errors
/// When the kernel cannot be heard any more.
pub async fn run(
    config: Config,
    mut kernel: impl Kernel,
    cache: &Cache,
    scope: Scope,
) -> Result<(), ProxyError> {
    let mut world = World::new(cache, config.node_name.clone());
    tokio::select! {
        () = scope.cancelled() => return Ok(()),
        () = world.wait_synced() => {}
    }
    let mut tables: Vec<Table> =
        config.families.iter().map(|family| Table::new(*family, &config.pod_ranges)).collect();
    let mut flows = Flows::default();
    let mut due = Due::first(Instant::now());
    let mut failures = 0;
    loop {
        let result = match wake(&mut world, &mut kernel, &due, flows.is_due(), &scope).await? {
            Wake::Stop => return Ok(()),
            Wake::Anew => {
                let result = write_anew(&mut tables, &mut flows, &mut world, &mut kernel).await;
                if result.is_ok() {
                    due.anew = None;
                }
                result
            }
            // While the table is to be written anew, a change waits for that: it reads everything.
            Wake::Changed(_) if due.anew.is_some() => Ok(()),
            Wake::Changed(keys) => write_changes(&mut tables, &mut flows, &world, &mut kernel, keys).await,
            Wake::Flows => {
                due.flows = forget_flows(&mut flows, &mut kernel).await;
                Ok(())
            }
            Wake::Tidy => {
                due.tidy = None;
                tidy(&mut tables, &mut kernel).await;
                Ok(())
            }
            Wake::Audit => {
                due.audit = Instant::now() + AUDIT_EVERY;
                audit(&tables, &mut kernel, &mut due).await
            }
        };
        if tables.iter().any(|table| table.programmed.has_retired()) && due.tidy.is_none() {
            due.tidy = Some(Instant::now() + TIDY_AFTER);
        }
        match result {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                let wait = if error.is_out_of_step() && failures == 1 {
                    Duration::ZERO
                } else {
                    RETRY.delay(failures)
                };
                due.anew = Some(Instant::now() + wait);
                warn!(
                    error = &error as &dyn std::error::Error,
                    retry_in_ms = wait.as_millis(),
                    "service rules were refused; writing all anew"
                );
            }
        }
    }
}

/// Moments at which something is to be done.
struct Due {
    anew: Option<Instant>,
    /// Not before this, when there may be stale flows.
    flows: Instant,
    tidy: Option<Instant>,
    audit: Instant,
}

impl Due {
    fn first(now: Instant) -> Self {
        Self { anew: Some(now), flows: now, tidy: None, audit: now + AUDIT_EVERY }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn wake(
    world: &mut World,
    kernel: &mut impl Kernel,
    due: &Due,
    flows_due: bool,
    scope: &Scope,
) -> Result<Wake, ProxyError> {
    tokio::select! {
        biased;
        () = scope.cancelled() => Ok(Wake::Stop),
        () = at(due.anew) => Ok(Wake::Anew),
        heard = kernel.foreign_change() => match heard {
            Ok(()) => {
                info!("somebody else changed our table of service rules; writing it anew");
                Ok(Wake::Anew)
            }
            Err(error) => Err(ProxyError::Monitor(error)),
        },
        // Before more changes: clients of the endpoints that went wait.
        () = at(flows_due.then_some(due.flows)) => Ok(Wake::Flows),
        keys = world.changed() => Ok(Wake::Changed(keys)),
        () = at(due.tidy) => Ok(Wake::Tidy),
        () = at(Some(due.audit)) => Ok(Wake::Audit),
    }
}

/// Our table in one address family.
struct Table {
    family: Family,
    pods: PodRange,
    programmed: Programmed<ObjectKey>,
}

impl Table {
    fn new(family: Family, ranges: &[IpNet]) -> Self {
        let ipv6 = matches!(family, Family::Ip6);
        let pods = PodRange(ranges.iter().find(|net| net.addr().is_ipv6() == ipv6).copied());
        Self { family, pods, programmed: Programmed::default() }
    }

    /// Whether the kernel has the rules that we gave it.
    fn matches(&self, state: Option<&TableState>) -> bool {
        state.is_some_and(|state| {
            let chain = |(name, count): (&str, usize)| state.chains.get(name) == Some(&count);
            let map = |(name, count): (&str, usize)| state.sets.get(name) == Some(&count);
            self.programmed.rule_counts().into_iter().all(chain)
                && self.programmed.element_counts().into_iter().all(map)
        })
    }
}

async fn write_anew(
    tables: &mut [Table],
    flows: &mut Flows<ObjectKey>,
    world: &mut World,
    kernel: &mut impl Kernel,
) -> Result<(), CommitError> {
    let started = Instant::now();
    let services = world.all();
    for table in tables {
        let plan = plan_all(services.iter().map(|(key, model)| (key, model)), table.family, table.pods);
        kernel.commit(&plan.transaction).await?;
        tell(&plan.shadowed);
        table.programmed.accept(plan);
    }
    flows.change_all(services.iter().map(|(key, model)| (key, model)));
    info!(services = services.len(), elapsed_ms = started.elapsed().as_millis(), "wrote all service rules");
    Ok(())
}

async fn write_changes(
    tables: &mut [Table],
    flows: &mut Flows<ObjectKey>,
    world: &World,
    kernel: &mut impl Kernel,
    keys: HashSet<ObjectKey>,
) -> Result<(), CommitError> {
    let started = Instant::now();
    let services: Vec<(ObjectKey, ServiceModel)> = keys.into_iter().map(|key| world.model(key)).collect();
    for table in tables {
        let plan = plan(
            &table.programmed,
            services.iter().map(|(key, model)| (key, model)),
            table.family,
            table.pods,
        );
        if !plan.is_empty() {
            kernel.commit(&plan.transaction).await?;
            let changes = plan.transaction.changes.len();
            debug!(
                services = services.len(),
                changes,
                elapsed_us = started.elapsed().as_micros(),
                "changed service rules"
            );
        }
        tell(&plan.shadowed);
        table.programmed.accept(plan);
    }
    for (key, model) in &services {
        flows.change(key, model);
    }
    Ok(())
}

/// Forgets stale UDP flows, and says when it may be done again.
async fn forget_flows(flows: &mut Flows<ObjectKey>, kernel: &mut impl Kernel) -> Instant {
    let started = Instant::now();
    match kernel.forget_flows(flows.leads()).await {
        Ok(forgotten) => {
            flows.accept();
            debug!(forgotten, elapsed_us = started.elapsed().as_micros(), "reconciled UDP flows");
            Instant::now() + FLOWS_APART
        }
        // They stay due.
        Err(error) => {
            let wait = FLOWS_RETRY;
            let error = &error as &dyn std::error::Error;
            warn!(error, retry_in_ms = wait.as_millis(), "stale UDP flows were not forgotten");
            Instant::now() + wait
        }
    }
}

/// Says which Services do not get what they ask for.
fn tell(shadowed: &[Shadowed<ObjectKey>]) {
    for Shadowed { what, loser, winner } in shadowed {
        warn!(service = %loser, claim = what, taken_by = %winner, "another service has this address already");
    }
}

async fn tidy(tables: &mut [Table], kernel: &mut impl Kernel) {
    for table in tables.iter_mut().filter(|table| table.programmed.has_retired()) {
        let deletions = plan_deletions(&table.programmed, table.family);
        match kernel.commit(&deletions).await {
            Ok(()) => table.programmed.accept_deletions(),
            // Something still uses one of them for a moment: nothing is lost, the next tidying tries again.
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "emptied chains cannot be deleted yet")
            }
        }
    }
}

async fn audit(tables: &[Table], kernel: &mut impl Kernel, due: &mut Due) -> Result<(), CommitError> {
    for table in tables {
        let state = kernel.state(table.family).await?;
        if !table.matches(state.as_ref()) {
            warn!(family = ?table.family, "the kernel's service rules are not ours; writing them anew");
            due.anew = Some(Instant::now());
        }
    }
    Ok(())
}
