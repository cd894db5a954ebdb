//! Reading and writing kubeconfigs.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Auth, Credentials, Error, files};

/// What one kubeconfig says of its current cluster and user.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// `https://host:port`
    pub server: String,
    /// The name to verify the server by, if not the URL's host.
    pub server_name: Option<String>,
    /// The authority to verify it with, PEM.
    pub ca_pem: String,
    /// The user's credentials.
    pub auth: Auth,
}

/// Writes a kubeconfig for one cluster and one user. It is JSON, which is YAML
/// too; only its owner can read it.
///
/// # Errors
/// When the file cannot be written.
pub fn write_kubeconfig(
    path: &Path,
    server: &str,
    server_name: Option<&str>,
    ca_pem: &str,
    auth: &Auth,
) -> Result<(), Error> {
    let mut cluster = json!({
        "server": server,
        "certificate-authority-data": BASE64_STANDARD.encode(ca_pem),
    });
    if let (Some(name), Some(cluster)) = (server_name, cluster.as_object_mut()) {
        cluster.insert("tls-server-name".to_owned(), Value::from(name));
    }
    let user = match auth {
        Auth::Certificate(credentials) => json!({
            "client-certificate-data": BASE64_STANDARD.encode(&credentials.cert_pem),
            "client-key-data": BASE64_STANDARD.encode(&credentials.key_pem),
        }),
        Auth::Token(token) => json!({ "token": token }),
        Auth::Anonymous => json!({}),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "kubernetes", "cluster": cluster }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{
            "name": "user@kubernetes",
            "context": { "cluster": "kubernetes", "user": "user" },
        }],
        "current-context": "user@kubernetes",
    });
    files::write_private(path, &format!("{config:#}\n"))
}

impl Kubeconfig {
    /// Reads a kubeconfig with embedded credentials: those of this module, and
    /// kubeadm's. The first cluster and user count, whatever the context says.
    ///
    /// # Errors
    /// When it cannot be read, or has no cluster and user with data in it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let unusable = |problem: String| Error::Kubeconfig {
            path: path.to_owned(),
            problem,
        };
        let text = files::read(path)?;
        let file: FileFormat =
            serde_saphyr::from_str(&text).map_err(|error| unusable(error.to_string()))?;
        file.current().map_err(unusable)
    }
}

#[derive(Deserialize)]
struct FileFormat {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
}

impl FileFormat {
    fn current(self) -> Result<Kubeconfig, String> {
        let cluster = self.clusters.into_iter().next().ok_or("no clusters")?;
        let user = self.users.into_iter().next().ok_or("no users")?;
        let NamedCluster { cluster } = cluster;
        let NamedUser { user } = user;
        let auth = match (
            user.client_certificate_data,
            user.client_key_data,
            user.token,
        ) {
            (Some(certificate), Some(key), _) => Auth::Certificate(Credentials {
                cert_pem: decode("client-certificate-data", &certificate)?,
                key_pem: decode("client-key-data", &key)?,
            }),
            (_, _, Some(token)) => Auth::Token(token),
            _ => Auth::Anonymous,
        };
        Ok(Kubeconfig {
            server: cluster.server,
            server_name: cluster.tls_server_name,
            ca_pem: decode(
                "certificate-authority-data",
                &cluster.certificate_authority_data,
            )?,
            auth,
        })
    }
}

fn decode(field: &str, data: &str) -> Result<String, String> {
    let bytes = BASE64_STANDARD
        .decode(data.trim())
        .map_err(|error| format!("{field}: {error}"))?;
    String::from_utf8(bytes).map_err(|error| format!("{field}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let path = std::env::temp_dir().join(format!("spillway-kubeconfig-{}", std::process::id()));
        let written = Auth::Certificate(Credentials {
            cert_pem: "certificate".to_owned(),
            key_pem: "key".to_owned(),
        });
        for auth in [written, Auth::Token("t0ken".to_owned()), Auth::Anonymous] {
            write_kubeconfig(
                &path,
                "https://127.0.0.1:6443",
                Some("kubernetes"),
                "authority",
                &auth,
            )
            .expect("written");
            let read = Kubeconfig::read(&path).expect("readable");
            assert_eq!(read.server, "https://127.0.0.1:6443");
            assert_eq!(read.server_name.as_deref(), Some("kubernetes"));
            assert_eq!(read.ca_pem, "authority");
            assert_eq!(read.auth, auth);
        }
        std::fs::remove_file(&path).expect("the test's own file");
    }
}
