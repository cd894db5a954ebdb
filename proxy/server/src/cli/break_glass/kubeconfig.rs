//! The kubeconfig that is handed to a person: one cluster, one user, nothing outside the file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::super::admin_client::Failed;
use super::{failed, journal};

/// What it says. Certificates and keys as PEM.
pub(super) struct Kubeconfig {
    pub(super) server: String,
    pub(super) server_name: String,
    pub(super) server_ca: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) user: String,
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<Cluster>,
    users: Vec<User>,
}

#[derive(Deserialize)]
struct Cluster {
    cluster: ClusterData,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterData {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority_data: String,
}

#[derive(Deserialize)]
struct User {
    name: String,
    user: UserData,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct UserData {
    client_certificate_data: String,
    client_key_data: String,
}

impl Kubeconfig {
    /// Writes it, mode 0600; `-` is standard output.
    ///
    /// # Errors
    /// When it cannot be written, or is there.
    pub(super) fn write(&self, out: &Path) -> Result<(), Failed> {
        let text = self.text();
        if out == Path::new("-") {
            print!("{text}");
            return Ok(());
        }
        journal::write_new(out, &text, 0o600)
    }

    fn text(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let encoded = |text: &str| STANDARD.encode(text);
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: break-glass\ncontexts:\n- name: break-glass\n  context:\n    \
             cluster: reserved-lane\n    user: {user}\nclusters:\n- name: reserved-lane\n  cluster:\n    server: {server}\n    \
             tls-server-name: {name}\n    certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:\n    \
             client-certificate-data: {certificate}\n    client-key-data: {key}\n",
            user = quoted(&self.user),
            server = quoted(&self.server),
            name = quoted(&self.server_name),
            ca = encoded(&self.server_ca),
            certificate = encoded(&self.certificate),
            key = encoded(&self.key),
        )
    }

    /// Reads one of those written here.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(path: &Path) -> Result<Self, Failed> {
        let wrong = |problem: String| {
            failed(
                format!("{}: {problem}", path.display()),
                "give a kubeconfig of spillway break-glass issue",
            )
        };
        let text = std::fs::read_to_string(path).map_err(|problem| wrong(problem.to_string()))?;
        let file: File =
            serde_saphyr::from_str(&text).map_err(|problem| wrong(problem.to_string()))?;
        let (Some(cluster), Some(user)) = (
            file.clusters.into_iter().next(),
            file.users.into_iter().next(),
        ) else {
            return Err(wrong("it names no cluster or no user".to_owned()));
        };
        let decoded = |data: &str| {
            let bytes = STANDARD
                .decode(data)
                .map_err(|problem| wrong(problem.to_string()))?;
            String::from_utf8(bytes).map_err(|problem| wrong(problem.to_string()))
        };
        Ok(Self {
            server_name: cluster
                .cluster
                .tls_server_name
                .unwrap_or_else(|| "kubernetes".to_owned()),
            server_ca: decoded(&cluster.cluster.certificate_authority_data)?,
            server: cluster.cluster.server,
            certificate: decoded(&user.user.client_certificate_data)?,
            key: decoded(&user.user.client_key_data)?,
            user: user.name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let written = Kubeconfig {
            server: "https://192.0.2.1:7443".into(),
            server_name: "kubernetes".into(),
            server_ca: "ca".into(),
            certificate: "certificate".into(),
            key: "key".into(),
            user: "jane \"the\" doe: #1".into(),
        };
        let path = std::env::temp_dir().join(format!("spillway-kubeconfig-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        written.write(&path).expect("written");
        assert!(written.write(&path).is_err(), "never overwritten");
        let read = Kubeconfig::read(&path).expect("a kubeconfig");
        let _ = std::fs::remove_file(&path);
        assert_eq!(read.text(), written.text());
    }
}
