//! Keeps a node's two certificates young, by request, while they are in use.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use client::{Client, ErrorKind, Reconnect, kind_of};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use lifecycle::{Backoff, Scope};
use pki::{Certificate, Issued, Names, Profile, rotation_time, tls::Serving};
use tracing::{error, info, warn};

use crate::{
    files::{read_pair, replace_current},
    pending::Pending,
    request::{Ask, obtain},
};

const RETRY: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(300));
/// After a certificate that is no better than the one before: the next one will hardly be.
const IN_VAIN: Backoff = Backoff::doubling(Duration::from_secs(60), Duration::from_secs(600));
/// So long after a certificate another one is asked for, whatever clocks say.
const LEAST: Duration = Duration::from_secs(60);
/// Until the node shows an address: it registers within a second or two, or not for long.
const UNNAMED: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(30));
/// A clock that was set, a file that was put back and a node with a new address are noticed at the latest after this.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Whoever waits for an approval looks up after this: the certificate may have expired, or the node have other names.
const PATIENCE: Duration = Duration::from_secs(900);

/// So long is an expired certificate tried on, as upstream: a clock that was wrong may be set.
const MERCY: Duration = Duration::from_secs(300);

/// How a node whose certificate has expired comes by another, since its cluster knows it no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// By `coracle join`.
    Join,
    /// By what a start asks with, as long as this file is there.
    Bootstrap(PathBuf),
    /// By whoever writes the kubeconfig.
    Kubeconfig,
}

/// A new start can get a certificate, and this process cannot.
#[derive(Debug, thiserror::Error)]
#[error(
    "this node's client certificate has expired ({not_after}); the next start asks for another by {}", by.display()
)]
pub struct Expired {
    not_after: Timestamp,
    by: PathBuf,
}

impl Recovery {
    /// What a person can do.
    fn words(&self) -> String {
        match self {
            Self::Join => "make a token on the control plane (coracle token create) and join again with the line that it prints"
                .to_string(),
            Self::Bootstrap(by) => format!(
                "soon after it this process ends if {} is there, by which the next one asks for another certificate",
                by.display()
            ),
            Self::Kubeconfig => "write a kubeconfig with another certificate, or name a bootstrap kubeconfig to ask by".to_string(),
        }
    }

    /// Whether it is time to leave it to a new start.
    fn ends(&self, not_after: Timestamp, now: Timestamp) -> Option<Expired> {
        let Self::Bootstrap(by) = self else { return None };
        let expired_for = Duration::try_from(now.duration_since(not_after)).unwrap_or_default();
        (expired_for >= MERCY && by.exists()).then(|| Expired { not_after, by: by.clone() })
    }
}

/// The certificate by which the node is known to the API.
#[derive(Clone)]
pub struct ClientRotation {
    pub node_name: String,
    pub file: PathBuf,
    pub client: Client,
    /// Makes new requests go over a connection that shows the new certificate. Streams run on over the old one.
    pub reconnect: Reconnect,
    /// What is asked for; the signer's own life without it.
    pub expiration_seconds: Option<i32>,
    pub recovery: Recovery,
}

/// The certificate that the node's own server shows.
#[derive(Clone)]
pub struct ServingRotation {
    pub node_name: String,
    pub file: PathBuf,
    pub client: Client,
    /// What is shown; a provisional one until the cluster has signed one.
    pub serving: Arc<Serving>,
    pub expiration_seconds: Option<i32>,
}

macro_rules! opaque {
    ($($name:ident),*) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).field("node_name", &self.node_name).finish_non_exhaustive()
            }
        }
    )*};
}
opaque!(ClientRotation, ServingRotation);

/// When to ask for the next certificate; fixed for each certificate, different on each node.
struct Schedule {
    jitter: f64,
}

impl Schedule {
    fn new() -> Schedule {
        let random = RandomState::new().build_hasher().finish();
        Schedule { jitter: (random >> 11) as f64 / (1u64 << 53) as f64 }
    }

    fn due_in(&self, certificate: &Certificate, now: Timestamp) -> Duration {
        let due = rotation_time(certificate, self.jitter);
        Duration::try_from(due.duration_since(now)).unwrap_or_default()
    }

    /// At once where the node has other `names` by now. An unknown is not a change: without names, what is there is used.
    fn serving_due(&self, certificate: &Certificate, names: Option<&Names>, now: Timestamp) -> Duration {
        match names {
            Some(names) if certificate.names != *names => Duration::ZERO,
            _ => self.due_in(certificate, now),
        }
    }
}

