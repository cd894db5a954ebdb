//! The end of a connection, so that the last answer arrives.
//!
//! Closing a socket while something the client sent is still unread makes the kernel answer with a reset, and a reset may
//! destroy what the client has not read yet: the 429 it was to wait for, the 400 that says why, the GOAWAY. So we say that
//! nothing more comes (close_notify and FIN), read and throw away what is still under way, and close when the client has
//! closed too. All bounded: Go's net/http waits as long, `rstAvoidanceDelay`.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long the client gets to read its answer and to close.
pub(super) const TIME: Duration = Duration::from_millis(500);
/// So many bytes are read and thrown away; then we only wait.
pub(super) const BYTES: usize = 256 * 1024;
/// At a time.
const PORTION: usize = 8 * 1024;

/// What can still be read from when it is over, without making anything of it.
pub(super) trait Drain {
    /// Reads what came, as it came: nothing is decrypted for a client that is only being seen out.
    fn poll_drain(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>;
}

impl<T: AsyncRead + Unpin> Drain for tokio_rustls::server::TlsStream<T> {
    fn poll_drain(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().get_mut().0).poll_read(cx, buf)
    }
}

/// One connection's farewell.
#[derive(Debug)]
pub(super) struct Linger {
    until: Pin<Box<Sleep>>,
    left: usize,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Our side is being closed.
    Closing,
    /// What comes is thrown away.
    Draining,
    /// It sent too much: nothing is read any more.
    Waiting,
}

impl Linger {
    /// Its time begins now.
    pub(super) fn new() -> Self {
        Self {
            until: Box::pin(tokio::time::sleep(TIME)),
            left: BYTES,
            stage: Stage::Closing,
        }
    }

    /// Ready when the connection can be closed without harm, or when its time is up.
    pub(super) fn poll<T>(&mut self, mut io: Pin<&mut T>, cx: &mut Context<'_>) -> Poll<()>
    where
        T: AsyncWrite + Drain,
    {
        if self.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.stage == Stage::Closing {
            match io.as_mut().poll_shutdown(cx) {
                Poll::Pending => return Poll::Pending,
                // Broken already: nobody is there to read anything.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => self.stage = Stage::Draining,
            }
        }
        while self.stage == Stage::Draining {
            let mut portion = [std::mem::MaybeUninit::uninit(); PORTION];
            let mut buf = ReadBuf::uninit(&mut portion);
            match io.as_mut().poll_drain(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => match self.left.checked_sub(buf.filled().len()) {
                    Some(left) => self.left = left,
                    None => self.stage = Stage::Waiting,
                },
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
impl Drain for tokio::io::DuplexStream {
    fn poll_drain(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::Instant;

    async fn lingered(mut io: DuplexStream) -> Duration {
        let began = Instant::now();
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(Pin::new(&mut io), cx)).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_once_when_the_client_closes_too() {
        let (ours, mut theirs) = duplex(1024);
        theirs.write_all(b"unread").await.expect("room");
        let client = async move {
            // The end of ours is what it sees first, although it has not been read from.
            let mut answer = Vec::new();
            theirs.read_to_end(&mut answer).await.expect("an end");
            theirs.shutdown().await.expect("closed");
        };
        let (took, ()) = tokio::join!(lingered(ours), client);
        assert_eq!(took, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stays_is_left_after_half_a_second() {
        let (ours, _theirs) = duplex(1024);
        assert_eq!(lingered(ours).await, TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_on_sending_is_read_from_up_to_a_bound_and_left_in_time() {
        let (ours, mut theirs) = duplex(1024);
        let sent = tokio::spawn(async move {
            let mut sent = 0;
            while theirs.write_all(&[0; 512]).await.is_ok() {
                sent += 512;
            }
            sent
        });
        assert_eq!(lingered(ours).await, TIME);
        let sent = sent.await.expect("no panic");
        assert!((BYTES..=BYTES + 2 * PORTION).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_cannot_hold_our_end_open() {
        /// Its shutdown waits for ever, like that of a full socket.
        struct Full;
        impl AsyncWrite for Full {
            fn poll_write(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &[u8],
            ) -> Poll<io::Result<usize>> {
                Poll::Pending
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Pending
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        impl Drain for Full {
            fn poll_drain(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        let began = Instant::now();
        let mut linger = Linger::new();
        poll_fn(|cx| linger.poll(Pin::new(&mut Full), cx)).await;
        assert_eq!(began.elapsed(), TIME);
    }
}
