//! HTTP/2 by hand, for clients that mean harm: frames as bytes, header blocks without compression.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{World, bounded};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// RST_STREAM, CANCEL.
pub const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// A frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of a GOAWAY.
    pub fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[4..8].try_into().expect("four bytes"))
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block, nothing compressed.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "short ones only");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// GET `path`, answered as `script` says, on `stream`.
pub fn get(stream: u32, path: &str, script: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "kubernetes"),
        (":path", path),
        ("x-script", script),
    ];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

/// One connection, its two directions apart so that neither waits for the other.
pub struct Frames {
    pub reader: Reader,
    pub writer: WriteHalf<TlsStream<TcpStream>>,
}

/// What comes from the proxy.
pub struct Reader(ReadHalf<TlsStream<TcpStream>>);

impl Frames {
    /// As jane, with `settings` (the payload of a SETTINGS frame).
    pub async fn connect(world: &World, settings: &[u8]) -> Self {
        let tls = world.pki.tls().certificate(&world.pki.user("jane", &[]));
        let stream = tls.connect(world.proxy.main(), "h2").await.expect("TLS");
        let (reader, mut writer) = tokio::io::split(stream);
        let mut begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        begin.extend(frame(SETTINGS, 0, 0, settings));
        writer.write_all(&begin).await.expect("sent");
        Self {
            reader: Reader(reader),
            writer,
        }
    }

    /// Writes; whether it could be.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok() && self.writer.flush().await.is_ok()
    }
}

impl Reader {
    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let reading = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            Some(Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]),
                payload,
            })
        };
        bounded("a frame", reading).await
    }

    /// Reads on until a frame that is `wanted`.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}
