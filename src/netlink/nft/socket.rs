//! Sends transactions to the kernel, asks what a table holds, and hears who else changes it.

use std::{collections::BTreeMap, io, time::Duration};

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};

use super::{
    encode::{self, message},
    model::{Change, TableName, Transaction},
};
use crate::{
    request::DUMP_TRIES,
    wire::{Reader, Writer},
};

/// The kernel takes a batch as one datagram: room for some ten thousand Services.
const SEND_BUFFER_BYTES: usize = 64 << 20;
/// Each refused change of a batch is answered by itself.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// The kernel answers a batch at once; a silent kernel is a fault.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const HEADER: usize = 16;
const NFGENMSG: usize = 4;

/// Why a transaction was not made. None of its changes was, then.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    #[error("open a netfilter socket")]
    Open(#[source] io::Error),
    #[error("talk to the kernel about table {table}")]
    Transport {
        table: String,
        #[source]
        source: io::Error,
    },
    /// The kernel refused this change, and with it all others.
    #[error("table {table}: the kernel refused `{change}`{hint}")]
    Refused {
        table: String,
        change: String,
        /// What the kernel said besides the error number, if anything.
        hint: String,
        #[source]
        source: io::Error,
    },
    #[error("table {table}: no answer from the kernel within {} s", .after.as_secs())]
    Silent { table: String, after: Duration },
    #[error("table {table}: it changed again and again while it was read")]
    Interrupted { table: String },
}

impl CommitError {
    /// Whether the kernel refused because something was not there, or was there already:
    /// the table is not what we believe it to be, and writing it anew mends that.
    #[must_use]
    pub fn is_out_of_step(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
    }

    /// Whether the kernel has no nf_tables, or not of this family: then there is nothing in it either.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        let (Self::Open(source) | Self::Transport { source, .. }) = self else { return false };
        // A request of a subsystem that netfilter does not have is called invalid.
        source.raw_os_error().map(Errno::from_raw).is_some_and(|error| {
            matches!(error, Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL)
        })
    }
}

/// What the kernel has of a table: how many rules each chain has, how many elements each named set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableState {
    pub chains: BTreeMap<String, usize>,
    pub sets: BTreeMap<String, usize>,
}

impl TableState {
    /// What the kernel has after a transaction that makes its table from nothing.
    #[must_use]
    pub fn after(transaction: &Transaction) -> Self {
        let mut state = Self::default();
        for change in &transaction.changes {
            match change {
                Change::DeleteTable => state = Self::default(),
                Change::AddChain(chain) => drop(state.chains.entry(chain.name.clone()).or_default()),
                Change::AddRule(rule) => *state.chains.entry(rule.chain.clone()).or_default() += 1,
                Change::AddSet(set) => drop(state.sets.entry(set.name.clone()).or_default()),
                Change::AddElements { set, elements } => {
                    *state.sets.entry(set.clone()).or_default() += elements.len();
                }
                // What takes single things away is for a table that is there.
                Change::AddTable
                | Change::FlushChain(_)
                | Change::DeleteChain(_)
                | Change::FlushSet(_)
                | Change::DeleteSet(_)
                | Change::DeleteElements { .. } => {}
            }
        }
        state
    }
}

/// A netfilter socket in the network namespace where it was opened. One request at a time.
pub struct Socket {
    socket: TokioSocket,
    sequence: u32,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("nft::Socket").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket in this thread's network namespace. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the kernel has no nf_tables or the process no right to it.
    pub fn open() -> Result<Self, CommitError> {
        open(0).map(|socket| Self { socket, sequence: 1 }).map_err(CommitError::Open)
    }

