//! The commands' way to the running process: HTTP over its unix socket. Says what to do when there is none.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{EX_DATAERR, EX_NOPERM, EX_UNAVAILABLE};

/// The process answers from memory; longer than this it is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer read.
const MOST_BYTES: usize = 16 << 20;

/// Why a command could not be carried out, and what to do next.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// No socket.
    #[error("no running spillway serves {path}: there is no such socket\n  \
             is it running here? `systemctl status spillway` or `crictl ps --name spillway`\n  \
             another socket (admin.socket in its configuration)? give it with --socket PATH or SPILLWAY_SOCKET", path = path.display())]
    NoSocket {
        /// Where it should be.
        path: PathBuf,
    },
    /// A socket that nobody serves.
    #[error("nobody serves {path} any more: the process that made it has ended\n  \
             start it (`systemctl start spillway`), and look why it ended: `journalctl -u spillway -n 50`", path = path.display())]
    Deserted {
        /// Where it is.
        path: PathBuf,
    },
    /// Its permissions.
    #[error("{path}: permission denied; the socket is its owner's, and of the group in admin.group\n  \
             run this with sudo, or as a member of that group", path = path.display())]
    Denied {
        /// Where it is.
        path: PathBuf,
    },
    /// It did not answer as it should.
    #[error("{path}: {problem}\n  the process may be stuck or of another version: `spillway --version`, `journalctl -u spillway -n 50`", path = path.display())]
    Broken {
        /// Where it is.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
    /// It said no.
    #[error("{error}{}", next.as_ref().map(|next| format!("\n  {next}")).unwrap_or_default())]
    Refused {
        /// Why.
        error: String,
        /// What to do.
        next: Option<String>,
    },
}

impl Failed {
    /// What the command exits with.
    pub(super) const fn exit_code(&self) -> u8 {
        match self {
            Self::NoSocket { .. } | Self::Deserted { .. } | Self::Broken { .. } => EX_UNAVAILABLE,
            Self::Denied { .. } => EX_NOPERM,
            Self::Refused { .. } => EX_DATAERR,
        }
    }
}

/// A running process, by its socket.
#[derive(Clone, Debug)]
pub(super) struct AdminClient {
    path: PathBuf,
}

impl AdminClient {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// A page.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failed> {
        self.call(Method::GET, target, Bytes::new())
    }

    /// A change.
    ///
    /// # Errors
    /// [`Failed`].
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
    ) -> Result<T, Failed> {
        let body = serde_json::to_vec(body).map_err(|problem| self.broken(problem))?;
        self.call(Method::POST, target, body.into())
    }

    fn broken(&self, problem: impl std::fmt::Display) -> Failed {
        Failed::Broken {
            path: self.path.clone(),
            problem: problem.to_string(),
        }
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, Failed> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|problem| self.broken(problem))?;
        let exchange = async {
            tokio::time::timeout(PATIENCE, self.exchange(method, target, body))
                .await
                .unwrap_or_else(|_| Err(self.broken(format!("no answer within {PATIENCE:?}"))))
        };
        let (status, body) = runtime.block_on(exchange)?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|problem| self.broken(problem));
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key| said.get(key).and_then(Value::as_str).map(str::to_owned);
        Err(Failed::Refused {
            error: text("error").unwrap_or_else(|| status.to_string()),
            next: text("next"),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Failed> {
        let stream = UnixStream::connect(&self.path).await;
        let stream = stream.map_err(|problem| match problem.kind() {
            ErrorKind::NotFound => Failed::NoSocket {
                path: self.path.clone(),
            },
            ErrorKind::ConnectionRefused => Failed::Deserted {
                path: self.path.clone(),
            },
            ErrorKind::PermissionDenied => Failed::Denied {
                path: self.path.clone(),
            },
            _ => self.broken(problem),
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|problem| self.broken(problem))?;
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, HeaderValue::from_static("spillway"))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(Full::new(body))
            .map_err(|problem| self.broken(problem))?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BYTES)
                .collect()
                .await;
            Ok::<_, hyper::Error>((status, body))
        };
        tokio::pin!(answer);
        tokio::pin!(connection);
        let (status, body) = tokio::select! {
            answered = &mut answer => answered,
            _ = &mut connection => answer.await,
        }
        .map_err(|problem| self.broken(problem))?;
        let body = body.map_err(|problem| self.broken(problem))?;
        Ok((status, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &Path) -> Failed {
        AdminClient::new(path)
            .get::<Value>("/status")
            .expect_err("nobody")
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let none = get(Path::new("/nonexistent/admin.sock"));
        assert!(matches!(none, Failed::NoSocket { .. }), "{none}");
        assert!(none.to_string().contains("--socket"));
        let path = std::env::temp_dir().join(format!("spillway-left-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let left = get(&path);
        assert!(matches!(left, Failed::Deserted { .. }), "{left}");
        assert_eq!(left.exit_code(), EX_UNAVAILABLE);
        let _ = std::fs::remove_file(&path);
    }
}
