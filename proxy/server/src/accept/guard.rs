//! What a client's connection is read and written through: it ends so that the last answer arrives, and it ends when the
//! client costs more than it may.
//!
//! hyper gives no way to send a GOAWAY of our own and none to see frames, so both happen here, below it. When a budget is
//! used up, what hyper reads is an error: every request of the connection is dropped at that instant. The socket itself
//! is left for the owner of the connection ([`Parting`]), who says why and sees the client out.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Instant;

use super::budget::{Abuse, Budget};
use super::frames::{Frame, Scanner};
use super::linger::{Drain, Linger, TIME};

/// ENHANCE_YOUR_CALM (RFC 9113 §7).
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A connection with a guard on it.
#[derive(Debug)]
pub(super) struct Guarded<T> {
    /// `None` once it was taken away.
    io: Option<T>,
    /// Of HTTP/2.
    watch: Option<Watch>,
    linger: Option<Linger>,
    parting: Parting<T>,
    tunnelled: Tunnelled,
}

/// What is known of both directions of an HTTP/2 connection.
#[derive(Debug)]
struct Watch {
    received: Scanner,
    sent: Scanner,
    budget: Budget,
    last_stream: u32,
}

impl Watch {
    fn new() -> Self {
        Self {
            received: Scanner::of_client(),
            sent: Scanner::of_server(),
            budget: Budget::new(Instant::now()),
            last_stream: 0,
        }
    }

    fn received(&mut self, bytes: &[u8]) -> Result<(), Abuse> {
        let mut verdict = Ok(());
        let (budget, last_stream) = (&mut self.budget, &mut self.last_stream);
        self.received.follow(bytes, |frame| {
            if frame.kind == Frame::HEADERS {
                *last_stream = frame.stream.max(*last_stream);
            }
            if verdict.is_ok() {
                verdict = budget.received(frame, Instant::now);
            }
        });
        verdict
    }

    fn sent(&mut self, bytes: &[u8]) {
        let budget = &mut self.budget;
        self.sent.follow(bytes, |frame| budget.sent(frame));
    }

    /// The frame that says why it ends here; `None` where no frame can begin, because the client does not read.
    fn goodbye(&self, abuse: Abuse) -> Option<Vec<u8>> {
        let why = abuse.name().as_bytes();
        let length = u8::try_from(8 + why.len()).ok()?;
        self.sent.is_between_frames().then(|| {
            let mut frame = vec![0, 0, length, Frame::GOAWAY, 0, 0, 0, 0, 0];
            frame.extend(self.last_stream.to_be_bytes());
            frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
            frame.extend(why);
            frame
        })
    }
}

/// Where a connection is left that was taken away from its client's requests. All of this stays on one thread; it is
/// only hyper's upgrades that want it to be `Send`.
#[derive(Debug)]
pub(super) struct Parting<T>(Arc<Mutex<Option<Parted<T>>>>);

impl<T> Parting<T> {
    /// What was left here.
    pub(super) fn take(&self) -> Option<Parted<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Set once a connection has become a tunnel: from then on closing our half says nothing about the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tunnelled(Arc<AtomicBool>);

impl Tunnelled {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection that is only to be ended.
#[derive(Debug)]
pub(super) struct Parted<T> {
    io: T,
    goodbye: Option<Vec<u8>>,
    /// Why.
    pub(super) abuse: Abuse,
}

impl<T: AsyncRead + AsyncWrite + Drain + Unpin> Parted<T> {
    /// Tells the client why and closes; within twice the time of a farewell.
    pub(super) async fn see_out(mut self) {
        if let Some(frame) = self.goodbye {
            let told = async {
                self.io.write_all(&frame).await?;
                self.io.flush().await
            };
            if !matches!(tokio::time::timeout(TIME, told).await, Ok(Ok(()))) {
                return;
            }
        }
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(Pin::new(&mut self.io), cx)).await;
    }
}

impl<T> Guarded<T> {
    /// Guards `io`; with an eye on its frames if it speaks HTTP/2.
    pub(super) fn new(io: T, http2: bool, tunnelled: Tunnelled) -> (Self, Parting<T>) {
        let left_at = Arc::new(Mutex::new(None));
        let guarded = Self {
            io: Some(io),
            watch: http2.then(Watch::new),
            linger: None,
            parting: Parting(Arc::clone(&left_at)),
            tunnelled,
        };
        (guarded, Parting(left_at))
    }

