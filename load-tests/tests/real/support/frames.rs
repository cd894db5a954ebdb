//! HTTP/2 by hand over TLS, for requests no honest client makes: frames as bytes, header blocks without compression.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use load_tests::control_plane::{ControlPlane, Credentials};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::raw::connect;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was answered, whatever the status.
    Answered,
    /// Its stream was reset, with this code.
    Reset(u32),
    /// The connection was ended, with this code.
    Goaway(u32),
    /// The connection was closed without a word.
    Closed,
}

/// A header list, names and values as bytes.
pub(crate) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// One HTTP/2 connection.
pub(crate) struct Frames {
    stream: TlsStream<TcpStream>,
}

impl Frames {
    /// To a control plane, without a proxy between.
    pub(crate) async fn straight(
        plane: &ControlPlane,
        credentials: Option<&Credentials>,
    ) -> Result<Self> {
        let address = plane.server().trim_start_matches("https://").parse()?;
        Self::connect(address, &plane.ca_pem()?, credentials).await
    }

    pub(crate) async fn connect(
        address: SocketAddr,
        ca_pem: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self> {
        let stream = connect(address, ca_pem, credentials, b"h2").await?;
        let mut frames = Self { stream };
        frames
            .stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await?;
        frames.send(SETTINGS, 0, 0, &[]).await?;
        Ok(frames)
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len())?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).await?;
        Ok(self.stream.flush().await?)
    }

    /// A header block on `stream`; `last`: nothing follows it.
    pub(crate) async fn headers(&mut self, stream: u32, fields: &Fields, last: bool) -> Result<()> {
        let mut block = Vec::new();
        for (name, value) in fields {
            // RFC 7541 section 6.2.2: a literal, not indexed, with a new name.
            block.push(0);
            string(name, &mut block);
            string(value, &mut block);
        }
        let flags = END_HEADERS | if last { END_STREAM } else { 0 };
        self.send(HEADERS, flags, stream, &block).await
    }

    /// Content on `stream`.
    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], last: bool) -> Result<()> {
        self.send(DATA, if last { END_STREAM } else { 0 }, stream, bytes)
            .await
    }

    /// How the request on `stream` ends.
    pub(crate) async fn end_of(&mut self, stream: u32) -> Result<End> {
        let reading = async {
            loop {
                let mut head = [0; 9];
                if self.stream.read_exact(&mut head).await.is_err() {
                    return Ok(End::Closed);
                }
                let [a, b, c, kind, flags, ..] = head;
                let length = u32::from_be_bytes([0, a, b, c]);
                let on = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                let mut payload = vec![0; length as usize];
                if self.stream.read_exact(&mut payload).await.is_err() {
                    return Ok(End::Closed);
                }
                let code = |at: usize| -> Result<u32> {
                    let bytes = payload.get(at..at + 4).context("a frame too short")?;
                    Ok(u32::from_be_bytes(bytes.try_into()?))
                };
                match kind {
                    SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await?,
                    PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await?,
                    HEADERS | DATA if on == stream && flags & END_STREAM != 0 => {
                        return Ok(End::Answered);
                    }
                    RST_STREAM if on == stream => return Ok(End::Reset(code(0)?)),
                    // The server's announcement that it will take no more; what it has it ends.
                    GOAWAY if code(4)? == 0 => {}
                    GOAWAY => return Ok(End::Goaway(code(4)?)),
                    _ => {}
                }
            }
        };
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(end) => end,
            Err(_) => bail!("no end of stream {stream} within {PATIENCE:?}"),
        }
    }
}

/// RFC 7541 section 5.2, not Huffman-coded.
fn string(bytes: &[u8], block: &mut Vec<u8>) {
    match bytes.len() {
        short @ 0..127 => block.push(short as u8),
        long => {
            block.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                block.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            block.push(rest as u8);
        }
    }
    block.extend(bytes);
}
