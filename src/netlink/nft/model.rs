//! Tables, chains, sets and rules as values.

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    Ip,
    Ip6,
}

/// A table that is ours as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName {
    pub family: Family,
    pub name: String,
}

/// Changes to one table that the kernel makes together, or not at all. Order matters within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub table: TableName,
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the table; nothing if it is there.
    AddTable,
    /// Removes the table and everything in it. The kernel refuses if there is none.
    DeleteTable,
    /// Makes the chain; nothing if it is there.
    AddChain(Chain),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Removes an empty chain that nothing jumps to.
    DeleteChain(String),
    /// Appends a rule.
    AddRule(Rule),
    /// Makes the set or map; nothing if it is there.
    AddSet(Set),
    FlushSet(String),
    DeleteSet(String),
    AddElements {
        set: String,
        elements: Vec<Element>,
    },
    /// The kernel refuses if an element is not there.
    DeleteElements {
        set: String,
        elements: Vec<Element>,
    },
}

/// A chain; with a hook, packets enter the table there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    pub kind: HookKind,
    pub point: HookPoint,
    /// As in `nft(8)`: filter is 0, dstnat −100, srcnat 100.
    pub priority: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookKind {
    Filter,
    Nat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

impl Chain {
    #[must_use]
    pub fn plain(name: impl Into<String>) -> Self {
        Self { name: name.into(), hook: None }
    }

    #[must_use]
    pub fn hooked(name: impl Into<String>, kind: HookKind, point: HookPoint, priority: i32) -> Self {
        Self { name: name.into(), hook: Some(Hook { kind, point, priority }) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub chain: String,
    pub statements: Vec<Statement>,
}

impl Rule {
    #[must_use]
    pub fn new(chain: impl Into<String>, statements: impl IntoIterator<Item = Statement>) -> Self {
        Self { chain: chain.into(), statements: statements.into_iter().collect() }
    }
}

/// A transport protocol, by its IANA number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Proto {
    /// As rules spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// What a packet is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The source address, of the table's family.
    Saddr,
    Daddr,
    L4Proto,
    /// The transport's destination port.
    Dport,
    Mark,
    InputInterface,
    OutputInterface,
    /// A random number below this, for maps over `0..n`.
    Random(u32),
}

/// A value of a key, or of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    Address(IpAddr),
    Proto(Proto),
    Port(u16),
    Number(u32),
}

/// The type of one [`Data`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataType {
    Address,
    Proto,
    Port,
    Mark,
    /// An index, as [`Key::Random`] gives.
    Number,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    /// The parts of the key, concatenated.
    pub key: Vec<DataType>,
    pub kind: SetKind,
    /// Elements disappear this long after they were added or updated by a rule.
    pub timeout: Option<Duration>,
    /// Elements are ranges (`interval`): the key has one part.
    pub intervals: bool,
}

/// What a set gives for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Only whether it is there.
    Set,
    Map(Vec<DataType>),
    VerdictMap,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<Data>,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    None,
    Data(Vec<Data>),
    Verdict(Verdict),
    /// The element is all addresses of this range; `key` is empty.
    Net(IpNet),
}

impl Element {
    #[must_use]
    pub fn member(key: impl IntoIterator<Item = Data>) -> Self {
        Self { key: key.into_iter().collect(), value: Value::None }
    }

    #[must_use]
    pub fn verdict(key: impl IntoIterator<Item = Data>, verdict: Verdict) -> Self {
        Self { key: key.into_iter().collect(), value: Value::Verdict(verdict) }
    }

    #[must_use]
    pub fn mapping(key: impl IntoIterator<Item = Data>, data: impl IntoIterator<Item = Data>) -> Self {
        Self { key: key.into_iter().collect(), value: Value::Data(data.into_iter().collect()) }
    }

    #[must_use]
    pub fn net(net: IpNet) -> Self {
        Self { key: Vec::new(), value: Value::Net(net) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

/// Bits of `ct state`.
pub mod ct_state {
    pub const INVALID: u32 = 1;
    pub const ESTABLISHED: u32 = 2;
    pub const RELATED: u32 = 4;
    pub const NEW: u32 = 8;
}

/// One part of a rule, tried from left to right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// `ip daddr 10.0.0.1`, or `!=`.
    Is {
        key: Key,
        value: Data,
        negate: bool,
    },
    /// `ip daddr 10.0.0.0/8`, or `!=`.
    InNet {
        key: Key,
        net: IpNet,
        negate: bool,
    },
    /// `iifname "lo"`, or `!=`; a name of less than 16 bytes.
    Interface {
        key: Key,
        name: String,
        negate: bool,
    },
    /// `ip daddr . th dport @set`, or `!=`.
    InSet {
        keys: Vec<Key>,
        set: String,
        negate: bool,
    },
    /// `fib daddr type local`: the packet is for this host.
    DaddrIsLocal,
    /// `fib saddr type local`: the packet is from this host.
    SaddrIsLocal,
    /// `ct state invalid`.
    CtState(u32),
    /// `ct status dnat`: the connection's destination was rewritten.
    CtStatusDnat,
    /// `meta mark & mask == value`, or `!=`.
    MarkMasked {
        mask: u32,
        value: u32,
        negate: bool,
    },
    /// `meta mark set meta mark & keep ^ flip`.
    SetMark {
        keep: u32,
        flip: u32,
    },
    /// `accept`, `jump x`.
    Do(Verdict),
    /// `ip daddr . meta l4proto . th dport vmap @map`: nothing happens where the map has no entry.
    Vmap {
        keys: Vec<Key>,
        map: String,
    },
    /// `numgen random mod n vmap { 0 : goto a, 1 : goto b }`: one of the verdicts, each as likely.
    RandomVerdict(Vec<Verdict>),
    /// `dnat to 10.0.0.1:80`.
    Dnat {
        address: IpAddr,
        port: u16,
    },
    /// `dnat to <keys> map @map`, whose data are an address and a port.
    DnatMap {
        keys: Vec<Key>,
        map: String,
    },
    /// `masquerade`, or `masquerade fully-random`.
    Masquerade {
        fully_random: bool,
    },
    /// `update @set { keys }`: adds, or restarts the timeout of, an element of a set with a timeout.
    Update {
        set: String,
        keys: Vec<Key>,
    },
    Reject(Reject),
    Counter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// `reject`: port unreachable.
    PortUnreachable,
    /// `reject with tcp reset`.
    TcpReset,
}

impl Statement {
    #[must_use]
    pub fn is(key: Key, value: Data) -> Self {
        Self::Is { key, value, negate: false }
    }

    #[must_use]
    pub fn jump(chain: impl Into<String>) -> Self {
        Self::Do(Verdict::Jump(chain.into()))
    }

    #[must_use]
    pub fn goto(chain: impl Into<String>) -> Self {
        Self::Do(Verdict::Goto(chain.into()))
    }
}
