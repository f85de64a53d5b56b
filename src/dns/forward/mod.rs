//! Asks the upstream resolvers: one after another, within a deadline, and never ourselves.
//!
//! ```text
//!   question ──▶ replies that are still good ──▶ resolvers of resolv.conf, those that answered lately first
//!                                                   UDP, or TCP where the reply is cut
//! ```

mod cache;
mod exchange;
mod upstream;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use hickory_proto::rr::Name;
use lifecycle::Scope;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tracing::debug;

use crate::wire::Reply;
pub(crate) use cache::LONGEST_SECONDS;
use cache::{Key, Replies};
pub(crate) use upstream::Settings;
use upstream::{Upstream, Upstreams};

/// Questions that wait for a resolver at the same time, as kubeadm configures CoreDNS (`max_concurrent 1000`).
const MAX_CONCURRENT: usize = 1000;
/// What asks has given up by then, and asks again.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long one resolver is waited for, while there are others or another try.
const TRY: Duration = Duration::from_secs(2);
/// Each resolver gets a second chance: the first packet may have been lost.
const ROUNDS: usize = 2;

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("there is no upstream resolver")]
    NoUpstream,
    #[error("{MAX_CONCURRENT} questions wait for upstream resolvers already")]
    Busy,
    #[error("no upstream resolver answered in time")]
    Silent,
}

pub(crate) struct Forwarder {
    upstreams: Upstreams,
    replies: Mutex<Replies>,
    permits: Semaphore,
    random: RandomState,
}

impl Forwarder {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            upstreams: Upstreams::new(settings),
            replies: Mutex::default(),
            permits: Semaphore::new(MAX_CONCURRENT),
            random: RandomState::new(),
        }
    }

    /// A number that nobody else can foretell, so that nobody else can reply.
    pub(crate) fn number(&self) -> u16 {
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.upstreams.count());
        u16::try_from(hasher.finish() & 0xffff).unwrap_or_default()
    }

    /// True for a question that we asked ourselves, to see whether it comes back: whoever passed it on is left out
    /// from then on.
    pub(crate) fn came_back(&self, name: &Name) -> bool {
        self.upstreams.came_back(name)
    }

    /// The reply to a question, which may be one to somebody else's same question some seconds ago.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        query: &[u8],
        scope: &Scope,
    ) -> Result<(Arc<Reply>, u32), ForwardError> {
        let key = Key::of(query);
        if let Some(key) = &key
            && let Some(found) = self.replies.lock().get(key, Instant::now())
        {
            return Ok(found);
        }
        let _permit = self.permits.try_acquire().map_err(|_| ForwardError::Busy)?;
        let servers = self.upstreams.current(self, scope).await;
        let reply = tokio::time::timeout(DEADLINE, ask_each(&servers, query)).await;
        let reply = Arc::new(reply.map_err(|_| ForwardError::Silent)??);
        if let Some(key) = key {
            self.replies.lock().put(key, Arc::clone(&reply), Instant::now());
        }
        Ok((reply, 0))
    }
}

/// The first good reply; else the first that says that it cannot.
async fn ask_each(servers: &[Arc<Upstream>], query: &[u8]) -> Result<Reply, ForwardError> {
    let now = Instant::now();
    let (mut good, bad): (Vec<_>, Vec<_>) =
        servers.iter().filter(|server| !server.leads_back()).partition(|server| !server.failed_lately(now));
    good.extend(bad);
    if good.is_empty() {
        return Err(ForwardError::NoUpstream);
    }
    let mut refusal = None;
    for server in good.iter().cycle().take(good.len() * ROUNDS) {
        match exchange::ask(server.address, query, TRY).await {
            Ok(reply) if !reply.is_failure() => {
                server.answered();
                return Ok(reply);
            }
            Ok(reply) if good.len() == 1 => return Ok(reply),
            Ok(reply) if refusal.is_some() => drop(reply),
            Ok(reply) => refusal = Some(reply),
            Err(error) => {
                debug!(server = %server.address, error = &error as &dyn std::error::Error, "an upstream resolver did not answer");
                server.failed(Instant::now());
            }
        }
    }
    refusal.ok_or(ForwardError::Silent)
}
