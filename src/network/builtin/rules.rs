//! Commits transactions to the kernel, from a thread that may block.

use std::sync::{Mutex, PoisonError};

use netlink::nft::{CommitError, Family, Socket, TableName, TableState, Transaction};
use tokio::runtime::Runtime;

use super::{
    model::{Record, Settings},
    render::{TABLE, host_ports, removal, whole},
};

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// Why the table is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RulesError {
    #[error("start a reactor for the netfilter socket")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// The table of this network, on a socket that is opened once: closing one makes the kernel wait for
/// everything that was ever removed through it (20 ms, Linux 6.18).
#[derive(Debug, Default)]
pub(crate) struct Table {
    open: Mutex<Option<Open>>,
}

/// A socket and its reactor, which is of its own: the same code serves a process that has no runtime.
#[derive(Debug)]
struct Open {
    socket: Socket,
    runtime: Runtime,
}

impl Open {
    fn new() -> Result<Self, RulesError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(RulesError::Runtime)?;
        let socket = {
            let _reactor = runtime.enter();
            Socket::open()?
        };
        Ok(Self { socket, runtime })
    }

    /// Ends without waiting: the last user may be an async task.
    fn close(self) {
        drop(self.socket);
        self.runtime.shutdown_background();
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.take() {
            open.close();
        }
    }
}

impl Table {
    fn with_socket<T>(
        &self,
        work: impl AsyncFnOnce(&mut Socket) -> Result<T, CommitError>,
    ) -> Result<T, RulesError> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match slot.take() {
            Some(open) => open,
            None => Open::new()?,
        };
        let result = open.runtime.block_on(work(&mut open.socket));
        match &result {
            Ok(_) | Err(CommitError::Refused { .. }) => *slot = Some(open),
            // A socket that failed is not used again.
            Err(_) => open.close(),
        }
        Ok(result?)
    }

    fn commit(&self, transactions: &[Transaction]) -> Result<(), RulesError> {
        self.with_socket(async |socket| {
            for transaction in transactions {
                socket.commit(transaction).await?;
            }
            Ok(())
        })
    }

    /// Makes the whole table anew.
    pub(super) fn rebuild(&self, settings: &Settings, records: &[Record]) -> Result<(), RulesError> {
        let transactions: Vec<_> =
            families(settings).map(|family| whole(settings, records, family)).collect();
        self.commit(&transactions)
    }

    /// Whether the kernel has as many chains, rules and elements as the records say.
    pub(super) fn is_whole(&self, settings: &Settings, records: &[Record]) -> Result<bool, RulesError> {
        let wanted: Vec<_> = families(settings).map(|family| whole(settings, records, family)).collect();
        self.with_socket(async |socket| {
            for transaction in &wanted {
                if socket.state(&transaction.table).await? != Some(TableState::after(transaction)) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Makes the host ports what the records say; the whole table, where somebody broke it.
    pub(super) fn sync_host_ports(&self, settings: &Settings, records: &[Record]) -> Result<(), RulesError> {
        let transactions: Vec<_> = families(settings).map(|family| host_ports(records, family)).collect();
        match self.commit(&transactions) {
            Err(RulesError::Commit(error)) if error.is_out_of_step() => self.rebuild(settings, records),
            other => other,
        }
    }

    /// Removes the table of one family. False if there was none.
    pub(crate) fn remove(&self, family: Family) -> Result<bool, RulesError> {
        let table = TableName { family, name: TABLE.to_string() };
        let there = self.with_socket(async |socket| socket.state(&table).await)?.is_some();
        if there {
            self.commit(&[removal(family)])?;
        }
        Ok(there)
    }
}

/// The families in which this node has pods.
fn families(settings: &Settings) -> impl Iterator<Item = Family> + '_ {
    FAMILIES.into_iter().filter(|family| settings.pod_cidr(*family == Family::Ip).is_some())
}
