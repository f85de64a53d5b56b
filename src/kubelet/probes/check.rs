//! Carries out one check of a container.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    dial::{dial, shown},
    grpc, http,
    spec::Check,
};
use crate::runtime::{ContainerId, Runtime, RuntimeError};

/// How much of what a container says is kept.
pub(super) const MOST_OUTPUT: usize = 10 << 10;

/// What a check found, with upstream's words for the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// A success that should be looked at.
    Warning(String),
    Failure(String),
    /// It could not be carried out: nothing is known.
    Unknown(String),
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Target {
    pub id: ContainerId,
    pub pod_ip: Option<IpAddr>,
}

/// Carries out checks. A trait, so that tests decide what they find.
pub trait Checker: Send + Sync + 'static {
    fn check(
        &self,
        target: &Target,
        check: &Check,
        timeout: Duration,
    ) -> impl Future<Output = Verdict> + Send;
}

/// Over the network, and through the runtime.
#[derive(Debug)]
pub struct Checks<R> {
    runtime: Arc<R>,
    tls: http::Tls,
}

impl<R: Runtime> Checks<R> {
    pub fn new(runtime: Arc<R>) -> Checks<R> {
        Checks { runtime, tls: http::Tls::shared().clone() }
    }

    async fn exec(&self, id: &ContainerId, command: &[String], timeout: Duration) -> Verdict {
        match self.runtime.exec(id, command, timeout).await {
            Ok(output) => {
                let mut said = output.stdout;
                said.extend(output.stderr);
                said.truncate(MOST_OUTPUT);
                match output.exit_code {
                    0 => Verdict::Success,
                    _ => Verdict::Failure(String::from_utf8_lossy(&said).into_owned()),
                }
            }
            Err(error @ RuntimeError::ExecTimedOut { .. }) => Verdict::Failure(error.to_string()),
            Err(error) => Verdict::Unknown(error.shown()),
        }
    }
}

impl<R: Runtime> Checker for Checks<R> {
    async fn check(&self, target: &Target, check: &Check, timeout: Duration) -> Verdict {
        let host = |own: &Option<String>| own.clone().or_else(|| Some(target.pod_ip?.to_string()));
        let no_address = || Verdict::Unknown("the pod has no address yet".into());
        match check {
            Check::Exec(command) => self.exec(&target.id, command, timeout).await,
            Check::Http(check) => match host(&check.host) {
                Some(host) => http::get(&self.tls, &host, check, timeout).await,
                None => no_address(),
            },
            Check::Tcp { host: own, port } => match host(own) {
                Some(host) => connect(&host, *port, timeout).await,
                None => no_address(),
            },
            Check::Grpc { port, service } => match host(&None) {
                Some(host) => grpc::check(&host, *port, service, timeout).await,
                None => no_address(),
            },
        }
    }
}

async fn connect(host: &str, port: u16, timeout: Duration) -> Verdict {
    match tokio::time::timeout(timeout, dial(host, port)).await {
        Ok(Ok(_)) => Verdict::Success,
        Ok(Err(error)) => Verdict::Failure(error.to_string()),
        Err(_) => Verdict::Failure(format!("dial tcp {}: i/o timeout", shown(host, port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_listens_is_enough() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let second = Duration::from_secs(5);
        assert_eq!(connect("127.0.0.1", port, second).await, Verdict::Success);
        drop(listener);
        let expected = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(connect("127.0.0.1", port, second).await, Verdict::Failure(expected));
    }
}
