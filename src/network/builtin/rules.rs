//! Commits transactions to the kernel, from a thread that may block.

use netlink::nft::{CommitError, Family, Socket, TableName, Transaction};

use super::{
    model::{Record, Settings},
    render::{TABLE, host_ports, whole},
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

/// Opens a socket on a reactor of this thread's own: host ports change rarely, and the same code serves a
/// process that has no runtime.
fn with_socket<T>(work: impl AsyncFnOnce(&mut Socket) -> Result<T, CommitError>) -> Result<T, RulesError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RulesError::Runtime)?;
    Ok(runtime.block_on(async {
        let mut socket = Socket::open()?;
        work(&mut socket).await
    })?)
}

pub(crate) fn commit(transactions: &[Transaction]) -> Result<(), RulesError> {
    with_socket(async |socket| {
        for transaction in transactions {
            socket.commit(transaction).await?;
        }
        Ok(())
    })
}

/// Whether the table is there, in any family.
pub(crate) fn table_exists(family: Family) -> Result<bool, RulesError> {
    let table = TableName { family, name: TABLE.to_string() };
    with_socket(async |socket| socket.state(&table).await).map(|state| state.is_some())
}

/// The families in which this node has pods.
fn families(settings: &Settings) -> impl Iterator<Item = Family> + '_ {
    FAMILIES.into_iter().filter(|family| settings.pod_cidr(*family == Family::Ip).is_some())
}

/// Makes the whole table anew.
pub(super) fn rebuild(settings: &Settings, records: &[Record]) -> Result<(), RulesError> {
    let transactions: Vec<_> = families(settings).map(|family| whole(settings, records, family)).collect();
    commit(&transactions)
}

/// Makes the host ports what the records say; the whole table, where somebody broke it.
pub(super) fn sync_host_ports(settings: &Settings, records: &[Record]) -> Result<(), RulesError> {
    let transactions: Vec<_> = families(settings).map(|family| host_ports(records, family)).collect();
    match commit(&transactions) {
        Err(RulesError::Commit(error)) if error.is_out_of_step() => rebuild(settings, records),
        other => other,
    }
}
