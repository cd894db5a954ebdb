//! HTTP/1.1 by hand: what exactly is sent, and what exactly came back.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::call::Read;
use super::observed::{End, Observed};

type Stream = TlsStream<TcpStream>;

/// The largest head and line that are read.
const MAX_HEAD: usize = 1 << 20;

/// A connection.
pub(super) struct Connection {
    input: Input<ReadHalf<Stream>>,
    output: WriteHalf<Stream>,
}

/// A request as it goes over the wire.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// Request line and headers, with the empty line.
    pub(super) head: Vec<u8>,
    /// Everything after it.
    pub(super) body: Vec<u8>,
    /// Whether the body waits for a `100 Continue`.
    pub(super) expects: bool,
    /// Whether the answer has no contents whatever its headers say.
    pub(super) is_head: bool,
}

impl Connection {
    pub(super) fn new(stream: Stream) -> Self {
        let (input, output) = tokio::io::split(stream);
        Self {
            input: Input {
                stream: input,
                unread: Vec::new(),
            },
            output,
        }
    }

    /// Sends a request and reads its answer; `started` is called when its head
    /// has come. Says whether the connection can be used again.
    pub(super) async fn ask(
        &mut self,
        wire: &Wire,
        read: &Read,
        started: impl FnOnce(),
    ) -> anyhow::Result<(Observed, bool)> {
        self.output.write_all(&wire.head).await?;
        self.output.flush().await?;
        let mut observed = Observed::default();
        let mut sent = wire.body.is_empty();
        if wire.expects {
            self.input.head(&mut observed).await?;
            if observed.status != 100 {
                return self.rest(observed, wire, read, false, started).await;
            }
        }
        // A server may answer before it has been told everything, and then stop
        // to listen: what it says counts, not that it does.
        {
            let Self { input, output } = self;
            let sending = async {
                if output.write_all(&wire.body).await.is_ok() {
                    let _ = output.flush().await;
                    sent = true;
                }
                std::future::pending::<()>().await
            };
            tokio::select! {
                () = sending => {}
                head = input.final_head(&mut observed) => head?,
            }
        }
        self.rest(observed, wire, read, sent, started).await
    }

    async fn rest(
        &mut self,
        mut observed: Observed,
        wire: &Wire,
        read: &Read,
        sent: bool,
        started: impl FnOnce(),
    ) -> anyhow::Result<(Observed, bool)> {
        started();
        if let (Read::Upgraded(question, length), 101) = (read, observed.status) {
            self.output.write_all(question).await?;
            self.output.flush().await?;
            observed.body = self.input.exactly(*length).await?.into();
            observed.end = End::Left;
            return Ok((observed, false));
        }
        let marker = match read {
            Read::Until(marker) => Some(marker.as_bytes()),
            Read::Whole | Read::Upgraded(..) => None,
        };
        let bodiless = wire.is_head
            || observed.status == 204
            || observed.status == 304
            || observed.status < 200;
        self.input.contents(&mut observed, bodiless, marker).await;
        let closes = observed
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
            || observed
                .status_line
                .as_deref()
                .is_some_and(|line| line.starts_with("HTTP/1.0"));
        let reusable = sent && !closes && observed.end == End::Complete;
        Ok((observed, reusable))
    }
}

