//! How much a client may do on one HTTP/2 connection that costs us work and it next to nothing.
//!
//! Two budgets, each refilled as time goes by. **Resets**: a request that is opened and cancelled at once makes us read,
//! judge and forward it for nothing ("rapid reset", CVE-2023-44487). **Control frames**: PING and SETTINGS want an answer
//! each (CVE-2019-9512, -9515), and WINDOW_UPDATE, PRIORITY, DATA of a few bytes and unknown frames are work each
//! (CVE-2019-9511, -9513, -9518). Frames that we sent give room for the updates of a client that reads them, however
//! eagerly it says so.

use std::time::Duration;

use tokio::time::Instant;

use super::frames::Frame;

/// RST_STREAM frames at once: four times the streams a connection may have open, so a client whose calls all time out
/// together three times in a row is not taken for an attacker. client-go cancels a watch when an informer stops and a
/// call when its context ends; both are rare.
const RESETS: f64 = 1000.0;
/// And in the long run, per second.
const RESETS_PER_SECOND: f64 = 100.0;
/// Other frames without content, at once. Go pings every 30 s, and once per cancelled request.
const CONTROL: f64 = 2000.0;
/// And in the long run, per second.
const CONTROL_PER_SECOND: f64 = 200.0;
/// Room given for a frame of content that we sent: the updates of its stream's window and of the connection's.
const CREDIT: f64 = 2.0;
/// A frame of content smaller than this gives no room: it is what a window of a few bytes forces.
const CREDITED: u32 = 64;
/// A DATA frame smaller than this counts as without content, unless it is the last.
const SMALL: u32 = 256;

/// What a client did too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// Requests opened and cancelled.
    Resets,
    /// Frames without content.
    ControlFrames,
}

impl Abuse {
    /// The label in metrics, and what the client is told.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Resets => "resets",
            Self::ControlFrames => "control_frames",
        }
    }
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    most: f64,
    per_second: f64,
    as_of: Instant,
}

impl Bucket {
    fn full(most: f64, per_second: f64, now: Instant) -> Self {
        Self {
            left: most,
            most,
            per_second,
            as_of: now,
        }
    }

    /// Takes one out; false if there is none.
    fn take(&mut self, now: Instant) -> bool {
        let since: Duration = now.saturating_duration_since(self.as_of);
        self.as_of = now;
        self.add(since.as_secs_f64() * self.per_second);
        let there = self.left >= 1.0;
        if there {
            self.left -= 1.0;
        }
        there
    }

    fn add(&mut self, more: f64) {
        self.left = (self.left + more).min(self.most);
    }
}

/// The budgets of one connection.
#[derive(Debug)]
pub(super) struct Budget {
    resets: Bucket,
    control: Bucket,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            resets: Bucket::full(RESETS, RESETS_PER_SECOND, now),
            control: Bucket::full(CONTROL, CONTROL_PER_SECOND, now),
        }
    }

    /// The client sent `frame`. `now` is asked for only when it matters.
    ///
    /// # Errors
    /// What there was too much of.
    pub(super) fn received(
        &mut self,
        frame: Frame,
        now: impl FnOnce() -> Instant,
    ) -> Result<(), Abuse> {
        let (bucket, abuse) = match frame.kind {
            Frame::HEADERS | Frame::GOAWAY => return Ok(()),
            Frame::DATA if frame.length >= SMALL || frame.flags & Frame::END_STREAM != 0 => {
                return Ok(());
            }
            // Answers to what we asked.
            Frame::SETTINGS | Frame::PING if frame.flags & Frame::ACK != 0 => return Ok(()),
            Frame::RST_STREAM => (&mut self.resets, Abuse::Resets),
            _ => (&mut self.control, Abuse::ControlFrames),
        };
        bucket.take(now()).then_some(()).ok_or(abuse)
    }

    /// We sent `frame`.
    pub(super) fn sent(&mut self, frame: Frame) {
        match frame.kind {
            Frame::HEADERS => self.control.add(CREDIT),
            Frame::DATA if frame.length >= CREDITED => self.control.add(CREDIT),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, length: u32) -> Frame {
        Frame {
            length,
            kind,
            flags: 0,
            stream: 1,
        }
    }

    fn ack(kind: u8) -> Frame {
        Frame {
            flags: Frame::ACK,
            ..frame(kind, 0)
        }
    }

    /// How many of `frame` one after the other are taken, at most 10,000.
    fn taken(budget: &mut Budget, now: Instant, frame: Frame) -> usize {
        (0..10_000)
            .take_while(|_| budget.received(frame, || now).is_ok())
            .count()
    }

    #[test]
    fn bursts_are_bounded_and_refilled_with_time() {
        let now = Instant::now();
        for (kind, burst, per_second, abuse) in [
            (Frame::RST_STREAM, 1000, 100, Abuse::Resets),
            (Frame::PING, 2000, 200, Abuse::ControlFrames),
            (Frame::SETTINGS, 2000, 200, Abuse::ControlFrames),
            (WINDOW_UPDATE, 2000, 200, Abuse::ControlFrames),
            (0xfa, 2000, 200, Abuse::ControlFrames),
        ] {
            let mut budget = Budget::new(now);
            let frame = frame(kind, 8);
            assert_eq!(taken(&mut budget, now, frame), burst);
            assert_eq!(budget.received(frame, || now), Err(abuse));
            let later = now + Duration::from_secs(3);
            assert_eq!(taken(&mut budget, later, frame), 3 * per_second);
            let much_later = later + Duration::from_secs(3600);
            assert_eq!(taken(&mut budget, much_later, frame), burst);
        }
    }

    #[test]
    fn requests_answers_and_content_cost_nothing() {
        let mut budget = Budget::new(Instant::now());
        let last = Frame {
            flags: Frame::END_STREAM,
            ..frame(Frame::DATA, 0)
        };
        for frame in [
            frame(Frame::HEADERS, 100),
            frame(Frame::DATA, 16_384),
            last,
            ack(Frame::SETTINGS),
            ack(Frame::PING),
        ] {
            for _ in 0..100_000 {
                let timeless = || unreachable!("no need for the time");
                assert_eq!(budget.received(frame, timeless), Ok(()), "{frame:?}");
            }
        }
    }

    #[test]
    fn a_reader_that_says_so_after_every_frame_is_welcome() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        for _ in 0..100_000 {
            budget.sent(frame(Frame::DATA, 300));
            for _ in 0..2 {
                assert_eq!(budget.received(frame(WINDOW_UPDATE, 4), || now), Ok(()));
            }
        }
    }

    #[test]
    fn a_reader_that_takes_a_byte_at_a_time_is_not() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let updates = (0..10_000).take_while(|_| {
            budget.sent(frame(Frame::DATA, 1));
            budget.received(frame(WINDOW_UPDATE, 4), || now).is_ok()
        });
        assert_eq!(updates.count(), 2000);
    }
}