/// Sleeps; false when the scope ends first.
async fn wait(scope: &Scope, time: Duration) -> bool {
    tokio::select! {
        () = scope.cancelled() => false,
        () = tokio::time::sleep(time) => true,
    }
}

/// Renews the client certificate in time, until `scope` is cancelled.
///
/// # Errors
/// That it has expired, and that a new start could get another.
pub async fn rotate_client(rotation: ClientRotation, scope: Scope) -> Result<(), Expired> {
    let (schedule, mut failures) = (Schedule::new(), 0);
    let mut shown: Option<Vec<u8>> = None;
    loop {
        let now = Timestamp::now();
        let due = match read_pair(&rotation.file) {
            Ok(Some(issued)) => {
                let der = issued.certificate.der.to_vec();
                if shown.as_ref().is_some_and(|shown| *shown != der) {
                    info!(
                        node = rotation.node_name,
                        "somebody else wrote a client certificate; it is shown from now on"
                    );
                    rotation.reconnect.reconnect().await;
                }
                shown = Some(der);
                if issued.certificate.not_after <= now {
                    let mend = rotation.recovery.words();
                    error!(
                        node = rotation.node_name, not_after = %issued.certificate.not_after, mend,
                        "this node's client certificate has expired"
                    );
                    if let Some(expired) = rotation.recovery.ends(issued.certificate.not_after, now) {
                        return Err(expired);
                    }
                }
                schedule.due_in(&issued.certificate, now)
            }
            Ok(None) => Duration::ZERO,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the client certificate cannot be read");
                LOOK_AGAIN
            }
        };
        if !due.is_zero() {
            if !wait(&scope, due.min(LOOK_AGAIN)).await {
                return Ok(());
            }
            continue;
        }
        let turn = tokio::select! {
            () = scope.cancelled() => return Ok(()),
            turn = renew_client(&rotation) => turn,
        };
        shown = turn.as_ref().map(|issued| issued.certificate.der.to_vec()).or(shown);
        let due = |issued: &Issued| schedule.due_in(&issued.certificate, Timestamp::now());
        if !wait(&scope, pause(turn.as_ref().map(due), &mut failures)).await {
            return Ok(());
        }
    }
}

/// How long to wait after a request: `due` is when the certificate that came of it is to be replaced, if one did.
/// `failures` counts those in a row.
fn pause(due: Option<Duration>, failures: &mut u32) -> Duration {
    match due {
        Some(due) if due.is_zero() => {
            *failures += 1;
            let pause = IN_VAIN.delay(*failures);
            warn!(
                pause_s = pause.as_secs(),
                "the new certificate is to be replaced at once: this machine's clock may be ahead (`date`; `timedatectl set-ntp \
                 true`), the cluster's authority near its end, or its signer may give other names than were asked for"
            );
            pause
        }
        Some(due) => {
            *failures = 0;
            due.clamp(LEAST, LOOK_AGAIN)
        }
        None => {
            *failures += 1;
            RETRY.delay(*failures)
        }
    }
}

async fn renew_client(rotation: &ClientRotation) -> Option<Issued> {
    let ask = Ask {
        profile: Profile::KubeletClient { node: rotation.node_name.clone() },
        prefix: "csr-",
        expiration_seconds: rotation.expiration_seconds,
        patience: Some(PATIENCE),
        pending: Pending::beside(&rotation.file),
    };
    let issued = match obtain(&rotation.client, &ask, |name| waits(name, "client")).await {
        Ok(issued) => issued,
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "the client certificate was not renewed; trying again"
            );
            return None;
        }
    };
    if let Err(error) = replace_current(&rotation.file, issued.to_pem().as_bytes(), Timestamp::now()) {
        warn!(file = %rotation.file.display(), %error, "the renewed client certificate cannot be written");
        return None;
    }
    ask.pending.forget();
    rotation.reconnect.reconnect().await;
    info!(node = rotation.node_name, not_after = %issued.certificate.not_after, "client certificate renewed");
    Some(issued)
}

fn waits(name: &str, what: &'static str) {
    info!(
        csr = name,
        certificate = what,
        "a signing request waits for its approval: kubectl certificate approve {name}"
    );
}

