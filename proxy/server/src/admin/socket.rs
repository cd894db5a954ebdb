//! The unix socket of the commands: HTTP/1.1 and JSON, guarded by file permissions alone.
//!
//! It is made where nobody else can reach it, given its owner and mode, and only then moved to its place: at no moment is
//! it open to others. A socket that a process left behind, or a predecessor still serves, is replaced in that one step.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::commands::{self, Caller, Problem};
use crate::shared::Shared;

/// Connections served at once; the rest wait in the socket's queue.
const CONCURRENCY: usize = 16;
/// How long a request may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest body: a policy of the greatest length, as JSON may write it.
const MOST_BYTES: usize = 2 * config::MAX_TEXT;

/// A socket in its place.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: StdListener,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Makes the socket and replaces what is at its path, if that is a socket.
    ///
    /// # Errors
    /// With what could not be done, and where.
    pub(crate) fn bind(path: &Path, group: Option<&str>) -> io::Result<Self> {
        let say = |what: &str, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {what}: {error}", path.display()))
        };
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        if !folder.exists() {
            let made = DirBuilder::new().mode(0o755).recursive(true).create(folder);
            made.map_err(|error| say("its folder cannot be made", error))?;
        }
        use std::os::unix::fs::FileTypeExt as _;
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            let other = io::Error::other("something else is there; remove it or name another path");
            return Err(say("not replaced", other));
        }
        let private = folder.join(format!(".s{}", std::process::id()));
        let _ = fs::remove_dir_all(&private);
        DirBuilder::new()
            .mode(0o700)
            .create(&private)
            .map_err(|error| say("no place to make it", error))?;
        let made = Self::make(&private.join("s"), path, group);
        let _ = fs::remove_dir_all(&private);
        made.map_err(|error| say("cannot be made", error))
    }

    fn make(own: &Path, path: &Path, group: Option<&str>) -> io::Result<Self> {
        let listener = StdListener::bind(own)?;
        listener.set_nonblocking(true)?;
        if let Some(group) = group {
            chown(own, None, Some(group_id(group)?))?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(own, Permissions::from_mode(mode))?;
        let inode = fs::metadata(own)?.ino();
        fs::rename(own, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until `stop` turns true. Runs inside a `LocalSet`.
    ///
    /// # Errors
    /// When the socket cannot be used at all.
    pub(crate) async fn serve(
        self,
        shared: Arc<Shared>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(CONCURRENCY));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                next = next => next,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            let Ok((stream, _)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let shared = Arc::clone(&shared);
            tokio::task::spawn_local(async move {
                let _place = place;
                let _ = tokio::time::timeout(6 * TIMEOUT, connection(stream, shared)).await;
            });
        }
    }
}

impl Drop for AdminSocket {
    /// Takes the socket away, unless it is a successor's by now.
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The number of a group given by name or number.
fn group_id(group: &str) -> io::Result<u32> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = fs::read_to_string("/etc/group")?;
    let found = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.ok_or_else(|| io::Error::other(format!("admin.group: there is no group `{group}` here")))
}

async fn connection(stream: UnixStream, shared: Arc<Shared>) {
    let Ok(credentials) = stream.peer_cred() else {
        return;
    };
    let caller = Caller {
        uid: credentials.uid(),
        pid: credentials.pid(),
        console: None,
    };
    let service = service_fn(move |request| {
        let (shared, caller) = (Arc::clone(&shared), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&shared, &caller, request).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: &Shared,
    caller: &Caller,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let result = match head.method {
        Method::GET => commands::get(shared, path, head.uri.query().unwrap_or_default()),
        Method::POST => {
            let body = Limited::new(body, MOST_BYTES).collect();
            match tokio::time::timeout(TIMEOUT, body).await {
                Ok(Ok(body)) => commands::post(shared, caller, path, &body.to_bytes()),
                _ => Err(Problem::request("the request's body did not arrive")),
            }
        }
        _ => Err(Problem::request("only GET and POST")),
    };
    let (status, page) = match result {
        Ok(page) => (StatusCode::OK, page),
        Err(problem) => (
            problem.status,
            serde_json::json!({ "error": problem.error, "next": problem.next }),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(page.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("spillway-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_socket_is_its_owners_alone_and_replaces_one_left_behind() {
        let folder = folder("socket");
        let path = folder.join("admin.sock");
        let first = AdminSocket::bind(&path, None).expect("a socket");
        let mode = |path| fs::metadata(path).expect("a file").mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        let second = AdminSocket::bind(&path, None).expect("in its place");
        // The first goes, the second's socket stays.
        drop(first);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        let left: Vec<_> = fs::read_dir(&folder).expect("a folder").collect();
        assert_eq!(left.len(), 1, "{left:?}");
        drop(second);
        assert!(!path.exists());
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn what_is_no_socket_is_not_replaced() {
        let folder = folder("other");
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("admin.sock");
        fs::write(&path, "precious").expect("written");
        assert!(AdminSocket::bind(&path, None).is_err());
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn a_group_is_found_by_name_or_number_and_a_wrong_one_is_named() {
        assert_eq!(group_id("0").expect("a number"), 0);
        assert_eq!(group_id("root").expect("a name"), 0);
        let wrong = group_id("no-such-group").expect_err("none").to_string();
        assert!(wrong.contains("no-such-group"), "{wrong}");
    }
}
