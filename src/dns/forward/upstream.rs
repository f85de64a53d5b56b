//! Who the upstream resolvers are: the file is looked at again while it is used.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hickory_proto::rr::{Name, RecordType};
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::{io::AsyncReadExt, time::Instant};
use tracing::{info, warn};

use super::{Forwarder, exchange};
use crate::{resolv, wire::Question};

/// How old may be what is known of the file. A look is one `stat`, and only while somebody asks.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A resolver that did not answer comes after the others for so long.
const SHUNNED: Duration = Duration::from_secs(10);
/// How long a question that would come back in a circle is waited for.
const PROBE: Duration = Duration::from_secs(5);

/// Where upstream resolvers are found, and which are none.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) resolv_conf: PathBuf,
    /// On which port they listen; 53 outside of tests.
    pub(crate) port: u16,
    /// Where we are reached ourselves.
    pub(crate) ourselves: Vec<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    failed: Mutex<Option<Instant>>,
    leads_back: AtomicBool,
}

impl Upstream {
    fn new(address: SocketAddr) -> Self {
        Self { address, failed: Mutex::default(), leads_back: AtomicBool::new(false) }
    }

    pub(super) fn failed_lately(&self, now: Instant) -> bool {
        self.failed.lock().is_some_and(|failed| now.saturating_duration_since(failed) < SHUNNED)
    }

    pub(super) fn failed(&self, now: Instant) {
        *self.failed.lock() = Some(now);
    }

    pub(super) fn answered(&self) {
        *self.failed.lock() = None;
    }

    /// Whether what it is asked comes back to us.
    pub(super) fn leads_back(&self) -> bool {
        self.leads_back.load(Ordering::Relaxed)
    }
}

/// What tells one content of the file from another.
type Stamp = (u64, u64, i64, i64, u64);

#[derive(Default)]
struct Known {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    servers: Arc<[Arc<Upstream>]>,
}

pub(super) struct Upstreams {
    settings: Settings,
    known: Mutex<Known>,
    /// Names that were asked for to see whether they come back, and from whom.
    probes: Mutex<HashMap<Name, Arc<Upstream>>>,
    counter: AtomicU64,
}

impl Upstreams {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, known: Mutex::default(), probes: Mutex::default(), counter: AtomicU64::new(0) }
    }

    pub(super) fn count(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// The resolvers as the file says; as it said before, if it cannot be read now.
    pub(super) async fn current(&self, forwarder: &Arc<Forwarder>, scope: &Scope) -> Arc<[Arc<Upstream>]> {
        let now = Instant::now();
        let before = {
            let mut known = self.known.lock();
            if known.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK_EVERY) {
                return Arc::clone(&known.servers);
            }
            // Whoever comes meanwhile goes on with what is known; at the start that is nothing.
            known.looked = known.stamp.is_some().then_some(now);
            known.stamp
        };
        match self.look(before).await {
            Ok(None) => {}
            Ok(Some((stamp, addresses))) => self.take(stamp, addresses, forwarder, scope),
            Err(error) => {
                let file = self.settings.resolv_conf.display();
                warn!(%file, error = &error as &dyn std::error::Error, "the upstream resolvers cannot be read");
            }
        }
        let mut known = self.known.lock();
        known.looked = Some(now);
        Arc::clone(&known.servers)
    }

    /// None if the file is as it was.
    async fn look(&self, before: Option<Stamp>) -> io::Result<Option<(Stamp, Vec<SocketAddr>)>> {
        let file = &self.settings.resolv_conf;
        let facts = tokio::fs::metadata(file).await?;
        let stamp = (facts.dev(), facts.ino(), facts.mtime(), facts.mtime_nsec(), facts.size());
        if before == Some(stamp) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        tokio::fs::File::open(file).await?.take(resolv::MAX_BYTES).read_to_end(&mut bytes).await?;
        let text = String::from_utf8_lossy(&bytes);
        let mut addresses =
            resolv::servers(&text, self.settings.port, |name| nix::net::if_::if_nametoindex(name).ok());
        addresses.retain(|address| !self.is_us(*address));
        Ok(Some((stamp, addresses)))
    }

    fn is_us(&self, address: SocketAddr) -> bool {
        let us = self.settings.ourselves.contains(&address);
        if us {
            warn!(server = %address, "the upstream resolver is this DNS itself; it is left out");
        }
        us
    }

    fn take(&self, stamp: Stamp, addresses: Vec<SocketAddr>, forwarder: &Arc<Forwarder>, scope: &Scope) {
        let mut known = self.known.lock();
        if known.stamp == Some(stamp) {
            return;
        }
        info!(servers = ?addresses, "upstream resolvers");
        let servers: Arc<[Arc<Upstream>]> =
            addresses.into_iter().map(|a| Arc::new(Upstream::new(a))).collect();
        *known = Known { looked: known.looked, stamp: Some(stamp), servers: Arc::clone(&servers) };
        drop(known);
        for server in servers.iter() {
            let (server, forwarder) = (Arc::clone(server), Arc::clone(forwarder));
            scope.spawn("loop probe", async move { forwarder.upstreams.probe(&server, &forwarder).await });
        }
    }

    /// Asks for a name that nobody has. If it comes back to us, every name that nobody has would go round and round.
    async fn probe(&self, server: &Arc<Upstream>, forwarder: &Forwarder) {
        let labels = [(); 4].map(|()| forwarder.number().to_string());
        let name = format!("{}{}.{}{}.", labels[0], labels[1], labels[2], labels[3]);
        let Ok(name) = Name::from_ascii(&name) else { return };
        self.probes.lock().insert(name.clone(), Arc::clone(server));
        let question = Question {
            name: &name,
            kind: RecordType::HINFO,
            recursion_desired: true,
            checking_disabled: false,
            dnssec_ok: None,
        };
        if let Ok(query) = question.to_bytes(forwarder.number()) {
            // The answer does not matter, only whether the question comes to us.
            drop(exchange::ask(server.address, &query, PROBE).await);
        }
        self.probes.lock().remove(&name);
    }

    pub(super) fn came_back(&self, name: &Name) -> bool {
        let Some(server) = self.probes.lock().get(name).cloned() else { return false };
        if !server.leads_back.swap(true, Ordering::Relaxed) {
            warn!(server = %server.address, "the upstream resolver asks this DNS in turn; it is left out");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_noticed_and_a_missing_one_changes_nothing() {
        let (files, scope) = (tempfile::TempDir::new().unwrap(), Scope::root("test"));
        let resolv_conf = files.path().join("resolv.conf");
        let write = |text: &str| {
            std::fs::write(files.path().join("part"), text).unwrap();
            std::fs::rename(files.path().join("part"), &resolv_conf).unwrap();
        };
        write("nameserver 127.0.0.8\nnameserver 127.0.0.9\n");
        let ourselves = vec!["127.0.0.9:1".parse().unwrap()];
        let settings = Settings { resolv_conf: resolv_conf.clone(), port: 1, ourselves };
        let forwarder = Arc::new(Forwarder::new(settings));
        let servers = async || {
            let servers = forwarder.upstreams.current(&forwarder, &scope).await;
            servers.iter().map(|server| server.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(servers().await, ["127.0.0.8:1"], "not ourselves");
        write("nameserver 127.0.0.7\n# changed\n");
        assert_eq!(servers().await, ["127.0.0.8:1"], "looked at a moment ago");
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(servers().await, ["127.0.0.7:1"]);
        std::fs::remove_file(&resolv_conf).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(servers().await, ["127.0.0.7:1"], "an unknown is not an absence");
        scope.close(Duration::from_secs(60)).await;
    }
}
