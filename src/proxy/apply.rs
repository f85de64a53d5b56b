//! Carries transactions to the kernel.

use std::io;

use netlink::nft::{Change, CommitError, Family, Monitor, Socket, TableName, TableState, Transaction};

use crate::{
    flows::{FlowsError, Leads, forget},
    nftables::TABLE,
};

/// What the proxy needs from the kernel.
pub trait Kernel: Send {
    /// Makes all changes, or none.
    fn commit(&mut self, transaction: &Transaction) -> impl Future<Output = Result<(), CommitError>> + Send;
    /// What there is of our table.
    fn state(
        &mut self,
        family: Family,
    ) -> impl Future<Output = Result<Option<TableState>, CommitError>> + Send;
    /// Resolves when somebody else changed our table.
    fn foreign_change(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Forgets UDP flows that lead elsewhere than `leads` says, and tells how many.
    fn forget_flows(&mut self, leads: Leads) -> impl Future<Output = Result<usize, FlowsError>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("open nf_tables")]
    Open(#[source] CommitError),
    #[error("hear changes of nf_tables")]
    Monitor(#[source] io::Error),
    #[error("remove the table {TABLE}")]
    Cleanup(#[source] CommitError),
}

/// nf_tables of this network namespace.
#[derive(Debug)]
pub struct NetfilterKernel {
    socket: Socket,
    monitor: Monitor,
}

impl NetfilterKernel {
    /// # Errors
    /// When the kernel has no nf_tables, or the process no right to it.
    pub fn open() -> Result<Self, ProxyError> {
        let socket = Socket::open().map_err(ProxyError::Open)?;
        let monitor = Monitor::open(TABLE, &socket).map_err(ProxyError::Open)?;
        Ok(Self { socket, monitor })
    }
}

impl Kernel for NetfilterKernel {
    async fn commit(&mut self, transaction: &Transaction) -> Result<(), CommitError> {
        self.socket.commit(transaction).await
    }

    async fn state(&mut self, family: Family) -> Result<Option<TableState>, CommitError> {
        self.socket.state(&table(family)).await
    }

    async fn foreign_change(&mut self) -> io::Result<()> {
        self.monitor.foreign_change().await
    }

    async fn forget_flows(&mut self, leads: Leads) -> Result<usize, FlowsError> {
        // The kernel's answer to a question is bounded in time, so this ends.
        tokio::task::spawn_blocking(move || forget(&leads)).await?
    }
}

fn table(family: Family) -> TableName {
    TableName { family, name: TABLE.to_string() }
}

/// Removes everything that the proxy has in the kernel. Nothing to do where there is nothing.
///
/// # Errors
/// When the kernel refuses.
pub async fn cleanup() -> Result<(), ProxyError> {
    let mut socket = Socket::open().map_err(ProxyError::Open)?;
    for family in [Family::Ip, Family::Ip6] {
        // Made first, since a table that is not there cannot be deleted.
        let changes = vec![Change::AddTable, Change::DeleteTable];
        socket.commit(&Transaction { table: table(family), changes }).await.map_err(ProxyError::Cleanup)?;
    }
    Ok(())
}
