//! What is asked of a store and what it answers.
//!
//! Shapes follow etcd's `RangeRequest`, `TxnRequest` and `Compare` (etcd's `api/etcdserverpb/rpc.proto`).

use std::{collections::HashSet, fmt};

use bytes::Bytes;

use crate::{KeyRange, KeyValue, LeaseId, Revision, StoreError};

/// How much of each key a range answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Content {
    #[default]
    Full,
    /// Values are empty.
    KeysOnly,
    /// No keys at all, only `count`.
    CountOnly,
}

#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// At most so many keys; all of them without a limit.
    pub limit: Option<usize>,
    /// The revision to read at; the current one without.
    pub revision: Option<Revision>,
    pub content: Content,
}

impl RangeRequest {
    #[must_use]
    pub fn new(range: KeyRange) -> Self {
        Self { range, limit: None, revision: None, content: Content::Full }
    }

    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit: Some(limit), ..self }
    }

    #[must_use]
    pub fn at(self, revision: Revision) -> Self {
        Self { revision: Some(revision), ..self }
    }

    #[must_use]
    pub fn content(self, content: Content) -> Self {
        Self { content, ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when it answered, also for a read at an older one.
    pub revision: Revision,
    /// In byte order of their keys.
    pub kvs: Vec<KeyValue>,
    /// There are keys beyond the limit.
    pub more: bool,
    /// How many keys are in the range, whatever the limit.
    pub count: usize,
}

/// `if all compares hold { then } else { otherwise }`, in one step.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
    pub otherwise: Vec<Op>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResponse {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The revision that this transaction made, or the current one when it changed nothing.
    pub revision: Revision,
    /// One for each operation of the branch that ran.
    pub responses: Vec<OpResponse>,
}

/// `key's target operator operand`, for instance "its mod revision equals 7".
#[derive(Clone, Debug)]
pub struct Compare {
    pub key: Bytes,
    pub target: Target,
    pub operator: Operator,
}

/// What is compared, with the operand that the key's own is compared to.
#[derive(Clone)]
pub enum Target {
    ModRevision(Revision),
    CreateRevision(Revision),
    Version(i64),
    Value(Bytes),
    Lease(Option<LeaseId>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    Greater,
}

#[derive(Clone, Debug)]
pub enum Op {
    /// Reads at the transaction's own point: writes of earlier operations are seen. `revision` is not looked at.
    Get(RangeRequest),
    Put(Put),
    Delete(KeyRange),
}

#[derive(Clone)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    /// The key goes when this lease ends. Without, a lease that the key had is detached.
    pub lease: Option<LeaseId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResponse {
    Get(RangeResponse),
    Put {
        prev: Option<KeyValue>,
    },
    /// What was deleted.
    Delete {
        prev: Vec<KeyValue>,
    },
}

impl Txn {
    /// Does `ops` without comparing.
    #[must_use]
    pub fn always(ops: Vec<Op>) -> Self {
        Self { then: ops, ..Self::default() }
    }

    /// Does `ops` when all of `compares` hold, and nothing otherwise.
    #[must_use]
    pub fn when(compares: Vec<Compare>, ops: Vec<Op>) -> Self {
        Self { compares, then: ops, otherwise: Vec::new() }
    }

    #[must_use]
    pub fn or_else(self, otherwise: Vec<Op>) -> Self {
        Self { otherwise, ..self }
    }

    /// Keys and values together, for limits.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match &compare.target {
            Target::Value(value) => compare.key.len() + value.len(),
            Target::ModRevision(_) | Target::CreateRevision(_) | Target::Version(_) | Target::Lease(_) => {
                compare.key.len()
            }
        });
        let ops = self.then.iter().chain(&self.otherwise).map(|op| match op {
            Op::Put(put) => put.key.len() + put.value.len(),
            Op::Get(_) | Op::Delete(_) => 0,
        });
        compares.chain(ops).sum()
    }

    /// What etcd refuses before it looks at any key: empty keys, and one key written twice in a branch.
    ///
    /// # Errors
    /// [`StoreError::EmptyKey`], [`StoreError::DuplicateKey`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.compares.iter().any(|compare| compare.key.is_empty()) {
            return Err(StoreError::EmptyKey);
        }
        check_branch(&self.then)?;
        check_branch(&self.otherwise)
    }
}

