//! Keeps a node's two certificates young, by request, while they are in use.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use client::{Client, Reconnect};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use lifecycle::{Backoff, Scope};
use pki::{Certificate, Issued, Names, Profile, rotation_time, tls::Serving};
use tracing::{error, info, warn};

use crate::{
    files::{read_pair, replace_current},
    request::{Ask, obtain},
};

const RETRY: Backoff = Backoff::doubling(Duration::from_secs(1), Duration::from_secs(300));
/// A clock that was set, a file that was put back and a node with a new address are noticed at the latest after this.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Client certificates are approved by the cluster itself; a request that hangs is made again.
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
    loop {
        let now = Timestamp::now();
        let due = match read_pair(&rotation.file) {
            Ok(Some(issued)) => {
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
        let renewed = tokio::select! {
            () = scope.cancelled() => return Ok(()),
            renewed = renew_client(&rotation) => renewed,
        };
        failures = if renewed { 0 } else { failures + 1 };
        if !renewed && !wait(&scope, RETRY.delay(failures)).await {
            return Ok(());
        }
    }
}

async fn renew_client(rotation: &ClientRotation) -> bool {
    let ask = Ask {
        profile: Profile::KubeletClient { node: rotation.node_name.clone() },
        prefix: "csr-",
        expiration_seconds: rotation.expiration_seconds,
        patience: Some(PATIENCE),
    };
    let issued = match obtain(&rotation.client, &ask, |name| waits(name, "client")).await {
        Ok(issued) => issued,
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "the client certificate was not renewed; trying again"
            );
            return false;
        }
    };
    if let Err(error) = replace_current(&rotation.file, issued.to_pem().as_bytes(), Timestamp::now()) {
        warn!(file = %rotation.file.display(), %error, "the renewed client certificate cannot be written");
        return false;
    }
    rotation.reconnect.reconnect().await;
    info!(node = rotation.node_name, not_after = %issued.certificate.not_after, "client certificate renewed");
    true
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
    let (schedule, mut failures) = (Schedule::new(), 0);
    let mut shown: Option<Vec<u8>> = None;
    loop {
        let names = tokio::select! {
            () = scope.cancelled() => return,
            names = node_names(&rotation) => names,
        };
        let stored = read_pair(&rotation.file).unwrap_or_else(|error| {
            warn!(
                error = &error as &dyn std::error::Error,
                "the serving certificate cannot be read; asking for another"
            );
            None
        });
        let due = match (&stored, &names) {
            // An unknown is not a change: without names, what is there is used.
            (Some(issued), None) => schedule.due_in(&issued.certificate, Timestamp::now()),
            (Some(issued), Some(names)) if issued.certificate.names == *names => {
                schedule.due_in(&issued.certificate, Timestamp::now())
            }
            _ => Duration::ZERO,
        };
        if let Some(issued) = &stored
            && issued.certificate.not_after > Timestamp::now()
            && shown.as_deref() != Some(&issued.certificate.der)
        {
            show(&rotation, issued);
            shown = Some(issued.certificate.der.to_vec());
        }
        let pause = match names {
            Some(names) if due.is_zero() => {
                let renewed = tokio::select! {
                    () = scope.cancelled() => return,
                    renewed = renew_serving(&rotation, names) => renewed,
                };
                failures = if renewed { 0 } else { failures + 1 };
                if renewed { Duration::ZERO } else { RETRY.delay(failures) }
            }
            // Not registered yet, or the API is away.
            None if due.is_zero() => Duration::from_secs(1),
            _ => due.min(LOOK_AGAIN),
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

/// Every name and address that the node's object shows; none while it shows no address.
async fn node_names(rotation: &ServingRotation) -> Option<Names> {
    let api: Api<Node> = Api::all(rotation.client.clone());
    let node = api.get(&rotation.node_name).await.ok()?;
    let mut texts: Vec<String> = node.status?.addresses?.into_iter().map(|address| address.address).collect();
    if texts.is_empty() {
        return None;
    }
    texts.push(rotation.node_name.clone());
    Some(Names::from_texts(&texts))
}

async fn renew_serving(rotation: &ServingRotation, names: Names) -> bool {
    let ask = Ask {
        profile: Profile::KubeletServing { node: rotation.node_name.clone(), names },
        prefix: "csr-",
        expiration_seconds: rotation.expiration_seconds,
        // Upstream's control plane leaves these to a person, and removes them after a day.
        patience: None,
    };
    match obtain(&rotation.client, &ask, |name| waits(name, "serving")).await {
        Ok(issued) => match replace_current(&rotation.file, issued.to_pem().as_bytes(), Timestamp::now()) {
            Ok(()) => true,
            Err(error) => {
                // Shown nevertheless: without it nobody reads logs on this node.
                show(rotation, &issued);
                warn!(file = %rotation.file.display(), %error, "the serving certificate cannot be written");
                false
            }
        },
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, "no serving certificate; trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