/// Gets and renews the serving certificate, until `scope` is cancelled.
pub async fn rotate_serving(rotation: ServingRotation, scope: Scope) {
    let (schedule, mut failures, mut asker) = (Schedule::new(), 0, Asker::default());
    let mut shown: Option<Vec<u8>> = None;
    loop {
        let names = tokio::select! {
            () = scope.cancelled() => return,
            names = asker.names(&rotation) => names,
        };
        let stored = read_pair(&rotation.file).unwrap_or_else(|error| {
            warn!(
                error = &error as &dyn std::error::Error,
                "the serving certificate cannot be read; asking for another"
            );
            None
        });
        let now = Timestamp::now();
        let due =
            stored.as_ref().map(|issued| schedule.serving_due(&issued.certificate, names.as_ref(), now));
        if let Some(issued) = &stored
            && issued.certificate.not_after > now
            && shown.as_deref() != Some(&issued.certificate.der)
        {
            show(&rotation, issued);
            shown = Some(issued.certificate.der.to_vec());
        }
        let pause = match (due, names) {
            (Some(due), _) if !due.is_zero() => due.min(LOOK_AGAIN),
            (_, None) => UNNAMED.delay(asker.in_vain),
            (_, Some(names)) => {
                let issued = tokio::select! {
                    () = scope.cancelled() => return,
                    issued = renew_serving(&rotation, names.clone()) => issued,
                };
                if let Some(issued) = &issued {
                    show(&rotation, issued);
                    shown = Some(issued.certificate.der.to_vec());
                }
                let due = |issued: &Issued| {
                    schedule.serving_due(&issued.certificate, Some(&names), Timestamp::now())
                };
                pause(issued.as_ref().map(due), &mut failures)
            }
        };
        if !wait(&scope, pause).await {
            return;
        }
    }
}

fn show(rotation: &ServingRotation, issued: &Issued) {
    match rotation.serving.replace(issued) {
        Ok(()) => info!(not_after = %issued.certificate.not_after, "serving certificate is in use"),
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "the serving certificate cannot be used");
        }
    }
}

/// What is known of the node's names.
enum Known {
    /// Every name and address that the node's object shows.
    Names(Names),
    /// It is not registered, or shows no address yet.
    NotYet,
    Unread(kube::Error),
}

async fn node_names(rotation: &ServingRotation) -> Known {
    let api: Api<Node> = Api::all(rotation.client.clone());
    let node = match api.get(&rotation.node_name).await {
        Ok(node) => node,
        Err(error) if kind_of(&error) == ErrorKind::NotFound => return Known::NotYet,
        Err(error) => return Known::Unread(error),
    };
    let addresses = node.status.and_then(|status| status.addresses).unwrap_or_default();
    if addresses.is_empty() {
        return Known::NotYet;
    }
    let mut texts: Vec<String> = addresses.into_iter().map(|address| address.address).collect();
    texts.push(rotation.node_name.clone());
    Known::Names(Names::from_texts(&texts))
}

/// Asks for the node's names, and says once why they are not to be had.
#[derive(Default)]
struct Asker {
    /// In a row.
    in_vain: u32,
    has_told: bool,
}

impl Asker {
    async fn names(&mut self, rotation: &ServingRotation) -> Option<Names> {
        match node_names(rotation).await {
            Known::Names(names) => {
                *self = Self::default();
                return Some(names);
            }
            Known::NotYet => {}
            Known::Unread(error) if kind_of(&error) == ErrorKind::Unavailable || self.has_told => {}
            Known::Unread(error) => {
                self.has_told = true;
                warn!(
                    node = rotation.node_name,
                    error = &error as &dyn std::error::Error,
                    "this node may not read its own object, and asks for no serving certificate without its addresses; \
                     its user must be that of the node (system:node:NAME)"
                );
            }
        }
        self.in_vain += 1;
        None
    }
}