    /// The port id of this socket, by which [`Monitor`] tells our own changes from others'.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.socket_ref().get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Makes all changes of a transaction, or none.
    ///
    /// # Errors
    /// Which change was refused, and why.
    pub async fn commit(&mut self, transaction: &Transaction) -> Result<(), CommitError> {
        if transaction.changes.is_empty() {
            return Ok(());
        }
        let batch = encode::batch(transaction, self.sequence);
        self.sequence = self.sequence.wrapping_add(u32::try_from(batch.change_of.len()).unwrap_or(1)).max(1);
        let table = transaction.table.name.as_str();
        let transport = |source| CommitError::Transport { table: table.to_string(), source };
        self.socket.send(&batch.bytes).await.map_err(transport)?;
        let mut refused = None;
        loop {
            let (bytes, _) = self.receive(table).await?;
            for answer in Messages::new(&bytes) {
                // Answers to an earlier, abandoned request are passed over.
                let offset = answer.sequence.wrapping_sub(batch.first);
                if answer.kind != NLMSG_ERROR || offset as usize >= batch.change_of.len() {
                    continue;
                }
                if let Some(error) = answer.error() {
                    let change = transaction.changes.get(batch.change_of[offset as usize]);
                    refused.get_or_insert_with(|| refusal(transaction, change, &answer, error));
                }
                // The begin message is answered when the whole batch was refused.
                if answer.sequence == batch.last || answer.sequence == batch.first {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Counts what the kernel has of a table; `None` where there is no such table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn state(&mut self, table: &TableName) -> Result<Option<TableState>, CommitError> {
        let mut state = TableState::default();
        let attributes = of_table(table);
        state.chains.extend(self.chains(table).await?.into_iter().map(|chain| (chain, 0)));
        if state.chains.is_empty() && !self.has_table(table).await? {
            return Ok(None);
        }
        for body in self.dump(table, message::GETRULE, &attributes).await?.unwrap_or_default() {
            let reader = Reader::new(&body);
            if let Some(chain) = reader.text(encode::NFTA_RULE_CHAIN).filter(|_| is_of(table, &reader)) {
                *state.chains.entry(chain.to_string()).or_default() += 1;
            }
        }
        for body in self.dump(table, message::GETSET, &attributes).await?.unwrap_or_default() {
            let reader = Reader::new(&body);
            let Some(set) = reader.text(encode::NFTA_SET_NAME).filter(|_| is_of(table, &reader)) else {
                continue;
            };
            // Anonymous ones live and die with their rules.
            if !set.starts_with("__") {
                let count = self.count_elements(table, set).await?;
                state.sets.insert(set.to_string(), count);
            }
        }
        Ok(Some(state))
    }

    /// The names of a table's chains; none where there is no such table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn chains(&mut self, table: &TableName) -> Result<Vec<String>, CommitError> {
        let chains = self.dump(table, message::GETCHAIN, &of_table(table)).await?.unwrap_or_default();
        let name = |body: &Vec<u8>| {
            let reader = Reader::new(body);
            reader.text(encode::NFTA_CHAIN_NAME).filter(|_| is_of(table, &reader)).map(ToString::to_string)
        };
        Ok(chains.iter().filter_map(name).collect())
    }

    async fn has_table(&mut self, table: &TableName) -> Result<bool, CommitError> {
        let tables = self.dump(table, message::GETTABLE, &[]).await?.unwrap_or_default();
        Ok(tables.iter().any(|body| Reader::new(body).text(encode::ATTR_TABLE) == Some(table.name.as_str())))
    }

    async fn count_elements(&mut self, table: &TableName, set: &str) -> Result<usize, CommitError> {
        let mut attributes = Writer::default();
        attributes.text(encode::ATTR_TABLE, &table.name).text(encode::NFTA_SET_ELEM_LIST_SET, set);
        let lists = self.dump(table, message::GETSETELEM, &attributes.finish()).await?.unwrap_or_default();
        let count = |body: &Vec<u8>| {
            let reader = Reader::new(body);
            reader.get(encode::NFTA_SET_ELEM_LIST_ELEMENTS).map_or(0, |list| Reader::new(list).count())
        };
        Ok(lists.iter().map(count).sum())
    }

    /// The attribute bytes of each answer, all of one moment; `None` where the kernel knows no such object.
    async fn dump(
        &mut self,
        table: &TableName,
        kind: u16,
        attributes: &[u8],
    ) -> Result<Option<Vec<Vec<u8>>>, CommitError> {
        for _ in 0..DUMP_TRIES {
            if let Some(found) = self.dump_once(table, kind, attributes).await? {
                return Ok(found);
            }
        }
        Err(CommitError::Interrupted { table: table.name.clone() })
    }

    /// The outer `None`: somebody committed a change of any table meanwhile, and what is listed may lack what was there
    /// all the time.
    async fn dump_once(
        &mut self,
        table: &TableName,
        kind: u16,
        attributes: &[u8],
    ) -> Result<Option<Option<Vec<Vec<u8>>>>, CommitError> {
        let sequence = self.sequence;
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let request = encode::request(kind, encode::NLM_F_DUMP, table.family, sequence, attributes);
        let transport = |source| CommitError::Transport { table: table.name.clone(), source };
        self.socket.send(&request).await.map_err(transport)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let (bytes, _) = self.receive(&table.name).await?;
            for answer in Messages::new(&bytes).filter(|answer| answer.sequence == sequence) {
                interrupted |= answer.flags & NLM_F_DUMP_INTR != 0;
                match (answer.kind, answer.error()) {
                    (NLMSG_ERROR, Some(error)) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Some(None));
                    }
                    (NLMSG_ERROR, Some(error)) => return Err(transport(error)),
                    (NLMSG_DONE, _) | (NLMSG_ERROR, None) => return Ok((!interrupted).then_some(Some(found))),
                    _ => found.push(answer.body.get(NFGENMSG..).unwrap_or_default().to_vec()),
                }
            }
        }
    }

