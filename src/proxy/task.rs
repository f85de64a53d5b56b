//! The loop: wake, observe, write, tidy. It knows no mode.

use std::{collections::HashSet, pin::Pin, time::Duration};

use client::{Cache, ObjectKey, Store};
use k8s_openapi::api::core::v1::Node;
use lifecycle::{Backoff, Scope, Workers};
use netlink::nft::Family;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};

use crate::{
    apply::{Config, Heard, Mode, ProxyError, Rules, WriteError},
    claims::Shadowed,
    cleanup::after_switch_to,
    flows::{Flows, FlowsError, Leads, forget},
    health::{Checks, Health},
    iptables::Iptables,
    ipvs::Ipvs,
    model::ServiceModel,
    nftables::{Nftables, Role},
    observe::World,
};

/// The kernel's connections are read no more often than this while UDP endpoints change all the time.
const FLOWS_APART: Duration = Duration::from_secs(1);
const FLOWS_RETRY: Duration = Duration::from_secs(10);
/// A million connections are read in seconds; forgetting is a question for each.
const FLOWS_WITHIN: Duration = Duration::from_secs(60);
/// Somebody else who changes rules that may be ours, changes many at once.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Whoever undoes what we write would otherwise be answered without a pause, and answer too.
const ANEW_APART: Duration = Duration::from_secs(1);
const RETRY: Backoff = Backoff::doubling(Duration::from_millis(100), Duration::from_secs(30));

/// Why the loop runs again.
enum Wake {
    Changed(HashSet<ObjectKey>),
    /// Somebody else changed our rules, or an earlier write was refused.
    Anew,
    Heard(Heard),
    /// UDP flows may lead where their Services do not any more.
    Flows,
    /// They were held against these, and how many were forgotten.
    Forgot(Leads, Result<usize, FlowsError>),
    Tidy,
    Audit,
    Stop,
}

/// A look at the kernel's connections, under way while rules are written.
type Forgetting = Pin<Box<dyn Future<Output = (Leads, Result<usize, FlowsError>)> + Send>>;

/// Programs Services in the configured mode until `scope` is cancelled, and says in `health` how that goes. `own` holds
/// this node: where it is, and its addresses.
///
/// # Errors
/// When the mode cannot work here, or the kernel cannot be heard any more.
pub async fn run(
    config: Config,
    cache: &Cache,
    own: Store<Node>,
    health: watch::Sender<Health>,
    scope: Scope,
) -> Result<(), ProxyError> {
    health.send_modify(|health| health.pend(Instant::now()));
    match config.mode {
        Mode::Nftables => {
            let rules = Nftables::open(&config, Role::Translate)?;
            program(config, rules, cache, own, health, scope).await
        }
        Mode::Iptables => {
            let rules = Iptables::open(&config).await.map_err(ProxyError::Iptables)?;
            program(config, rules, cache, own, health, scope).await
        }
        Mode::Ipvs => {
            let rules = Ipvs::open(&config).await?;
            program(config, rules, cache, own, health, scope).await
        }
    }
}

async fn program(
    config: Config,
    rules: impl Rules<ObjectKey>,
    cache: &Cache,
    own: Store<Node>,
    health: watch::Sender<Health>,
    scope: Scope,
) -> Result<(), ProxyError> {
    let world = World::new(cache, own, config.node_name.clone());
    tokio::select! {
        () = scope.cancelled() => return Ok(()),
        () = world.wait_synced() => {}
    }
    let ipv6 = config.families.contains(&Family::Ip6);
    let checks = Checks::new(&scope, health.subscribe(), ipv6);
    let flows = Flows::default();
    let workers = Workers::new(1);
    Proxy { config, rules, world, flows, workers, forgetting: None, checks, health, alone: false }
        .serve(&scope)
        .await
}

/// Moments at which something is to be done.
struct Due {
    anew: Option<Instant>,
    /// Not before this, when there may be stale flows.
    flows: Instant,
    tidy: Option<Instant>,
    audit: Instant,
    /// Refused writes since the last one that was made.
    failures: u32,
    /// When everything was written last.
    written: Option<Instant>,
}

impl Due {
    fn first(now: Instant, audit_every: Duration) -> Self {
        Self { anew: Some(now), flows: now, tidy: None, audit: now + audit_every, failures: 0, written: None }
    }

    /// Everything is to be written. A wait that is under way is not cut short.
    fn write_anew(&mut self, moment: Instant) {
        let apart = self.written.map(|written| written + ANEW_APART);
        self.anew = self.anew.into_iter().chain(apart).chain([moment]).max();
    }

    fn wrote_all(&mut self, now: Instant) {
        (self.anew, self.written, self.failures) = (None, Some(now), 0);
    }

