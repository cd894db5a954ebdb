//! HTTP/1.1 by hand over TLS, for requests no honest client makes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use load_tests::control_plane::{ControlPlane, Credentials, SERVER_NAME};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;

/// The address raw connections come from: not the one everything else does, so
/// that the two can be told apart.
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// One HTTP/1.1 connection.
pub(crate) struct Raw {
    stream: TlsStream<tokio::net::TcpStream>,
    unread: Vec<u8>,
}

/// An answer, its body decoded if it was chunked.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawAnswer {
    /// The body as JSON; `null` when it is something else.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl Raw {
    /// A connection to a control plane, without a proxy between.
    pub(crate) async fn straight(
        plane: &ControlPlane,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Self> {
        let address = plane.server().trim_start_matches("https://").parse()?;
        Self::connect(address, &plane.ca_pem()?, credentials).await
    }

    pub(crate) async fn connect(
        address: SocketAddr,
        ca_pem: &str,
        credentials: Option<&Credentials>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            stream: connect(address, ca_pem, credentials, b"http/1.1").await?,
            unread: Vec::new(),
        })
    }

    /// The certificate the other side showed.
    pub(crate) fn serving_certificate(&self) -> Option<Vec<u8>> {
        let chain = self.stream.get_ref().1.peer_certificates()?;
        Some(chain.first()?.to_vec())
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn ask(&mut self, request: &str) -> anyhow::Result<RawAnswer> {
        self.send(request.as_bytes()).await?;
        self.answer().await?.context("closed without an answer")
    }

    /// The next answer; `None` when the connection is closed instead.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<RawAnswer>> {
        let Some(end) = self.fill_until(|unread| find(unread, b"\r\n\r\n")).await? else {
            if self.unread.is_empty() {
                return Ok(None);
            }
            bail!("closed within an answer's head");
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status line: {head:?}"))?;
        let mut answer = RawAnswer {
            status,
            head,
            body: Vec::new(),
        };
        let chunked = answer
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        answer.body = if chunked {
            self.chunks().await?
        } else if let Some(length) = answer.header("content-length") {
            self.take(length.parse()?).await?
        } else {
            Vec::new()
        };
        Ok(Some(answer))
    }

    /// Exactly so many bytes.
    pub(crate) async fn take(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        self.fill_until(|unread| (unread.len() >= length).then_some(()))
            .await?
            .context("closed too early")?;
        Ok(self.unread.drain(..length).collect())
    }

    async fn chunks(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = self
                .fill_until(|unread| find(unread, b"\r\n"))
                .await?
                .context("closed within a chunk's size")?;
            let line: Vec<u8> = self.unread.drain(..end + 2).collect();
            let size = std::str::from_utf8(&line[..end])?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
            body.extend(self.take(size).await?);
            self.take(2).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    /// Reads until nothing came for `quiet`, or the other side has closed.
    pub(crate) async fn listen(&mut self, quiet: Duration) {
        loop {
            let reading = self.stream.read_buf(&mut self.unread);
            match tokio::time::timeout(quiet, reading).await {
                Ok(Ok(read)) if read > 0 => {}
                _ => return,
            }
        }
    }

    /// Says that nothing follows, and reads everything until the other side has
    /// closed too.
    pub(crate) async fn finish(mut self) -> anyhow::Result<Vec<u8>> {
        // It may have closed before.
        let _ = self.stream.shutdown().await;
        while self.fill().await? > 0 {}
        Ok(self.unread)
    }

    async fn fill_until<T>(
        &mut self,
        found: impl Fn(&[u8]) -> Option<T>,
    ) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(found) = found(&self.unread) {
                return Ok(Some(found));
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads more. Being cut off counts as the end: what matters is what came
    /// before.
    async fn fill(&mut self) -> anyhow::Result<usize> {
        let reading = self.stream.read_buf(&mut self.unread);
        let read = tokio::time::timeout(PATIENCE, reading).await;
        Ok(read
            .context("neither an answer nor an end")?
            .unwrap_or_default())
    }
}

/// TLS to `address`, for `protocol`.
pub(super) async fn connect(
    address: SocketAddr,
    ca_pem: &str,
    credentials: Option<&Credentials>,
    protocol: &[u8],
) -> anyhow::Result<TlsStream<tokio::net::TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => builder.with_client_auth_cert(
            CertificateDer::pem_slice_iter(credentials.cert_pem.as_bytes())
                .collect::<Result<_, _>>()?,
            PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes())?,
        )?,
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(CLIENT, 0))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(SERVER_NAME)?, stream)
        .await?)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
