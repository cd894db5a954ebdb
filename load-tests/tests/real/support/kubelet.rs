//! As much of a kubelet as a tunnel needs: it says 101 and echoes.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use load_tests::control_plane::{ControlPlane, Who};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Authority;

/// A node on this machine.
#[derive(Debug)]
pub(crate) struct Kubelet {
    serving: JoinHandle<Result<()>>,
    /// How many bytes came through each tunnel that has ended.
    pub(crate) ended: mpsc::UnboundedReceiver<usize>,
}

impl Kubelet {
    /// Registers the node and serves it.
    pub(crate) async fn start(plane: &ControlPlane, node: &str) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let port = listener.local_addr()?.port();
        let client = plane.client(Who::SuperAdmin)?;
        let mut object =
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        let created = client.post("/api/v1/nodes", &object).await?;
        created.accept("creating the node", &[409])?;
        object["status"] = json!({
            "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
            "daemonEndpoints": { "kubeletEndpoint": { "Port": port } },
        });
        let path = format!("/api/v1/nodes/{node}/status");
        let published = client.patch(&path, &object).await?;
        published.accept("publishing its address", &[])?;

        // The server does not verify kubelets unless it is told to.
        let serving = Authority::new("kubelet")?.serving("kubelet")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(serving.cert_pem.as_bytes())?],
                PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes())?,
            )?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (end, ended) = mpsc::unbounded_channel();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await?;
                let (acceptor, end) = (acceptor.clone(), end.clone());
                tokio::spawn(async move {
                    if let Ok(bytes) = echo(acceptor, stream).await {
                        let _ = end.send(bytes);
                    }
                });
            }
        });
        Ok(Self { serving, ended })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Switches protocols, then echoes until the other side is done; says how much.
async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> Result<usize> {
    let mut stream = BufReader::new(acceptor.accept(stream).await?);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 && !line.ends_with("\r\n\r\n") {}
    line.contains("portForward")
        .then_some(())
        .context("not a port-forward")?;
    let agreed = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
                   Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n";
    stream.write_all(agreed).await?;
    stream.flush().await?;
    let mut total = 0;
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = stream.read(&mut buffer).await.unwrap_or_default();
        if read == 0 {
            return Ok(total);
        }
        total += read;
        stream.write_all(&buffer[..read]).await?;
        stream.flush().await?;
    }
}
