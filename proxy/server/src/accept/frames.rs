//! Where HTTP/2 frames begin and end in a stream of bytes: their heads are looked at, nothing is kept or changed.

/// Bytes of a frame's head (RFC 9113 §4.1).
const HEAD: usize = 9;
/// Bytes of what a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: u32 = 24;

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// Bytes that follow.
    pub(super) length: u32,
    /// Its type; one of the constants here, or one we do not know.
    pub(super) kind: u8,
    /// Flags, of a meaning that depends on the type.
    pub(super) flags: u8,
    /// Which stream; 0 for the connection.
    pub(super) stream: u32,
}

impl Frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    /// The flag ACK of SETTINGS and PING, and END_STREAM of DATA and HEADERS.
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;

    fn read(head: &[u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = *head;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
        }
    }
}

/// Follows one direction of a connection.
#[derive(Debug)]
pub(super) struct Scanner {
    head: [u8; HEAD],
    have: usize,
    /// Bytes of the present frame that are still to come.
    skip: u32,
}

impl Scanner {
    /// What a client sends.
    pub(super) const fn of_client() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip: PREFACE,
        }
    }

    /// What a server sends.
    pub(super) const fn of_server() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            skip: 0,
        }
    }

    /// Follows so many bytes more; `seen` is told of every head that is complete.
    pub(super) fn follow(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let payload = bytes.len().min(self.skip as usize);
            bytes = bytes.get(payload..).unwrap_or_default();
            self.skip -= payload as u32;
            if self.skip > 0 {
                return;
            }
            let missing = self.head.get_mut(self.have..).unwrap_or_default();
            let taken = missing.len().min(bytes.len());
            for (place, byte) in missing.iter_mut().zip(bytes) {
                *place = *byte;
            }
            bytes = bytes.get(taken..).unwrap_or_default();
            self.have += taken;
            if self.have == HEAD {
                self.have = 0;
                let frame = Frame::read(&self.head);
                self.skip = frame.length;
                seen(frame);
            }
        }
    }

    /// Whether a new frame could begin here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(Frame::SETTINGS, 0, 0, &[0; 6]));
        bytes.extend(frame(Frame::DATA, 1, 5, &[3; 300]));
        bytes.extend(frame(Frame::DATA, 0, 7, &[]));
        bytes.extend(frame(Frame::RST_STREAM, 0, 0x7fff_ffff, &[0, 0, 0, 8]));
        let kinds = [
            (Frame::SETTINGS, 0, 0, 6),
            (Frame::DATA, 1, 5, 300),
            (Frame::DATA, 0, 7, 0),
            (Frame::RST_STREAM, 0, 0x7fff_ffff, 4),
        ];
        for cut in 1..bytes.len() {
            let mut scanner = Scanner::of_client();
            let mut found = Vec::new();
            for piece in bytes.chunks(cut) {
                scanner.follow(piece, |frame| {
                    found.push((frame.kind, frame.flags, frame.stream, frame.length));
                });
            }
            assert_eq!(found, kinds, "pieces of {cut}");
            assert!(scanner.is_between_frames());
        }
    }

    #[test]
    fn within_a_frame_no_other_can_begin() {
        let bytes = frame(Frame::DATA, 0, 1, &[0; 4]);
        for end in 1..bytes.len() {
            let mut scanner = Scanner::of_server();
            scanner.follow(&bytes[..end], |_| {});
            assert!(!scanner.is_between_frames(), "after {end} bytes");
        }
    }
}
