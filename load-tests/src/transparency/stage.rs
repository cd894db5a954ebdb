//! Where it is played: a control plane with an audit log, Spillway in front of
//! it, and what the calls are about.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use config::Config;
use proxy_server::run::{self, Running};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::fixtures;
use super::who::{self, Shown, Who};
use crate::control_plane::{
    ApiClient, ControlPlane, KeyAlgorithm, Options, SERVER_NAME, Who as Kubeadm,
};

/// Where the calls come from: not the address everything else comes from, so
/// that the two can be told apart.
pub(super) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// How often the server compacts its history, so that there soon is a continue
/// token that is too old.
const COMPACTION: &str = "15s";

/// A way to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Without a proxy between.
    Straight,
    /// Through Spillway.
    Proxied,
}

/// Everything that is running.
pub(super) struct Stage {
    // Stopped in this order.
    _proxy: Running,
    plane: ControlPlane,
    dir: TestDir,
    straight: SocketAddr,
    proxied: SocketAddr,
    authority: CertificateDer<'static>,
    everybody: BTreeMap<Who, Shown>,
    admin: ApiClient,
}

#[derive(Debug)]
struct TestDir(PathBuf);

impl Drop for TestDir {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Stage {
    /// Starts everything.
    pub(super) async fn start() -> Result<Self, StageError> {
        let dir = TestDir(
            std::env::temp_dir().join(format!("spillway-transparency-{}", std::process::id())),
        );
        fs::create_dir_all(&dir.0).context("a directory")?;
        let options = Options {
            extra_flags: flags(&dir.0)?,
            key_algorithm: KeyAlgorithm::EcdsaP256,
            fake_kubelet: Some(who::NODE.to_owned()),
            aggregated_api: true,
            ..Options::default()
        };
        let plane = tokio::task::spawn_blocking(|| ControlPlane::start(options))
            .await
            .context("starting")??;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::with_pki(plane.pki_dir());
        config.listen.main = vec![any];
        config.listen.reserved = vec![any];
        config.listen.admin = any;
        config.admin.socket = None;
        config.reserved.check.enabled = false;
        let straight = plane
            .server()
            .trim_start_matches("https://")
            .parse()
            .context("the control plane's address")?;
        config.upstream.address = straight;
        let proxy = run::start(config, None).context("starting Spillway")?;
        let proxied = *proxy.main().first().context("Spillway's address")?;
        let authority = CertificateDer::from_pem_slice(plane.ca_pem()?.as_bytes())
            .map_err(|error| anyhow::anyhow!("ca.crt: {error}"))?;
        let everybody = who::everybody(&plane).await?;
        let admin = plane.client(Kubeadm::SuperAdmin)?;
        fixtures::create(&plane, &admin).await?;
        // Rights and kinds reach the server by watches; an expired certificate
        // has to expire.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Self {
            _proxy: proxy,
            plane,
            dir,
            straight,
            proxied,
            authority,
            everybody,
            admin,
        })
    }

    /// What is in front of what.
    pub(super) fn server_version(&self) -> &str {
        self.plane.version()
    }

    /// The audit log so far.
    pub(super) fn audit_log(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.dir.0.join("audit.log")).context("the audit log")
    }

    /// The token a caller shows.
    pub(super) fn token(&self, who: Who) -> Option<&str> {
        self.everybody.get(&who)?.token.as_deref()
    }

    /// A new connection as `who`, of the HTTP version `alpn` says.
    pub(super) async fn connect(
        &self,
        way: Way,
        who: Who,
        alpn: &[u8],
    ) -> anyhow::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.authority.clone())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let shown = self.everybody.get(&who).context("nobody")?;
        let mut config = match &shown.certificate {
            Some(certificate) => {
                let chain = CertificateDer::pem_slice_iter(certificate.cert_pem.as_bytes())
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| anyhow::anyhow!("the certificate: {error}"))?;
                let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())
                    .map_err(|error| anyhow::anyhow!("the key: {error}"))?;
                builder.with_client_auth_cert(chain, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let address = match way {
            Way::Straight => self.straight,
            Way::Proxied => self.proxied,
        };
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(CLIENT, 0))?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME)?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?)
    }

    /// Makes a namespace to write to.
    pub(super) async fn create_namespace(&self, name: &str) -> anyhow::Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "made-for": "transparency" } },
        });
        let created = self.admin.post("/api/v1/namespaces", &namespace).await?;
        created.accept("creating a namespace", &[])?;
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" },
        });
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
        let created = self.admin.post(&path, &account).await?;
        created.accept("creating its account", &[])?;
        Ok(())
    }
}

/// Why there is no stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The control plane did not start; perhaps there is none here.
    #[error(transparent)]
    Plane(#[from] crate::control_plane::Error),
    /// Anything else.
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

fn flags(dir: &std::path::Path) -> anyhow::Result<Vec<String>> {
    let policy = dir.join("audit-policy.yaml");
    let tokens = dir.join("tokens.csv");
    fs::write(&policy, AUDIT_POLICY).context("the audit policy")?;
    fs::write(&tokens, who::STATIC_TOKENS).context("the static tokens")?;
    Ok(vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", dir.join("audit.log").display()),
        format!("--token-auth-file={}", tokens.display()),
        "--cors-allowed-origins=//console\\.example(:|$)".to_owned(),
        "--feature-gates=CBORServingAndStorage=true".to_owned(),
        format!("--etcd-compaction-interval={COMPACTION}"),
    ])
}

/// Everything, and what was written where it is small.
const AUDIT_POLICY: &str = "\
apiVersion: audit.k8s.io/v1
kind: Policy
rules:
- level: Metadata
  verbs: [get, list, watch]
- level: Metadata
  resources:
  - { group: '', resources: [secrets, serviceaccounts/token] }
  - { group: authentication.k8s.io, resources: [tokenreviews] }
- level: RequestResponse
  resources:
  - { group: '' }
  - { group: apps }
  - { group: coordination.k8s.io }
- level: Metadata
";
