//! How a TCP connection is set that may stand for hours without a word: the servers' and those to nodes and pods.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpStream, ToSocketAddrs};

/// A peer that is gone without a word is noticed after a minute, also while nothing is said. No `TCP_USER_TIMEOUT`: it
/// would also end the connection of who stops reading for a while (Linux since 5.11 counts a closed window).
const IDLE_SECONDS: u32 = 30;
const PROBE_SECONDS: u32 = 10;
const PROBES: u32 = 3;

/// Small writes (watch events, keystrokes) go out at once; the kernel asks whether the other side is still there.
///
/// # Errors
/// When the kernel refuses an option.
pub fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &IDLE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepCount, &PROBES)?;
    Ok(())
}

/// A connection that is [set up](set_up).
///
/// # Errors
/// When there is none.
pub async fn connect(to: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    set_up(&stream)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_asks_for_a_silent_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialed = connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(getsockopt(&dialed, sockopt::KeepAlive).unwrap() && dialed.nodelay().unwrap());
        assert_eq!(getsockopt(&dialed, sockopt::TcpKeepIdle).unwrap(), IDLE_SECONDS);
        assert_eq!(getsockopt(&dialed, sockopt::TcpKeepInterval).unwrap(), PROBE_SECONDS);
        assert_eq!(getsockopt(&dialed, sockopt::TcpKeepCount).unwrap(), PROBES);
    }
}
