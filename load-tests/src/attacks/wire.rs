//! Connections of which nothing is hidden, and the bytes of HTTP/2 frames: an attacker uses no library.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::control_plane::{Auth, ClientOptions, Protocol, tls_config};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// The payload of SETTINGS: streams begin with a window of nothing.
pub(super) const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];
/// The payload of SETTINGS: a window of one byte.
pub(super) const TINY_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 1];

/// No connection takes longer.
const LONGEST: Duration = Duration::from_secs(5);

/// Whom to attack, as whom.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    name: ServerName<'static>,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Target {
    pub(super) fn new(
        address: SocketAddr,
        server_name: &str,
        ca_pem: &str,
        auth: &Auth,
    ) -> anyhow::Result<Self> {
        let tls = |protocol| {
            let options = ClientOptions {
                server: format!("https://{address}"),
                server_name: server_name.to_owned(),
                ca_pem: ca_pem.to_owned(),
                auth: auth.clone(),
                protocol,
            };
            anyhow::Ok(TlsConnector::from(Arc::new(tls_config(&options)?)))
        };
        Ok(Self {
            address,
            name: ServerName::try_from(server_name.to_owned())?,
            http1: tls(Protocol::Http1)?,
            http2: tls(Protocol::Http2)?,
        })
    }

    /// TCP only.
    pub(super) async fn tcp(&self) -> anyhow::Result<TcpStream> {
        let connected = timeout(LONGEST, TcpStream::connect(self.address)).await;
        let stream = connected.context("no connection")??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn tls(&self, connector: &TlsConnector) -> anyhow::Result<TlsStream<TcpStream>> {
        let stream = self.tcp().await?;
        let connected = timeout(LONGEST, connector.connect(self.name.clone(), stream)).await;
        Ok(connected.context("no handshake")??)
    }

    /// HTTP/1.1 inside TLS, nothing sent.
    pub(super) async fn http1(&self) -> anyhow::Result<TlsStream<TcpStream>> {
        self.tls(&self.http1).await
    }

    /// HTTP/2 with its preface and a SETTINGS frame sent.
    pub(super) async fn http2(&self, settings: &[u8]) -> anyhow::Result<Connection> {
        let (reader, mut writer) = tokio::io::split(self.tls(&self.http2).await?);
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        begin.extend(frame(SETTINGS, 0, 0, settings));
        begin.extend(frame(SETTINGS, ACK, 0, &[]));
        // The connection's window is never what it waits for.
        begin.extend(frame(WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]));
        writer.write_all(&begin).await?;
        writer.flush().await?;
        Ok(Connection { reader, writer })
    }
}

/// An HTTP/2 connection, its two directions apart.
pub(super) struct Connection {
    pub(super) reader: ReadHalf<TlsStream<TcpStream>>,
    pub(super) writer: WriteHalf<TlsStream<TcpStream>>,
}

/// Reads frames and answers pings' absence with nothing, until the end; the code of the last GOAWAY.
pub(super) async fn read_to_end(mut reader: ReadHalf<TlsStream<TcpStream>>) -> Option<u32> {
    let mut code = None;
    let mut payload = Vec::new();
    loop {
        let mut head = [0; 9];
        if reader.read_exact(&mut head).await.is_err() {
            return code;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        payload.resize(length as usize, 0);
        if reader.read_exact(&mut payload).await.is_err() {
            return code;
        }
        if head[3] == GOAWAY
            && let Some(bytes) = payload.get(4..8).and_then(|bytes| bytes.try_into().ok())
        {
            code = Some(u32::from_be_bytes(bytes));
        }
    }
}

/// The bytes of a frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block, nothing compressed (RFC 7541 section 6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(name.as_bytes(), &mut block);
        string(value.as_bytes(), &mut block);
    }
    block
}

/// RFC 7541 section 5.2, not Huffman-coded.
pub(super) fn string(bytes: &[u8], block: &mut Vec<u8>) {
    if bytes.len() < 127 {
        block.push(bytes.len() as u8);
    } else {
        block.push(127);
        let mut rest = bytes.len() - 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend(bytes);
}

/// The head of a request for `path`.
pub(super) fn head(method: &str, path: &str) -> Vec<u8> {
    block(&[
        (":method", method),
        (":scheme", "https"),
        (":authority", "kubernetes"),
        (":path", path),
    ])
}

/// GET `path` on `stream`.
pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        stream,
        &head("GET", path),
    )
}