async fn renew_serving(rotation: &ServingRotation, names: Names) -> Option<Issued> {
    let ask = Ask {
        profile: Profile::KubeletServing { node: rotation.node_name.clone(), names },
        prefix: "csr-",
        expiration_seconds: rotation.expiration_seconds,
        // Upstream's control plane leaves these to a person, and removes them after a day.
        patience: Some(PATIENCE),
        pending: Pending::beside(&rotation.file),
    };
    match obtain(&rotation.client, &ask, |name| waits(name, "serving")).await {
        Ok(issued) => {
            match replace_current(&rotation.file, issued.to_pem().as_bytes(), Timestamp::now()) {
                Ok(()) => ask.pending.forget(),
                // Shown nevertheless: without it nobody reads logs on this node.
                Err(error) => {
                    warn!(file = %rotation.file.display(), %error, "the serving certificate cannot be written");
                }
            }
            Some(issued)
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "no serving certificate; trying again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use client::{Credentials, Endpoint};
    use serde_json::json;

    use super::*;
    use crate::fake::{Fake, Verdict};

    const HOUR: Duration = Duration::from_secs(3600);

    /// How many certificates are asked for in an hour.
    async fn in_an_hour(fake: &Fake, run: impl Future<Output = ()>) -> usize {
        tokio::select! {
            () = run => panic!("the rotation ended"),
            () = tokio::time::sleep(HOUR) => {}
        }
        fake.lock().made
    }

    fn serving(fake: &Fake, dir: &tempfile::TempDir) -> ServingRotation {
        let profile = Profile::KubeletServing { node: "a".into(), names: Names::from_texts(&["a"]) };
        let shown = Issued::provisional(&profile, Timestamp::now()).unwrap();
        ServingRotation {
            node_name: "a".into(),
            file: dir.path().join("kubelet-server-current.pem"),
            client: fake.client(),
            serving: Serving::new(&shown).unwrap(),
            expiration_seconds: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_is_due_at_once_is_not_asked_for_at_once() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (dir, scope) = (tempfile::tempdir().unwrap(), Scope::root("test"));
        // Of its five minutes and ten seconds, five minutes are over: as one by a clock behind ours.
        let fake = Fake::new(Verdict::Signs { life: Duration::from_secs(10) });
        let endpoint = Endpoint::new("https://127.0.0.1:1".parse().unwrap(), None, Credentials::None);
        let rotation = ClientRotation {
            node_name: "a".into(),
            file: dir.path().join("kubelet-client-current.pem"),
            client: fake.client(),
            reconnect: client::connect(endpoint, &scope).unwrap().1,
            expiration_seconds: None,
            recovery: Recovery::Join,
        };
        let run = async { rotate_client(rotation, scope.clone()).await.unwrap() };
        let made = in_an_hour(&fake, run).await;
        assert!((3..=12).contains(&made), "{made}");

        let fake = Fake::new(Verdict::Signs { life: Duration::from_secs(10) });
        fake.lock().node = Some(node("192.0.2.7"));
        let made = in_an_hour(&fake, rotate_serving(serving(&fake, &dir), scope.clone())).await;
        assert!((3..=12).contains(&made), "{made}");
    }

    fn node(address: &str) -> serde_json::Value {
        json!({"metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_certificate_is_asked_for_once_and_again_for_another_address() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (dir, scope) = (tempfile::tempdir().unwrap(), Scope::root("test"));
        let fake = Fake::new(Verdict::Signs { life: 24 * HOUR });
        fake.lock().node = Some(node("192.0.2.7"));
        let rotation = serving(&fake, &dir);
        let made = in_an_hour(&fake, rotate_serving(rotation.clone(), scope.clone())).await;
        assert_eq!(made, 1);
        fake.lock().node = Some(node("192.0.2.8"));
        let made = in_an_hour(&fake, rotate_serving(rotation.clone(), scope.clone())).await;
        assert_eq!(made, 2);
        let stored = read_pair(&rotation.file).unwrap().unwrap();
        assert_eq!(stored.certificate.names, Names::from_texts(&["a", "192.0.2.8"]));
    }

    #[tokio::test(start_paused = true)]
    async fn restarts_while_a_person_is_waited_for_make_no_second_request() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let (dir, scope) = (tempfile::tempdir().unwrap(), Scope::root("test"));
        let fake = Fake::new(Verdict::Waits);
        fake.lock().node = Some(node("192.0.2.7"));
        for _ in 0..3 {
            assert_eq!(in_an_hour(&fake, rotate_serving(serving(&fake, &dir), scope.clone())).await, 1);
        }
    }

    #[test]
    fn an_expired_certificate_ends_the_process_only_where_the_next_start_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let by = dir.path().join("bootstrap.conf");
        let not_after: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let ends = |recovery: Recovery, now: &str| recovery.ends(not_after, now.parse().unwrap()).is_some();
        let bootstrap = || Recovery::Bootstrap(by.clone());
        assert!(!ends(bootstrap(), "2026-11-21T11:00:00Z"), "there is nothing to ask by");
        std::fs::write(&by, "").unwrap();
        assert!(!ends(bootstrap(), "2026-11-21T10:04:59Z"));
        assert!(ends(bootstrap(), "2026-11-21T10:05:00Z"));
        assert!(!ends(bootstrap(), "2026-11-21T09:00:00Z"), "a clock that was set back");
        assert!(!ends(Recovery::Join, "2026-11-22T10:00:00Z"));
        assert!(!ends(Recovery::Kubeconfig, "2026-11-22T10:00:00Z"));
        assert!(Recovery::Join.words().contains("coracle token create"));
        assert!(
            !bootstrap().words().contains("coracle") && !Recovery::Kubeconfig.words().contains("coracle")
        );
    }
}