/// The reading half.
struct Input<R> {
    stream: R,
    unread: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Input<R> {
    /// The head of the final answer, noting those before it.
    async fn final_head(&mut self, observed: &mut Observed) -> anyhow::Result<()> {
        loop {
            self.head(observed).await?;
            if observed.status >= 200 || observed.status == 101 {
                return Ok(());
            }
        }
    }

    async fn head(&mut self, observed: &mut Observed) -> anyhow::Result<()> {
        let end = self
            .find(b"\r\n\r\n")
            .await?
            .context("closed without an answer")?;
        let head: Vec<u8> = self.unread.drain(..end + 4).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default();
        observed.status = line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status line: {line:?}"))?;
        if observed.status < 200 && observed.status != 101 {
            observed.interim.push(observed.status);
        }
        observed.status_line = Some(line.to_owned());
        observed.headers = lines.filter_map(header).collect();
        Ok(())
    }

    /// Reads the contents into `observed`, until `marker` has come if there is
    /// one, and says there how that ended.
    async fn contents(&mut self, observed: &mut Observed, bodiless: bool, marker: Option<&[u8]>) {
        let mut body = Vec::new();
        let ended = self.body(observed, bodiless, marker, &mut body).await;
        observed.body = Bytes::from(body);
        observed.end = match ended {
            Ok(end) => end,
            Err(error) => End::Broken(error.to_string()),
        };
    }

    async fn body(
        &mut self,
        observed: &mut Observed,
        bodiless: bool,
        marker: Option<&[u8]>,
        body: &mut Vec<u8>,
    ) -> anyhow::Result<End> {
        let seen = |body: &[u8]| marker.is_some_and(|marker| contains(body, marker));
        if bodiless {
            return Ok(End::Complete);
        }
        if observed.header("transfer-encoding").is_some() {
            loop {
                let line = self.line().await?;
                let size = line.split(';').next().unwrap_or_default();
                let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
                if size == 0 {
                    break;
                }
                body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
                if seen(body) {
                    return Ok(End::Left);
                }
            }
            loop {
                let line = self.line().await?;
                if line.is_empty() {
                    return Ok(End::Complete);
                }
                observed.trailers.extend(header(&line));
            }
        }
        if let Some(length) = observed.header("content-length") {
            let length = length.parse().context("Content-Length")?;
            body.extend(self.exactly(length).await?);
            return Ok(End::Complete);
        }
        while self.fill().await? > 0 {}
        body.append(&mut self.unread);
        Ok(End::Complete)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let end = self.find(b"\r\n").await?.context("closed within a line")?;
        let line: Vec<u8> = self.unread.drain(..end + 2).collect();
        Ok(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    async fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.unread.len() < length {
            if self.fill().await? == 0 {
                bail!("closed too early");
            }
        }
        Ok(self.unread.drain(..length).collect())
    }

    async fn find(&mut self, wanted: &[u8]) -> anyhow::Result<Option<usize>> {
        loop {
            let found = self
                .unread
                .windows(wanted.len())
                .position(|window| window == wanted);
            if found.is_some() {
                return Ok(found);
            }
            if self.unread.len() > MAX_HEAD {
                bail!("a head or line of more than {MAX_HEAD} bytes");
            }
            if self.fill().await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Reads more. A connection that is cut is over: what matters is what came
    /// before.
    async fn fill(&mut self) -> anyhow::Result<usize> {
        self.unread.reserve(64 << 10);
        Ok(self
            .stream
            .read_buf(&mut self.unread)
            .await
            .unwrap_or_default())
    }
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_owned(), value.trim().to_owned()))
}

pub(super) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8], marker: Option<&[u8]>) -> Observed {
        let mut input = Input {
            stream: bytes,
            unread: Vec::new(),
        };
        let mut observed = Observed::default();
        input.final_head(&mut observed).await.expect("a head");
        input.contents(&mut observed, false, marker).await;
        observed
    }

    #[tokio::test]
    async fn chunks_trailers_and_interim_answers_are_read() {
        let seen = read(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
              3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nSum: 5\r\n\r\n",
            None,
        )
        .await;
        assert_eq!(seen.interim, [100]);
        assert_eq!(seen.status_line.as_deref(), Some("HTTP/1.1 200 OK"));
        assert_eq!(seen.body, "abcde");
        assert_eq!(seen.trailers, [("Sum".to_owned(), "5".to_owned())]);
        assert_eq!(seen.end, End::Complete);
    }

    #[tokio::test]
    async fn what_is_cut_off_is_not_complete() {
        let seen = read(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", None).await;
        assert!(matches!(seen.end, End::Broken(_)), "{seen:?}");
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        assert!(matches!(read(head, None).await.end, End::Broken(_)));
        assert_eq!(read(head, Some(b"bc")).await.end, End::Left);
    }
}