    fn refused(&mut self, error: &WriteError, now: Instant) {
        self.failures += 1;
        let out_of_step = error.is_out_of_step() && self.failures == 1;
        // What was due is the write that was refused.
        self.anew = None;
        self.write_anew(if out_of_step { now } else { now + RETRY.delay(self.failures) });
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
    /// One: two looks at once would be in each other's way.
    workers: Workers,
    forgetting: Option<Forgetting>,
    checks: Checks<ObjectKey>,
    health: watch::Sender<Health>,
    /// What other modes left is taken away.
    alone: bool,
}

impl<R: Rules<ObjectKey>> Proxy<R> {
    async fn serve(mut self, scope: &Scope) -> Result<(), ProxyError> {
        let mut due = Due::first(Instant::now(), self.rules.audit_every());
        loop {
            let wake = self.wake(&due, scope).await?;
            let wrote = matches!(wake, Wake::Anew | Wake::Changed(_));
            let result = match wake {
                Wake::Stop => return Ok(()),
                Wake::Anew => self.write_anew().await.map(|()| due.wrote_all(Instant::now())),
                // While all is to be written anew, a change waits for that: it reads everything.
                Wake::Changed(_) if due.anew.is_some() => Ok(()),
                Wake::Changed(keys) => self.write_changes(keys).await.map(|()| due.failures = 0),
                Wake::Heard(Heard::Broken) => {
                    info!("somebody else changed our service rules; writing them anew");
                    due.write_anew(Instant::now());
                    Ok(())
                }
                Wake::Heard(Heard::Perhaps) => {
                    due.audit = due.audit.min(Instant::now() + LOOK_AFTER);
                    Ok(())
                }
                Wake::Flows => {
                    self.begin_forgetting();
                    Ok(())
                }
                Wake::Forgot(leads, result) => {
                    due.flows = self.forgot(leads, result);
                    Ok(())
                }
                Wake::Tidy => {
                    due.tidy = None;
                    self.rules.tidy().await
                }
                Wake::Audit => {
                    due.audit = Instant::now() + self.rules.audit_every();
                    self.audit(&mut due).await
                }
            };
            let now = Instant::now();
            if due.tidy.is_none() {
                due.tidy = self.rules.tidy_after().map(|after| Instant::now() + after);
            }
            if let Err(error) = result {
                due.refused(&error, now);
                let wait = due.anew.map_or(Duration::ZERO, |anew| anew - now);
                warn!(
                    error = &error as &dyn std::error::Error,
                    retry_in_ms = wait.as_millis(),
                    "service rules were refused; writing all anew"
                );
            }
            if due.anew.is_some() {
                self.health.send_modify(|health| health.pend(now));
            } else if wrote {
                let audit = self.rules.audit_after_write().map(|after| now + after);
                due.audit = audit.into_iter().chain([due.audit]).min().unwrap_or(due.audit);
                self.health.send_modify(|health| health.wrote(now));
            }
        }
    }

