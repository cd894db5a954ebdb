//! A server that closes an HTTP/2 connection before it looks at the first request, as one that is about to restart does.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

const PREFACE: usize = 24;
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// Speaks HTTP/2 until the first request comes, then says GOAWAY with last stream 0 and NO_ERROR, and closes.
pub(super) async fn say(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&frame(SETTINGS, 0, &[])).await?;
    stream.flush().await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        match (head[3], head[4]) {
            (SETTINGS, flags) if flags & ACK == 0 => {
                stream.write_all(&frame(SETTINGS, ACK, &[])).await?
            }
            (HEADERS, _) => {
                stream.write_all(&frame(GOAWAY, 0, &[0; 8])).await?;
                stream.flush().await?;
                stream.shutdown().await?;
                // Closed with something unread, the client would be told of a reset instead.
                while stream.read(&mut [0; 4096]).await? > 0 {}
                return Ok(());
            }
            _ => {}
        }
        stream.flush().await?;
    }
}
