//! The sockets: UDP and TCP at one address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use lifecycle::{Scope, catch_panic};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, error};

use crate::respond::{Pending, Responder, Step, Transport};

/// Tasks that answer what comes by UDP. What waits for others waits elsewhere.
const UDP_TASKS: usize = 2;
/// Datagrams whose answers wait for upstream resolvers; somewhat more than the resolvers are asked at once, so that the
/// rest is told so. Beyond that they are dropped, as a full socket would.
const MAX_WAITING: usize = 1200;
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may be silent (RFC 7766), or take to accept an answer.
const IDLE: Duration = Duration::from_secs(10);
/// After a failure of the socket, so that a lasting one does not burn the processor.
const PAUSE: Duration = Duration::from_millis(50);

/// Listens; nothing is answered yet.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Sockets {
    /// With port 0, one that is free for both.
    pub(crate) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self { udp: Arc::new(udp), tcp })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Answers until `scope` is cancelled.
pub(crate) async fn run(sockets: Sockets, responder: Arc<Responder>, scope: Scope) {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    for _ in 0..UDP_TASKS {
        let server = Datagrams {
            socket: Arc::clone(&sockets.udp),
            responder: Arc::clone(&responder),
            waiting: Arc::clone(&waiting),
            scope: scope.clone(),
        };
        scope.spawn("dns udp", server.run());
    }
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = scope.cancelled() => return,
            accepted = accept(&sockets.tcp, &connections) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (responder, token, own) = (Arc::clone(&responder), scope.token(), scope.clone());
        scope.spawn("dns connection", async move {
            tokio::select! {
                () = token.cancelled() => {}
                ended = serve_connection(stream, &responder, &own) => {
                    if let Err(error) = ended {
                        debug!(error = &error as &dyn std::error::Error, "a connection ended");
                    }
                }
            }
            drop(permit);
        });
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    Some((stream, permit))
}

struct Datagrams {
    socket: Arc<UdpSocket>,
    responder: Arc<Responder>,
    waiting: Arc<Semaphore>,
    scope: Scope,
}

impl Datagrams {
    async fn run(self) {
        let mut buffer = vec![0; 4096];
        loop {
            let received = tokio::select! {
                () = self.scope.cancelled() => return,
                received = self.socket.recv_from(&mut buffer) => received,
            };
            // An error is that of an earlier answer's receiver, who is gone.
            let Ok((length, peer)) = received else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            match begin(&self.responder, &buffer[..length], Transport::Udp, peer.ip()) {
                Step::Drop => {}
                Step::Reply(reply) => send(&self.socket, &reply, peer).await,
                Step::Ask(pending) => self.ask(*pending, peer),
            }
        }
    }

    fn ask(&self, pending: Pending, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { return };
        let (socket, responder) = (Arc::clone(&self.socket), Arc::clone(&self.responder));
        let (scope, token) = (self.scope.clone(), self.scope.token());
        self.scope.spawn("dns forwarding", async move {
            tokio::select! {
                () = token.cancelled() => {}
                reply = finish(&responder, pending, &scope) => send(&socket, &reply, peer).await,
            }
            drop(permit);
        });
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if reply.is_empty() {
        return;
    }
    if let Err(error) = socket.send_to(reply, peer).await {
        debug!(%peer, %error, "an answer could not be sent");
    }
}

/// One question after another, as they come.
async fn serve_connection(mut stream: TcpStream, responder: &Responder, scope: &Scope) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.ip();
    let mut message = Vec::new();
    loop {
        let length = timeout(IDLE, stream.read_u16()).await??;
        message.resize(usize::from(length), 0);
        timeout(IDLE, stream.read_exact(&mut message)).await??;
        let reply = match begin(responder, &message, Transport::Tcp, peer) {
            Step::Drop => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Ask(pending) => finish(responder, *pending, scope).await,
        };
        let Some(length) = u16::try_from(reply.len()).ok().filter(|length| *length > 0) else {
            return Ok(());
        };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend(reply);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

/// A panic over one question is that question's alone.
fn begin(responder: &Responder, bytes: &[u8], transport: Transport, peer: IpAddr) -> Step {
    catch_unwind(AssertUnwindSafe(|| responder.begin(bytes, transport, peer))).unwrap_or_else(|_| {
        error!("a question could not be answered: panicked");
        Step::Drop
    })
}

async fn finish(responder: &Responder, pending: Pending, scope: &Scope) -> Vec<u8> {
    catch_panic(responder.finish(pending, scope)).await.unwrap_or_else(|panic| {
        error!(error = &panic as &dyn std::error::Error, "a question could not be answered");
        Vec::new()
    })
}
