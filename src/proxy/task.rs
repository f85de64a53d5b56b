//! The loop: wake, observe, write, tidy. It knows no mode.

use std::{collections::HashSet, time::Duration};

use client::{Cache, ObjectKey};
use lifecycle::{Backoff, Scope};
use netlink::nft::Family;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    apply::{Config, Heard, Mode, ProxyError, Rules, WriteError},
    claims::Shadowed,
    cleanup::after_switch_to,
    flows::{Flows, FlowsError, Leads, forget},
    health::Checks,
    iptables::Iptables,
    ipvs::Ipvs,
    model::ServiceModel,
    nftables::{Nftables, Role},
    observe::World,
};

/// The kernel's connections are read no more often than this while UDP endpoints change all the time.
const FLOWS_APART: Duration = Duration::from_secs(1);
const FLOWS_RETRY: Duration = Duration::from_secs(10);
/// Somebody else who changes rules that may be ours, changes many at once.
const LOOK_AFTER: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(30));

/// Why the loop runs again.
enum Wake {
    Changed(HashSet<ObjectKey>),
    /// Somebody else changed our rules, or an earlier write was refused.
    Anew,
    Heard(Heard),
    /// UDP flows may lead where their Services do not any more.
    Flows,
    Tidy,
    Audit,
    Stop,
}

/// Programs Services in the configured mode until `scope` is cancelled.
///
/// # Errors
/// When the mode cannot work here, or the kernel cannot be heard any more.
pub async fn run(config: Config, cache: &Cache, scope: Scope) -> Result<(), ProxyError> {
    match config.mode {
        Mode::Nftables => {
            let rules = Nftables::open(&config, Role::Translate)?;
            program(config, rules, cache, scope).await
        }
        Mode::Iptables => {
            let rules = Iptables::open(&config).await.map_err(ProxyError::Iptables)?;
            program(config, rules, cache, scope).await
        }
        Mode::Ipvs => {
            let rules = Ipvs::open(&config).await?;
            program(config, rules, cache, scope).await
        }
    }
}

async fn program(
    config: Config,
    rules: impl Rules<ObjectKey>,
    cache: &Cache,
    scope: Scope,
) -> Result<(), ProxyError> {
    let world = World::new(cache, config.node_name.clone());
    tokio::select! {
        () = scope.cancelled() => return Ok(()),
        () = world.wait_synced() => {}
    }
    let mut due = Due::first(Instant::now(), rules.audit_every());
    let ipv6 = config.families.contains(&Family::Ip6);
    let checks = Checks::new(&scope, ipv6);
    let mut proxy = Proxy { config, rules, world, flows: Flows::default(), checks, alone: false };
    let mut failures = 0;
    loop {
        let result = match proxy.wake(&due, &scope).await? {
            Wake::Stop => return Ok(()),
            Wake::Anew => {
                let result = proxy.write_anew().await;
                if result.is_ok() {
                    due.anew = None;
                }
                result
            }
            // While all is to be written anew, a change waits for that: it reads everything.
            Wake::Changed(_) if due.anew.is_some() => Ok(()),
            Wake::Changed(keys) => proxy.write_changes(keys).await,
            Wake::Heard(Heard::Broken) => {
                info!("somebody else changed our service rules; writing them anew");
                due.anew = Some(Instant::now());
                Ok(())
            }
            Wake::Heard(Heard::Perhaps) => {
                due.audit = due.audit.min(Instant::now() + LOOK_AFTER);
                Ok(())
            }
            Wake::Flows => {
                due.flows = proxy.forget_flows().await;
                Ok(())
            }
            Wake::Tidy => {
                due.tidy = None;
                proxy.rules.tidy().await
            }
            Wake::Audit => {
                due.audit = Instant::now() + proxy.rules.audit_every();
                proxy.audit(&mut due).await
            }
        };
        if due.tidy.is_none() {
            due.tidy = proxy.rules.tidy_after().map(|after| Instant::now() + after);
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
    fn first(now: Instant, audit_every: Duration) -> Self {
        Self { anew: Some(now), flows: now, tidy: None, audit: now + audit_every }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// What the loop keeps.
struct Proxy<R> {
    config: Config,
    rules: R,
    world: World,
    flows: Flows<ObjectKey>,
    checks: Checks<ObjectKey>,
    /// What other modes left is taken away.
    alone: bool,
}

impl<R: Rules<ObjectKey>> Proxy<R> {
    async fn wake(&mut self, due: &Due, scope: &Scope) -> Result<Wake, ProxyError> {
        tokio::select! {
            biased;
            () = scope.cancelled() => Ok(Wake::Stop),
            () = at(due.anew) => Ok(Wake::Anew),
            heard = self.rules.heard() => heard.map(Wake::Heard).map_err(ProxyError::Monitor),
            // Before more changes: clients of the endpoints that went wait.
            () = at(self.flows.is_due().then_some(due.flows)) => Ok(Wake::Flows),
            keys = self.world.changed() => Ok(Wake::Changed(keys)),
            () = at(due.tidy) => Ok(Wake::Tidy),
            () = at(Some(due.audit)) => Ok(Wake::Audit),
        }
    }

    async fn write_anew(&mut self) -> Result<(), WriteError> {
        let started = Instant::now();
        let services = self.world.all();
        let written = self.rules.write_all(&services).await?;
        tell(&written.shadowed);
        self.flows.change_all(services.iter().map(|(key, model)| (key, model)));
        self.checks.change_all(services.iter().map(|(key, model)| (key, model)));
        info!(
            mode = %self.config.mode,
            services = services.len(),
            elapsed_ms = started.elapsed().as_millis(),
            "wrote all service rules"
        );
        self.be_alone().await;
        Ok(())
    }

    /// Another mode's rules serve until ours do.
    async fn be_alone(&mut self) {
        if !self.alone {
            self.alone = after_switch_to(self.config.mode, self.config.node_ports).await;
        }
    }

    async fn write_changes(&mut self, keys: HashSet<ObjectKey>) -> Result<(), WriteError> {
        let started = Instant::now();
        let services: Vec<(ObjectKey, ServiceModel)> =
            keys.into_iter().map(|key| self.world.model(key)).collect();
        let written = self.rules.write(&services).await?;
        tell(&written.shadowed);
        if written.changes > 0 {
            debug!(
                services = services.len(),
                changes = written.changes,
                elapsed_us = started.elapsed().as_micros(),
                "changed service rules"
            );
        }
        for (key, model) in &services {
            self.flows.change(key, model);
        }
        self.checks.change(services.iter().map(|(key, model)| (key, model)));
        Ok(())
    }

    /// Forgets stale UDP flows, and says when it may be done again.
    async fn forget_flows(&mut self) -> Instant {
        let started = Instant::now();
        match forget_apart(self.flows.leads()).await {
            Ok(forgotten) => {
                self.flows.accept();
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

    async fn audit(&mut self, due: &mut Due) -> Result<(), WriteError> {
        if !self.rules.audit().await? {
            warn!(mode = %self.config.mode, "the kernel's service rules are not ours; writing them anew");
            due.anew = Some(Instant::now());
        }
        self.be_alone().await;
        Ok(())
    }
}

async fn forget_apart(leads: Leads) -> Result<usize, FlowsError> {
    // The kernel's answer to a question is bounded in time, so this ends.
    tokio::task::spawn_blocking(move || forget(&leads)).await?
}

/// Says which Services do not get what they ask for.
fn tell(shadowed: &[Shadowed<ObjectKey>]) {
    for Shadowed { what, loser, winner } in shadowed {
        warn!(service = %loser, claim = what, taken_by = %winner, "another service has this address already");
    }
}
