//! One question to one resolver.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::wire::{Reply, Unfit};

/// Replies that do not fit, from somebody who guesses, before the resolver is given up.
const MAX_UNFIT: usize = 32;

#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("no reply within {0:?}")]
    Late(Duration),
    #[error("the resolver cannot be reached")]
    Io(#[from] io::Error),
    #[error("the resolver's reply cannot be used")]
    Unfit(#[from] Unfit),
}

/// By UDP, and by TCP where the reply is cut; each within `wait`.
pub(super) async fn ask(server: SocketAddr, query: &[u8], wait: Duration) -> Result<Reply, ExchangeError> {
    let late = |_| ExchangeError::Late(wait);
    let reply = timeout(wait, by_udp(server, query)).await.map_err(late)??;
    if !reply.is_truncated() {
        return Ok(reply);
    }
    timeout(wait, by_tcp(server, query)).await.map_err(late)?
}

/// From a port of its own: with the number of the question, that is what keeps others from replying.
async fn by_udp(server: SocketAddr, query: &[u8]) -> Result<Reply, ExchangeError> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    let mut unfit = Unfit::Other;
    for _ in 0..MAX_UNFIT {
        let length = socket.recv(&mut buffer).await?;
        match Reply::read(query, buffer[..length].to_vec()) {
            Ok(reply) => return Ok(reply),
            // A late reply to somebody else, or a forged one: the right one may still come.
            Err(error) => unfit = error,
        }
    }
    Err(unfit.into())
}

async fn by_tcp(server: SocketAddr, query: &[u8]) -> Result<Reply, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| Unfit::Short)?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend(query);
    stream.write_all(&message).await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    Ok(Reply::read(query, reply)?)
}
