//! Who asks.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use serde_json::json;

use crate::control_plane::{
    ApiClient, Auth, BoundPod, ControlPlane, Credentials, Kubeconfig, Subject, TokenOptions,
    Who as Kubeadm,
};

/// The node whose kubelet there is.
pub(super) const NODE: &str = "worker";
/// The tokens of `--token-auth-file`.
pub(super) const STATIC_TOKENS: &str =
    "statictoken0123456789,robot,robot-uid,\"robots,machines\"\n";
const BOOTSTRAP_TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");

/// Kinds of callers, by how they say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// A certificate of a user with several groups, who may edit.
    User,
    /// A certificate in `system:masters`.
    Masters,
    /// A kubelet's certificate.
    Node,
    /// A service account's token, bound to a pod on a node.
    Account,
    /// A token of a file of the server's.
    StaticToken,
    /// A bootstrap token.
    Bootstrap,
    /// Nobody.
    Anonymous,
    /// Somebody who may be others.
    Impersonator,
    /// A token nobody knows.
    BadToken,
    /// A certificate that was good once.
    Expired,
    /// A certificate of an authority nobody knows.
    Stranger,
    /// The same, and a good token with it.
    StrangerWithToken,
}

impl Who {
    pub(super) const ALL: [Self; 12] = [
        Self::User,
        Self::Masters,
        Self::Node,
        Self::Account,
        Self::StaticToken,
        Self::Bootstrap,
        Self::Anonymous,
        Self::Impersonator,
        Self::BadToken,
        Self::Expired,
        Self::Stranger,
        Self::StrangerWithToken,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Masters => "system:masters",
            Self::Node => "node",
            Self::Account => "service account",
            Self::StaticToken => "static token",
            Self::Bootstrap => "bootstrap token",
            Self::Anonymous => "anonymous",
            Self::Impersonator => "impersonating admin",
            Self::BadToken => "invalid token",
            Self::Expired => "expired certificate",
            Self::Stranger => "foreign certificate",
            Self::StrangerWithToken => "foreign certificate and a token",
        }
    }

    /// The server closes HTTP/2 connections of such callers, so each of their
    /// requests gets a connection of its own.
    pub(super) const fn loses_connections(self) -> bool {
        matches!(
            self,
            Self::Anonymous | Self::BadToken | Self::Expired | Self::Stranger
        )
    }
}

/// A caller's credentials.
#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    pub(super) certificate: Option<Credentials>,
    pub(super) token: Option<String>,
}

/// Everybody's credentials, made and given their rights on a new control plane.
pub(super) async fn everybody(plane: &ControlPlane) -> anyhow::Result<BTreeMap<Who, Shown>> {
    let hour = Duration::from_secs(3600);
    let certificate = |name: &str, groups: &[&str], validity| {
        plane
            .client_certificate(name, groups, validity)
            .map(|credentials| Shown {
                certificate: Some(credentials),
                token: None,
            })
    };
    let token = |token: String| Shown {
        certificate: None,
        token: Some(token),
    };
    for group in ["developers", "machines"] {
        let group = Subject::Group(group.to_owned());
        plane.bind_cluster_role(&group, "edit").await?;
    }
    let admin = plane.client(Kubeadm::SuperAdmin)?;
    bootstrap_token(&admin).await?;
    let bound = TokenOptions {
        pod: Some(BoundPod {
            name: "agent".to_owned(),
            node: Some(NODE.to_owned()),
        }),
        ..TokenOptions::default()
    };
    let account = plane
        .service_account_token("accounts", "agent", &bound)
        .await?;
    let agent = Subject::ServiceAccount {
        namespace: "accounts".to_owned(),
        name: "agent".to_owned(),
    };
    plane.bind_cluster_role(&agent, "view").await?;
    let masters = match Kubeconfig::read(&plane.kubeconfig(Kubeadm::SuperAdmin))?.auth {
        Auth::Certificate(credentials) => Shown {
            certificate: Some(credentials),
            token: None,
        },
        _ => anyhow::bail!("super-admin.conf holds no certificate"),
    };
    let stranger = Shown {
        certificate: Some(foreign_certificate()?),
        token: None,
    };
    let (id, secret) = BOOTSTRAP_TOKEN;
    Ok(BTreeMap::from([
        (
            Who::User,
            certificate("jane", &["developers", "operators", "odd group: ü"], hour)?,
        ),
        (Who::Masters, masters.clone()),
        (
            Who::Node,
            certificate(&format!("system:node:{NODE}"), &["system:nodes"], hour)?,
        ),
        (Who::Account, token(account.clone())),
        (
            Who::StaticToken,
            token(
                STATIC_TOKENS
                    .split(',')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            ),
        ),
        (Who::Bootstrap, token(format!("{id}.{secret}"))),
        (Who::Anonymous, Shown::default()),
        (Who::Impersonator, masters),
        (Who::BadToken, token("nobody-knows-this-one".to_owned())),
        (
            Who::Expired,
            certificate("jane", &["developers"], Duration::ZERO)?,
        ),
        (Who::Stranger, stranger.clone()),
        (
            Who::StrangerWithToken,
            Shown {
                token: Some(account),
                ..stranger
            },
        ),
    ]))
}

async fn bootstrap_token(admin: &ApiClient) -> anyhow::Result<()> {
    let (id, secret) = BOOTSTRAP_TOKEN;
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("bootstrap-token-{id}") },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id,
            "token-secret": secret,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:test",
        },
    });
    let created = admin
        .post("/api/v1/namespaces/kube-system/secrets", &secret)
        .await?;
    created.accept("creating a bootstrap token", &[409])?;
    Ok(())
}

/// A certificate that looks like a user's and is signed by itself.
fn foreign_certificate() -> anyhow::Result<Credentials> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "kubernetes-super-admin");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    Ok(Credentials {
        cert_pem: params.self_signed(&key).context("a certificate")?.pem(),
        key_pem: key.serialize_pem(),
    })
}
