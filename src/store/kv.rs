//! Keys, values, revisions, ranges of keys.

use std::{fmt, ops::Bound};

use bytes::Bytes;

/// The store's clock: one tick per transaction that changed something. An empty store is at 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl Revision {
    /// No write: what an absent key compares as.
    pub const ZERO: Self = Self(0);
    /// The revision of an empty store.
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A key at one revision. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// When the key came to be (since it was last deleted).
    pub create_revision: Revision,
    /// When it was last written.
    pub mod_revision: Revision,
    /// How many writes since it was created: 1, 2, ...
    pub version: i64,
    pub lease: Option<LeaseId>,
}

/// Values may be Secrets: only their length is shown.
impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value_bytes", &self.value.len())
            .field("create_revision", &self.create_revision.0)
            .field("mod_revision", &self.mod_revision.0)
            .field("version", &self.version)
            .field("lease", &self.lease.map(|lease| lease.0))
            .finish()
    }
}

/// Which keys: one, or a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    Key(Bytes),
    /// From `start` to before `end`; to the last key without an `end`.
    Span {
        start: Bytes,
        end: Option<Bytes>,
    },
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self::Key(key.into())
    }

    pub fn span(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self::Span { start: start.into(), end: Some(end.into()) }
    }

    /// `start` and every key after it.
    pub fn from_key(start: impl Into<Bytes>) -> Self {
        Self::Span { start: start.into(), end: None }
    }

    #[must_use]
    pub fn all() -> Self {
        Self::from_key(Bytes::new())
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = start.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        });
        Self::Span { start, end }
    }

    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(only) => only == key,
            Self::Span { start, end } => key >= &start[..] && end.as_ref().is_none_or(|end| key < &end[..]),
        }
    }

    /// Bounds for an ordered map; `None` when the span is empty (a map would panic on an inverted one).
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        match self {
            Self::Key(key) => Some((Bound::Included(key), Bound::Included(key))),
            Self::Span { start, end: None } => Some((Bound::Included(start), Bound::Unbounded)),
            Self::Span { start, end: Some(end) } if start < end => {
                Some((Bound::Included(start), Bound::Excluded(end)))
            }
            Self::Span { .. } => None,
        }
    }
}

pub(crate) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_sibling() {
        let end = |prefix: &'static [u8]| match KeyRange::prefix(prefix) {
            KeyRange::Span { end, .. } => end,
            KeyRange::Key(_) => unreachable!("a prefix is a span"),
        };
        assert_eq!(end(b"/a/"), Some(Bytes::from_static(b"/a0")));
        assert_eq!(end(b"a\xff\xff"), Some(Bytes::from_static(b"b")));
        assert_eq!(end(b"\xff"), None);
        assert_eq!(end(b""), None);
        assert!(KeyRange::prefix("/a/").contains(b"/a/\xff\xff"));
        assert!(!KeyRange::prefix("/a/").contains(b"/a"));
        assert!(!KeyRange::prefix("/a/").contains(b"/a0"));
    }

    #[test]
    fn an_inverted_span_is_empty() {
        assert!(KeyRange::span("b", "a").bounds().is_none());
        assert!(KeyRange::span("a", "a").bounds().is_none());
        assert!(!KeyRange::span("b", "a").contains(b"a"));
    }

    #[test]
    fn debug_output_never_shows_a_value() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"hunter2"),
            create_revision: Revision(2),
            mod_revision: Revision(2),
            version: 1,
            lease: None,
        };
        assert!(!format!("{kv:?}").contains("hunter2"));
    }
}