    fn part(&mut self, abuse: Abuse) -> io::Error {
        if let (Some(io), Some(watch)) = (self.io.take(), &self.watch) {
            let goodbye = watch.goodbye(abuse);
            let mut left_at = self
                .parting
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *left_at = Some(Parted { io, goodbye, abuse });
        }
        io::Error::other(abuse.name())
    }
}

impl<T: Unpin> Guarded<T> {
    fn io(&mut self) -> io::Result<Pin<&mut T>> {
        let io = self.io.as_mut().map(Pin::new);
        io.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.io()?.poll_read(cx, buf))?;
        if let Some(watch) = &mut self.watch
            && let Err(abuse) = watch.received(buf.filled().get(before..).unwrap_or_default())
        {
            buf.set_filled(before);
            return Poll::Ready(Err(self.part(abuse)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Drain + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(self.io()?.poll_write(cx, bytes))?;
        if let Some(watch) = &mut self.watch {
            watch.sent(bytes.get(..taken).unwrap_or_default());
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = ready!(self.io()?.poll_write_vectored(cx, slices))?;
        if let Some(watch) = &mut self.watch {
            let mut left = taken;
            for slice in slices {
                let part = left.min(slice.len());
                watch.sent(slice.get(..part).unwrap_or_default());
                left -= part;
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(io) = &mut this.io else {
            return Poll::Ready(Ok(()));
        };
        if this.tunnelled.0.load(Ordering::Relaxed) {
            return Pin::new(io).poll_shutdown(cx);
        }
        let linger = this.linger.get_or_insert_with(Linger::new);
        ready!(linger.poll(Pin::new(io), cx));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, duplex};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEADERS: [u8; 9] = [0, 0, 0, Frame::HEADERS, 5, 0, 0, 0, 9];
    const RESET: [u8; 13] = [0, 0, 4, Frame::RST_STREAM, 0, 0, 0, 0, 9, 0, 0, 0, 8];

    /// Reads until there is nothing more or it breaks.
    async fn read_all(guarded: &mut Guarded<tokio::io::DuplexStream>) -> io::Result<usize> {
        let mut all = Vec::new();
        guarded.read_to_end(&mut all).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_resets_too_often_is_told_so_and_seen_out() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (mut guarded, parting) = Guarded::new(ours, true, Tunnelled::default());
        theirs.write_all(PREFACE).await.expect("room");
        theirs.write_all(&HEADERS).await.expect("room");
        for _ in 0..1001 {
            theirs.write_all(&RESET).await.expect("room");
        }
        let error = read_all(&mut guarded).await.expect_err("too many");
        assert_eq!(error.to_string(), "resets");
        assert!(guarded.write_all(b"x").await.is_err(), "taken away");
        let parted = parting.take().expect("left here");
        assert_eq!(parted.abuse, Abuse::Resets);
        let client = async move {
            let mut said = Vec::new();
            theirs.read_to_end(&mut said).await.expect("an end");
            said
        };
        let ((), said) = tokio::join!(parted.see_out(), client);
        assert_eq!(said[..9], [0, 0, 14, Frame::GOAWAY, 0, 0, 0, 0, 0]);
        assert_eq!(said[9..17], [0, 0, 0, 9, 0, 0, 0, 0xb]);
        assert_eq!(&said[17..], b"resets");
    }

    #[tokio::test(start_paused = true)]
    async fn a_goodbye_never_stands_within_another_frame() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (mut guarded, parting) = Guarded::new(ours, true, Tunnelled::default());
        // A frame of 100 bytes of which 10 could be sent.
        guarded
            .write_all(&[0, 0, 100, Frame::DATA, 0, 0, 0, 0, 1])
            .await
            .expect("room");
        guarded.write_all(&[7; 10]).await.expect("room");
        theirs.write_all(PREFACE).await.expect("room");
        theirs.write_all(&RESET.repeat(1001)).await.expect("room");
        assert!(read_all(&mut guarded).await.is_err());
        let parted = parting.take().expect("left here");
        let client = async move {
            let mut said = Vec::new();
            theirs.read_to_end(&mut said).await.expect("an end");
            said
        };
        let ((), said) = tokio::join!(parted.see_out(), client);
        assert_eq!(said.len(), 19, "{said:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn http1_is_not_read_as_frames() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (mut guarded, parting) = Guarded::new(ours, false, Tunnelled::default());
        theirs.write_all(&RESET.repeat(5000)).await.expect("room");
        drop(theirs);
        assert_eq!(read_all(&mut guarded).await.expect("all"), 65_000);
        assert!(parting.take().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_waits_for_the_client_and_not_for_ever() {
        let (ours, theirs) = duplex(1024);
        let (mut guarded, _parting) = Guarded::new(ours, false, Tunnelled::default());
        let began = Instant::now();
        guarded.shutdown().await.expect("over");
        assert_eq!(began.elapsed(), TIME);
        drop(theirs);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_one_half_of_a_tunnel_loses_nothing_of_the_other() {
        let (ours, mut theirs) = duplex(1024);
        let tunnelled = Tunnelled::default();
        let (mut guarded, _parting) = Guarded::new(ours, false, tunnelled.clone());
        tunnelled.set();
        theirs.write_all(b"still typing").await.expect("room");
        guarded.shutdown().await.expect("half closed");
        drop(theirs);
        let mut all = String::new();
        guarded.read_to_string(&mut all).await.expect("all");
        assert_eq!(all, "still typing");
    }
}
