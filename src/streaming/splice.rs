//! Two connections that become one.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};

/// Copies both ways until both have ended; the end of one direction is passed on alone.
///
/// # Errors
/// When either connection fails.
pub async fn splice<A, B>(mut a: A, mut b: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    copy_bidirectional(&mut a, &mut b).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn an_end_in_one_direction_lets_the_other_go_on() {
        let ((mut client, a), (b, mut server)) = (duplex(16), duplex(16));
        let talk = async {
            client.write_all(b"ask").await.unwrap();
            client.shutdown().await.unwrap();
            let mut asked = String::new();
            server.read_to_string(&mut asked).await.unwrap();
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
            let mut answered = String::new();
            client.read_to_string(&mut answered).await.unwrap();
            (asked, answered)
        };
        let (spliced, talked) = tokio::join!(splice(a, b), talk);
        spliced.unwrap();
        assert_eq!(talked, ("ask".to_owned(), "answer".to_owned()));
    }
}
