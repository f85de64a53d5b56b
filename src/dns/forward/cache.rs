//! Replies of upstream resolvers that are still good: so many bytes at most, the oldest go first.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::wire::{self, HEADER, Reply};

/// As kubeadm configures CoreDNS (`cache 30`): nothing is believed for longer, present or absent.
pub(crate) const LONGEST_SECONDS: u32 = 30;
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// What an entry costs beside its reply: its key twice counted, its places in map and queue.
const OVERHEAD: usize = 160;

/// The question and how it was asked, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(Box<[u8]>);

impl Key {
    /// Of a question to an upstream resolver: everything but its number. None where it asks for no recursion, the
    /// answer to which depends on what the resolver happens to know.
    pub(crate) fn of(query: &[u8]) -> Option<Self> {
        let flags = query.get(2).filter(|flags| **flags & 1 == 1)?;
        let name_end = wire::name_end(query)?;
        let mut key = vec![*flags];
        key.extend(query.get(3..4)?);
        key.extend(query.get(HEADER..name_end)?.iter().map(u8::to_ascii_lowercase));
        key.extend(query.get(name_end..)?);
        Some(Self(key.into()))
    }
}

struct Entry {
    number: u64,
    reply: Arc<Reply>,
    came: Instant,
    until: Instant,
}

#[derive(Default)]
pub(crate) struct Replies {
    entries: HashMap<Arc<Key>, Entry>,
    /// In the order in which they came; what was replaced since has another number.
    order: VecDeque<(u64, Arc<Key>)>,
    bytes: usize,
    next: u64,
}

impl Replies {
    /// A reply and its age in seconds.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<(Arc<Reply>, u32)> {
        let entry = self.entries.get(key).filter(|entry| now < entry.until)?;
        let age = u32::try_from((now - entry.came).as_secs()).unwrap_or(u32::MAX);
        Some((Arc::clone(&entry.reply), age))
    }

    pub(crate) fn put(&mut self, key: Key, reply: Arc<Reply>, now: Instant) {
        let Some(ttl) = reply.ttl else { return };
        let cost = cost(&key, &reply);
        if cost > MAX_BYTES / 16 {
            return;
        }
        let until = now + Duration::from_secs(u64::from(ttl.min(LONGEST_SECONDS)));
        let (key, number) = (Arc::new(key), self.next);
        self.next += 1;
        self.remove(&key);
        self.bytes += cost;
        self.order.push_back((number, Arc::clone(&key)));
        self.entries.insert(key, Entry { number, reply, came: now, until });
        // What was replaced leaves its place in the queue behind, which costs something too.
        while self.bytes > MAX_BYTES || self.order.len() > 2 * self.entries.len() + 64 {
            let Some((number, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.bytes -= cost(&key, &entry.reply);
        }
    }
}

fn cost(key: &Key, reply: &Reply) -> usize {
    OVERHEAD + key.0.len() + reply.size()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Name, RecordType};

    use super::*;
    use crate::wire::Question;

    fn asked(name: &str, kind: RecordType) -> Vec<u8> {
        let name = Name::from_ascii(name).unwrap();
        let question = Question {
            name: &name,
            kind,
            recursion_desired: true,
            checking_disabled: false,
            dnssec_ok: None,
        };
        question.to_bytes(3).unwrap()
    }

    /// With one record of so many bytes.
    fn reply(query: &[u8], ttl: u32, bytes: u16) -> Arc<Reply> {
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        reply[7] = 1;
        reply.extend([0, 0, 99, 0, 1]);
        reply.extend(ttl.to_be_bytes());
        reply.extend(bytes.to_be_bytes());
        reply.extend(vec![0; usize::from(bytes)]);
        Arc::new(Reply::read(query, reply).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_is_good_for_its_time_and_no_longer_than_half_a_minute() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let query = asked("a.example.", RecordType::A);
        let key = Key::of(&query).unwrap();
        for (ttl, good) in [(5, 5), (3600, 30)] {
            replies.put(key.clone(), reply(&query, ttl, 4), now);
            let after = |seconds| replies.get(&key, now + Duration::from_secs(seconds));
            assert_eq!(after(good - 1).unwrap().1, u32::try_from(good - 1).unwrap());
            assert!(after(good).is_none());
        }
        assert_eq!(Key::of(&asked("A.EXAMPLE.", RecordType::A)), Some(key.clone()));
        assert_ne!(Key::of(&asked("a.example.", RecordType::AAAA)), Some(key));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_has_a_bound_and_the_oldest_go_first() {
        let (mut replies, now) = (Replies::default(), Instant::now());
        let key = |n: u32| asked(&format!("n{n}.example."), RecordType::A);
        for n in 0..20_000 {
            let query = key(n);
            replies.put(Key::of(&query).unwrap(), reply(&query, 60, 1000), now);
            assert!(replies.bytes <= MAX_BYTES && replies.order.len() <= 2 * replies.entries.len() + 64);
        }
        assert!(replies.get(&Key::of(&key(0)).unwrap(), now).is_none());
        assert!(replies.get(&Key::of(&key(19_999)).unwrap(), now).is_some());
        for _ in 0..5_000 {
            let query = key(1);
            replies.put(Key::of(&query).unwrap(), reply(&query, 60, 1000), now);
        }
        assert!(replies.order.len() <= 2 * replies.entries.len() + 64);
    }
}