fn check_branch(ops: &[Op]) -> Result<(), StoreError> {
    let mut put = HashSet::new();
    for op in ops {
        match op {
            Op::Put(Put { key, .. }) if key.is_empty() => return Err(StoreError::EmptyKey),
            Op::Delete(KeyRange::Key(key)) if key.is_empty() => return Err(StoreError::EmptyKey),
            Op::Put(Put { key, .. }) if !put.insert(key) => {
                return Err(StoreError::DuplicateKey { key: key.clone() });
            }
            Op::Get(_) | Op::Put(_) | Op::Delete(_) => {}
        }
    }
    let deletes = ops.iter().filter_map(|op| if let Op::Delete(range) = op { Some(range) } else { None });
    for range in deletes {
        if let Some(key) = put.iter().find(|key| range.contains(key)) {
            return Err(StoreError::DuplicateKey { key: Bytes::clone(key) });
        }
    }
    Ok(())
}

impl Compare {
    pub fn new(key: impl Into<Bytes>, target: Target, operator: Operator) -> Self {
        Self { key: key.into(), target, operator }
    }

    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self::new(key, Target::ModRevision(revision), Operator::Equal)
    }

    /// The key does not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self::mod_revision(key, Revision::ZERO)
    }

    /// Whether this holds for the key as it is now.
    #[must_use]
    pub fn holds(&self, now: Option<&KeyValue>) -> bool {
        let number = |of: fn(&KeyValue) -> i64| now.map_or(0, of);
        let ordering = match &self.target {
            Target::ModRevision(revision) => number(|kv| kv.mod_revision.0).cmp(&revision.0),
            Target::CreateRevision(revision) => number(|kv| kv.create_revision.0).cmp(&revision.0),
            Target::Version(version) => number(|kv| kv.version).cmp(version),
            Target::Lease(lease) => {
                number(|kv| kv.lease.map_or(0, |l| l.0)).cmp(&lease.map_or(0, |lease| lease.0))
            }
            Target::Value(value) => match now {
                Some(kv) => kv.value.cmp(value),
                None => return false, // as etcd: an absent key has no value, not even a different one
            },
        };
        match self.operator {
            Operator::Equal => ordering.is_eq(),
            Operator::NotEqual => ordering.is_ne(),
            Operator::Less => ordering.is_lt(),
            Operator::Greater => ordering.is_gt(),
        }
    }
}

impl Op {
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), lease: None })
    }

    pub fn put_leased(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        Self::Put(Put { key: key.into(), value: value.into(), lease: Some(lease) })
    }

    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete(KeyRange::key(key))
    }

    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get(RangeRequest::new(KeyRange::key(key)))
    }
}

/// Values may be Secrets: only their length is shown.
impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put")
            .field("key", &self.key)
            .field("value_bytes", &self.value.len())
            .field("lease", &self.lease)
            .finish()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ModRevision(revision) => write!(f, "ModRevision({revision})"),
            Self::CreateRevision(revision) => write!(f, "CreateRevision({revision})"),
            Self::Version(version) => write!(f, "Version({version})"),
            Self::Value(value) => write!(f, "Value({} bytes)", value.len()),
            Self::Lease(lease) => write!(f, "Lease({lease:?})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_that_writes_a_key_twice_is_refused_even_if_it_would_not_run() {
        let twice = vec![Op::put("a", "1"), Op::put("a", "2")];
        assert!(
            matches!(Txn::default().or_else(twice).check(), Err(StoreError::DuplicateKey { key }) if key == "a")
        );
        let covered = vec![Op::put("a/1", "1"), Op::Delete(KeyRange::prefix("a/"))];
        assert!(matches!(Txn::always(covered).check(), Err(StoreError::DuplicateKey { .. })));
        let apart = Txn::always(vec![Op::put("a", "1")]).or_else(vec![Op::put("a", "2"), Op::delete("b")]);
        assert!(apart.check().is_ok());
    }

    #[test]
    fn an_empty_key_is_refused() {
        assert!(matches!(Txn::always(vec![Op::put("", "1")]).check(), Err(StoreError::EmptyKey)));
        assert!(matches!(Txn::always(vec![Op::delete("")]).check(), Err(StoreError::EmptyKey)));
        assert!(matches!(Txn::when(vec![Compare::absent("")], vec![]).check(), Err(StoreError::EmptyKey)));
    }

    #[test]
    fn debug_output_never_shows_a_value() {
        let txn = Txn::when(
            vec![Compare::new("k", Target::Value("hunter2".into()), Operator::Equal)],
            vec![Op::put("k", "hunter3")],
        );
        assert!(!format!("{txn:?}").contains("hunter"));
    }
}
