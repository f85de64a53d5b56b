//! The servers.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use lifecycle::Scope;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::Instant,
};
use tracing::{info, warn};

use super::{Answer, Health, Plan, plan};
use crate::model::ServiceModel;

/// A request is a line and some headers; nothing of it matters but that it ends.
const HEAD_BYTES: usize = 8 << 10;
const DEADLINE: Duration = Duration::from_secs(5);
/// Load balancers ask some times a second.
const CONNECTIONS: usize = 32;
/// Somebody else may have the port for a while.
const RETRY: Duration = Duration::from_secs(5);

/// One server for each port that a Service names.
#[derive(Debug)]
pub(crate) struct Checks<K> {
    scope: Scope,
    health: watch::Receiver<Health>,
    /// Where to listen: all addresses of both families, or of IPv4.
    address: IpAddr,
    wanted: BTreeMap<K, (u16, Answer)>,
    running: BTreeMap<u16, Server>,
}

#[derive(Debug)]
struct Server {
    answer: watch::Sender<Answer>,
    scope: Scope,
}

impl<K: Ord + Clone> Checks<K> {
    pub(crate) fn new(scope: &Scope, health: watch::Receiver<Health>, ipv6: bool) -> Self {
        let address = if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let scope = scope.child("health checks");
        Self { scope, health, address, wanted: BTreeMap::new(), running: BTreeMap::new() }
    }

    /// These Services changed. One that is gone has the empty model.
    pub(crate) fn change<'a>(&mut self, changed: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>)
    where
        K: 'a,
    {
        let mut touched = false;
        for (key, model) in changed {
            touched |= self.wanted.remove(key).is_some();
            if let Some((port, answer)) = model.health.clone() {
                self.wanted.insert(key.clone(), (port, answer));
                touched = true;
            }
        }
        if touched {
            self.reconcile();
        }
    }

    /// These are all Services.
    pub(crate) fn change_all<'a>(&mut self, services: impl IntoIterator<Item = (&'a K, &'a ServiceModel)>)
    where
        K: 'a,
    {
        self.wanted.clear();
        self.change(services);
        self.reconcile();
    }

    fn reconcile(&mut self) {
        let desired = self.wanted.values().map(|(port, answer)| (*port, answer.clone())).collect();
        let running =
            self.running.iter().map(|(port, server)| (*port, server.answer.borrow().clone())).collect();
        let Plan { stop, start, change } = plan(&desired, &running);
        for server in stop.iter().filter_map(|port| self.running.remove(port)) {
            server.scope.cancel();
        }
        for (port, answer) in change {
            if let Some(server) = self.running.get(&port) {
                server.answer.send_replace(answer);
            }
        }
        for (port, answer) in start {
            let (answer, answers) = watch::channel(answer);
            let scope = self.scope.child("health check");
            let told = Told { answers, health: self.health.clone() };
            scope.spawn("health check", serve((self.address, port), told, scope.clone()));
            self.running.insert(port, Server { answer, scope });
        }
    }
}

/// What a server tells.
struct Told {
    answers: watch::Receiver<Answer>,
    health: watch::Receiver<Health>,
}

impl Told {
    fn service(&self) -> String {
        self.answers.borrow().service.clone()
    }

    fn response(&self) -> String {
        let healthy = self.health.borrow().is_healthy(Instant::now());
        self.answers.borrow().response(healthy)
    }
}

/// Until the scope is cancelled.
async fn serve(address: (IpAddr, u16), told: Told, scope: Scope) {
    tokio::select! {
        () = scope.cancelled() => {}
        () = listen(address, told, &scope) => {}
    }
}

async fn listen(address: (IpAddr, u16), told: Told, scope: &Scope) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let mut warned = false;
    loop {
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                if !warned {
                    let service = told.service();
                    let error = &error as &dyn std::error::Error;
                    warn!(
                        error,
                        port = address.1,
                        service,
                        "a service's health check port cannot be listened on"
                    );
                }
                warned = true;
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        info!(port = address.1, service = told.service(), "answers health checks of a service");
        while let Ok(permit) = Arc::clone(&free).acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                // No descriptors, for example: the port is opened anew after a while.
                tokio::time::sleep(RETRY).await;
                break;
            };
            let response = told.response();
            drop(scope.spawn_guarded("health check answer", async move {
                // Whoever does not read the answer did not need it.
                drop(tokio::time::timeout(DEADLINE, answer(stream, response)).await);
                drop(permit);
            }));
        }
    }
}

async fn answer(mut stream: TcpStream, response: String) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn get(port: u16) -> io::Result<String> {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    async fn eventually(mut is: impl FnMut() -> bool) {
        let all = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("in time");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_port_answers_while_its_service_names_it() {
        let port = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port();
        let model = |local_endpoints| {
            let answer = Answer { namespace: "shop".into(), service: "web".into(), local_endpoints };
            ServiceModel { health: Some((port, answer)), ..ServiceModel::default() }
        };
        let root = Scope::root("test");
        let (health, healths) = watch::channel(Health::default());
        let mut checks = Checks::new(&root, healths, false);
        checks.change_all([(&1, &model(1))]);
        eventually(|| get(port).is_ok_and(|text| text.starts_with("HTTP/1.1 200 "))).await;
        let long_ago = Instant::now().checked_sub(Duration::from_secs(120));
        health.send_modify(|health| health.pending_since = long_ago);
        eventually(|| get(port).is_ok_and(|text| text.contains("\"serviceProxyHealthy\":false"))).await;
        checks.change([(&1, &model(0))]);
        eventually(|| get(port).is_ok_and(|text| text.starts_with("HTTP/1.1 503 "))).await;
        checks.change([(&1, &ServiceModel::default())]);
        eventually(|| get(port).is_err()).await;
        assert!(root.close(Duration::from_secs(5)).await);
    }
}