    async fn wake(&mut self, due: &Due, scope: &Scope) -> Result<Wake, ProxyError> {
        let flows = (self.forgetting.is_none() && self.flows.is_due()).then_some(due.flows);
        tokio::select! {
            biased;
            () = scope.cancelled() => Ok(Wake::Stop),
            () = at(due.anew) => Ok(Wake::Anew),
            heard = self.rules.heard() => heard.map(Wake::Heard).map_err(ProxyError::Monitor),
            // Before more changes: clients of the endpoints that went wait.
            () = at(flows) => Ok(Wake::Flows),
            (leads, result) = finished(&mut self.forgetting) => Ok(Wake::Forgot(leads, result)),
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

    /// Forgets stale UDP flows, beside everything else: their number is others' doing.
    fn begin_forgetting(&mut self) {
        let (workers, leads) = (self.workers.clone(), self.flows.look());
        self.forgetting = Some(Box::pin(async move {
            let held = leads.clone();
            let result = workers.run("stale UDP flows", FLOWS_WITHIN, move || forget(&held)).await;
            (leads, result.map_err(FlowsError::from).flatten())
        }));
    }

    /// When it may be done again.
    fn forgot(&mut self, leads: Leads, result: Result<usize, FlowsError>) -> Instant {
        self.forgetting = None;
        match result {
            Ok(forgotten) => {
                debug!(forgotten, "reconciled UDP flows");
                Instant::now() + FLOWS_APART
            }
            Err(error) => {
                self.flows.look_again(leads);
                let error = &error as &dyn std::error::Error;
                let wait = FLOWS_RETRY;
                warn!(error, retry_in_ms = wait.as_millis(), "stale UDP flows were not forgotten");
                Instant::now() + wait
            }
        }
    }

    async fn audit(&mut self, due: &mut Due) -> Result<(), WriteError> {
        if !self.rules.audit().await? {
            warn!(mode = %self.config.mode, "the kernel's service rules are not ours; writing them anew");
            due.write_anew(Instant::now());
        }
        self.be_alone().await;
        Ok(())
    }
}

async fn finished(forgetting: &mut Option<Forgetting>) -> (Leads, Result<usize, FlowsError>) {
    match forgetting {
        Some(forgetting) => forgetting.await,
        None => std::future::pending().await,
    }
}

/// Says which Services do not get what they ask for.
fn tell(shadowed: &[Shadowed<ObjectKey>]) {
    for Shadowed { what, loser, winner } in shadowed {
        warn!(service = %loser, claim = what, taken_by = %winner, "another service has this address already");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use client::{Credentials, Endpoint, connect};
    use netlink::nft::CommitError;

    use super::*;
    use crate::{Written, ipvs::Scheduler};

    /// Notes when everything was written; each write is refused, or none. Somebody else meddles every 10 ms, or unheard.
    struct Scripted {
        refused: bool,
        heard: Option<Heard>,
        writes: Arc<Mutex<Vec<Instant>>>,
    }

    impl Rules<ObjectKey> for Scripted {
        async fn write_all(
            &mut self,
            _services: &[(ObjectKey, ServiceModel)],
        ) -> Result<Written<ObjectKey>, WriteError> {
            self.writes.lock().unwrap().push(Instant::now());
            if self.refused { Err(refusal()) } else { Ok(Written::default()) }
        }

        async fn write(
            &mut self,
            _changed: &[(ObjectKey, ServiceModel)],
        ) -> Result<Written<ObjectKey>, WriteError> {
            unreachable!("no service changes")
        }

        async fn heard(&mut self) -> io::Result<Heard> {
            tokio::time::sleep(Duration::from_millis(10)).await;
            match self.heard {
                Some(heard) => Ok(heard),
                None => std::future::pending().await,
            }
        }

        fn audit_after_write(&self) -> Option<Duration> {
            self.heard.is_none().then_some(Duration::from_secs(5))
        }

        async fn audit(&mut self) -> Result<bool, WriteError> {
            Ok(false)
        }

        fn tidy_after(&self) -> Option<Duration> {
            Some(Duration::from_millis(50))
        }

        async fn tidy(&mut self) -> Result<(), WriteError> {
            Ok(())
        }
    }

    fn refusal() -> WriteError {
        let [table, change, hint] = [(); 3].map(|()| String::new());
        CommitError::Refused { table, change, hint, source: io::ErrorKind::NotFound.into() }.into()
    }

    /// How many milliseconds were between the first full writes of a minute.
    async fn waits(refused: bool, heard: Option<Heard>) -> Vec<u128> {
        let scope = Scope::root("test");
        let nowhere = Endpoint::new("http://127.0.0.1:1".parse().unwrap(), None, Credentials::None);
        let cache = Cache::new(connect(nowhere, &scope).unwrap().0, &scope);
        let writes = Arc::default();
        let config = Config {
            mode: Mode::Nftables,
            node_name: "here".into(),
            pod_ranges: Vec::new(),
            families: Vec::new(),
            node_ports: (30000, 32767),
            masquerade_all: false,
            scheduler: Scheduler::default(),
        };
        let (health, healths) = watch::channel(Health::default());
        let proxy = Proxy {
            rules: Scripted { refused, heard, writes: Arc::clone(&writes) },
            world: World::new(&cache, cache.store(), "here".into()),
            flows: Flows::default(),
            workers: Workers::new(1),
            forgetting: None,
            checks: Checks::new(&scope, healths.clone(), false),
            health,
            // Nothing of this machine is touched.
            alone: true,
            config,
        };
        drop(tokio::time::timeout(Duration::from_secs(60), proxy.serve(&scope)).await);
        assert_eq!(healths.borrow().is_healthy(Instant::now()), !refused);
        let writes = writes.lock().unwrap();
        writes.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_is_repeated_ever_later_whatever_wakes_the_loop() {
        for heard in [Heard::Perhaps, Heard::Broken] {
            let waits = waits(true, Some(heard)).await;
            assert!(waits.len() < 12, "{waits:?}");
            assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_undoes_what_is_written_is_answered_with_a_pause() {
        let waits = waits(false, Some(Heard::Broken)).await;
        assert!(waits.len() > 50 && waits.iter().all(|wait| *wait >= 1000), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_heard_of_during_a_write_is_looked_for_soon_after() {
        let waits = waits(false, None).await;
        assert!(waits.len() > 10 && waits.iter().all(|wait| *wait < 6000), "{waits:?}");
    }
}