    async fn receive(&self, table: &str) -> Result<(Vec<u8>, SocketAddr), CommitError> {
        match tokio::time::timeout(ANSWER_DEADLINE, self.socket.recv_from_full()).await {
            Ok(Ok(received)) => Ok(received),
            Ok(Err(source)) => Err(CommitError::Transport { table: table.to_string(), source }),
            Err(_) => Err(CommitError::Silent { table: table.to_string(), after: ANSWER_DEADLINE }),
        }
    }
}

fn of_table(table: &TableName) -> Vec<u8> {
    let mut attributes = Writer::default();
    attributes.text(encode::ATTR_TABLE, &table.name);
    attributes.finish()
}

fn is_of(table: &TableName, reader: &Reader<'_>) -> bool {
    reader.text(encode::ATTR_TABLE) == Some(table.name.as_str())
}

fn refusal(
    transaction: &Transaction,
    change: Option<&Change>,
    answer: &Message<'_>,
    source: io::Error,
) -> CommitError {
    let one =
        Transaction { table: transaction.table.clone(), changes: change.cloned().into_iter().collect() };
    let text = one.render();
    // An element list can be long: its beginning names the set.
    let change: String = text.trim_end().chars().take(200).collect();
    let hint = answer.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    CommitError::Refused { table: transaction.table.name.clone(), change, hint, source }
}

fn open(groups: u32) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, groups))?;
    // Says in words what was wrong, where the kernel knows; never needed.
    drop(inner.set_ext_ack(true));
    drop(inner.set_cap_ack(true));
    setsockopt(inner, sockopt::SndBufForce, &SEND_BUFFER_BYTES)?;
    setsockopt(inner, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    Ok(socket)
}

/// Hears every change to nf_tables of the namespace.
pub struct Monitor {
    socket: TokioSocket,
    watched: Watched,
    /// The socket whose changes are not told.
    ours: Option<u32>,
    /// A change to what is watched was seen, of whom is told by the generation message that follows.
    touched: bool,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("nft::Monitor").field("watched", &self.watched).finish_non_exhaustive()
    }
}

/// What a [`Monitor`] tells of.
#[derive(Debug)]
enum Watched {
    /// Any change to a table.
    Table(String),
    /// What is taken away from some chains of tables that several programs share, or from the kernel's hooks there.
    Removals { tables: Vec<String>, is_ours: fn(&str) -> bool },
}

/// The chains of iptables that packets enter its tables by.
const HOOKS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

