//! Takes away what a mode has in the kernel.

use tracing::{info, warn};

use crate::{
    apply::{Mode, ProxyError, WriteError},
    iptables, ipvs, nftables,
};

/// Removes everything that the proxy has in the kernel, of whatever mode. Each is tried; what failed is told.
///
/// `node_ports` is the range of ports of Services of type NodePort: IPVS's servers carry no other mark of whose they are.
pub async fn cleanup(node_ports: (u16, u16)) -> Vec<ProxyError> {
    let mut failed = Vec::new();
    for mode in Mode::ALL {
        failed.extend(remove(mode, node_ports).await.err());
    }
    failed.extend(remove_upstreams().await.err());
    failed
}

/// Removes what modes other than this one left, which serves already. True when nothing of them is left.
pub async fn after_switch_to(now: Mode, node_ports: (u16, u16)) -> bool {
    let mut clean = true;
    let others = Mode::ALL.into_iter().filter(|mode| !shares_table(*mode, now));
    let mut removed = vec![(Mode::Nftables, remove_upstreams().await)];
    for mode in others {
        removed.push((mode, remove(mode, node_ports).await));
    }
    for (mode, removed) in removed {
        match removed {
            Ok(true) => info!(%mode, %now, "removed the service rules of another mode"),
            Ok(false) => {}
            Err(error) => {
                clean = false;
                let error = &error as &dyn std::error::Error;
                warn!(error, %mode, "the service rules of another mode stay for now; trying again");
            }
        }
    }
    clean
}

/// Whether what is removed of one mode would be the other's: the table of nf_tables is theirs both, and written whole.
fn shares_table(mode: Mode, now: Mode) -> bool {
    mode == now || (mode == Mode::Nftables && now == Mode::Ipvs)
}

/// What kube-proxy's mode nftables has, under a name of its own; of its other modes it is what ours have.
async fn remove_upstreams() -> Result<bool, ProxyError> {
    let removed = nftables::remove_upstreams_tables().await;
    removed.map_err(|error| ProxyError::Cleanup { mode: Mode::Nftables, source: error.into() })
}

/// Whether there was anything.
async fn remove(mode: Mode, node_ports: (u16, u16)) -> Result<bool, ProxyError> {
    let removed = match mode {
        Mode::Nftables => nftables::remove_tables().await.map_err(WriteError::from),
        Mode::Iptables => iptables::remove_chains().await.map_err(WriteError::from),
        Mode::Ipvs => ipvs::remove_servers(node_ports).await.map_err(WriteError::from),
    };
    removed.map_err(|source| ProxyError::Cleanup { mode, source })
}
