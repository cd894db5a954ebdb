//! Handing the listening sockets to a successor.
//!
//! A starting process connects to the unix socket of the running one and is sent its listening sockets (SCM_RIGHTS). Once
//! it serves them it says so, and only then does the old one stop accepting: if the new one fails to start, nothing has
//! happened. Both hold the same sockets, so no connection is ever in a queue that is closed.

use std::fs;
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tracing::{info, warn};

/// What comes with the sockets; another text is another protocol.
const HELLO: &[u8] = b"spillway handover 1\n";
/// The successor serves.
const SERVING: u8 = b'S';
/// The predecessor accepts nothing any more.
const DONE: u8 = b'D';

/// Sockets in one hand-over: two lanes of 16 addresses and the admin side.
const MOST_SOCKETS: usize = 33;

/// How long a successor may take from getting the sockets to serving them.
const START: Duration = Duration::from_secs(60);
/// How long the other side may take for everything else.
const ANSWER: Duration = Duration::from_secs(5);

/// Where sockets are offered to a successor.
#[derive(Debug)]
pub(crate) struct Offer {
    path: PathBuf,
    sockets: Vec<TcpListener>,
}

impl Offer {
    /// Of copies of `sockets` at `path`.
    ///
    /// # Errors
    /// When a descriptor cannot be copied.
    pub(crate) fn new<'a>(
        path: &Path,
        sockets: impl IntoIterator<Item = &'a TcpListener>,
    ) -> std::io::Result<Self> {
        let sockets = sockets.into_iter().map(TcpListener::try_clone);
        Ok(Self {
            path: path.to_owned(),
            sockets: sockets.collect::<Result<_, _>>()?,
        })
    }

    /// Waits for a successor until `stop` turns true. Returns the successor that now serves, if there was one.
    ///
    /// # Errors
    /// When the unix socket cannot be made.
    pub(crate) async fn serve(
        self,
        stop: &mut watch::Receiver<bool>,
    ) -> std::io::Result<Option<Successor>> {
        let listener = self.bind()?;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            };
            let handed = tokio::select! {
                handed = async { self.hand_to(accepted?.0).await } => handed,
                _ = stop.wait_for(|stop| *stop) => return Ok(None),
            };
            match handed {
                Ok(successor) => return Ok(Some(successor)),
                Err(problem) => {
                    warn!(%problem, "a process asked for the listening sockets and did not take over; going on");
                }
            }
        }
    }

    /// In place of a predecessor's, in one step: there is always a socket to connect to.
    fn bind(&self) -> std::io::Result<UnixListener> {
        let own = self
            .path
            .with_extension(format!("{}.new", std::process::id()));
        let _ = fs::remove_file(&own);
        let listener = UnixListener::bind(&own)?;
        fs::rename(&own, &self.path)?;
        Ok(listener)
    }

    async fn hand_to(&self, mut successor: UnixStream) -> std::io::Result<Successor> {
        let (uid, own) = (successor.peer_cred()?.uid(), rustix::process::geteuid());
        if uid != own.as_raw() && uid != 0 {
            return Err(std::io::Error::other(format!(
                "it belongs to user {uid} and not to {}",
                own.as_raw()
            )));
        }
        let exchange = async {
            successor
                .async_io(Interest::WRITABLE, || send(&successor, &self.sockets))
                .await?;
            info!("the listening sockets were sent to a successor");
            successor.read_u8().await
        };
        match in_time(START, exchange).await? {
            SERVING => Ok(Successor(successor)),
            other => Err(std::io::Error::other(format!("it said {other:#x}"))),
        }
    }
}

async fn in_time<T>(
    most: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<T> {
    tokio::time::timeout(most, work)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// A process that serves our sockets now.
#[derive(Debug)]
pub(crate) struct Successor(UnixStream);

impl Successor {
    /// Tells it that nothing is accepted here any more.
    pub(crate) async fn done(mut self) {
        let _ = in_time(ANSWER, self.0.write_u8(DONE)).await;
    }
}

/// Sockets of a process that goes on accepting on them until told that somebody else does.
#[derive(Debug)]
pub struct Predecessor(StdStream);

impl Predecessor {
    /// Asks the process that offers its sockets at `path`; `None` when there is none.
    ///
    /// # Errors
    /// When there is one and it does not give them.
    pub fn ask(path: &Path) -> std::io::Result<Option<(Self, Vec<TcpListener>)>> {
        let stream = match StdStream::connect(path) {
            Ok(stream) => stream,
            Err(error) => {
                return match error.kind() {
                    // Nobody has been here, or nobody is any more.
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                        Ok(None)
                    }
                    _ => Err(error),
                };
            }
        };
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let sockets = receive(&stream)?;
        Ok(Some((Self(stream), sockets)))
    }

    /// Says that its sockets are served here, and waits until it accepts nothing any more.
    ///
    /// # Errors
    /// When it does not confirm; it may then still accept.
    pub fn relieve(mut self) -> std::io::Result<()> {
        self.0.write_all(&[SERVING])?;
        let mut answer = [0];
        self.0.read_exact(&mut answer)?;
        Ok(())
    }
}

fn send(stream: &UnixStream, sockets: &[TcpListener]) -> std::io::Result<()> {
    let descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(std::io::Error::other("too many sockets for one hand-over"));
    }
    sendmsg(
        stream,
        &[IoSlice::new(HELLO)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

fn receive(stream: &StdStream) -> std::io::Result<Vec<TcpListener>> {
    let mut text = [0; HELLO.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes != HELLO.len() || text != *HELLO || descriptors.is_empty() {
        return Err(std::io::Error::other(
            "the process there speaks another protocol, or gave no sockets",
        ));
    }
    Ok(descriptors.into_iter().map(TcpListener::from).collect())
}