impl Watched {
    fn is_touched(&self, kind: u16, reader: &Reader<'_>) -> bool {
        let Some(changed) = reader.text(encode::ATTR_TABLE) else { return false };
        match self {
            Self::Table(table) => changed == table,
            Self::Removals { tables, is_ours } => {
                let chain = match kind & 0xff {
                    message::DELTABLE => return tables.iter().any(|table| table == changed),
                    message::DELCHAIN => reader.text(encode::NFTA_CHAIN_NAME),
                    message::DELRULE => reader.text(encode::NFTA_RULE_CHAIN),
                    _ => None,
                };
                tables.iter().any(|table| table == changed)
                    && chain.is_some_and(|chain| is_ours(chain) || HOOKS.contains(&chain))
            }
        }
    }
}

impl Monitor {
    /// Watches one table (of both families) for changes that `writer` did not make.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open(table: &str, writer: &Socket) -> Result<Self, CommitError> {
        let ours = writer.port().map_err(CommitError::Open)?;
        Self::of(Watched::Table(table.to_string()), Some(ours))
    }

    /// Watches one table (of both families) for changes, whoever makes them.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn of_all(table: &str) -> Result<Self, CommitError> {
        Self::of(Watched::Table(table.to_string()), None)
    }

    /// Watches tables (of both families) that others have rules in too, for rules and chains that are taken away, whoever
    /// does it: from chains that are `is_ours`, or from those that lead to them.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn of_removals(tables: &[&str], is_ours: fn(&str) -> bool) -> Result<Self, CommitError> {
        let tables = tables.iter().map(ToString::to_string).collect();
        Self::of(Watched::Removals { tables, is_ours }, None)
    }

    fn of(watched: Watched, ours: Option<u32>) -> Result<Self, CommitError> {
        const NFNLGRP_NFTABLES: u32 = 7;
        let socket = open(1 << (NFNLGRP_NFTABLES - 1)).map_err(CommitError::Open)?;
        Ok(Self { socket, watched, ours, touched: false })
    }

    /// Passes over what was told until now. The kernel tells of a change before whoever made it is answered.
    pub fn forget(&mut self) {
        self.touched = false;
        // Lost messages are passed over like others; nothing to read ends it.
        loop {
            match self.socket.socket_ref().recv_from_full() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    /// Resolves when somebody else (or anybody, where no writer was named) changed what is watched, or when so much happened
    /// that we may have missed it.
    ///
    /// # Errors
    /// When the socket broke.
    pub async fn foreign_change(&mut self) -> io::Result<()> {
        loop {
            let bytes = match self.socket.recv_from_full().await {
                Ok((bytes, _)) => bytes,
                // The kernel dropped messages: anything may have happened.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(()),
                Err(error) => return Err(error),
            };
            for event in Messages::new(&bytes) {
                let reader = Reader::new(event.body.get(NFGENMSG..).unwrap_or_default());
                if event.kind & 0xff == message::NEWGEN {
                    let touched = std::mem::take(&mut self.touched);
                    if touched && Some(event.port) != self.ours {
                        return Ok(());
                    }
                } else if self.watched.is_touched(event.kind, &reader) {
                    self.touched = true;
                }
            }
        }
    }
}

/// One netlink message.
#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    /// Who caused it.
    port: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// The error that an NLMSG_ERROR tells; none in an acknowledgement.
    fn error(&self) -> Option<io::Error> {
        let code = i32::from_ne_bytes(self.body.get(0..4)?.try_into().ok()?);
        (code != 0).then(|| io::Error::from_raw_os_error(code.wrapping_neg()))
    }

    /// NLMSGERR_ATTR_MSG of an extended acknowledgement, behind the header of the refused message.
    fn hint(&self) -> Option<&str> {
        const NLMSGERR_ATTR_MSG: u16 = 1;
        Reader::new(self.body.get(4 + HEADER..)?).text(NLMSGERR_ATTR_MSG)
    }
}

struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let word = |from: usize| self.rest.get(from..from + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let length = word(0)? as usize;
        let half = |from: usize| self.rest.get(from..from + 2)?.try_into().ok().map(u16::from_ne_bytes);
        let (kind, flags) = (half(4)?, half(6)?);
        let (sequence, port) = (word(8)?, word(12)?);
        let body = self.rest.get(HEADER..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, flags, sequence, port, body })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_the_message_reader_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Messages::new(&bytes).inspect(|m| drop((m.error(), m.hint().is_some()))).count() <= bytes.len());
        }
    }
}
