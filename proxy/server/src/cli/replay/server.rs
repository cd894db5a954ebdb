//! A server of some cores that all running requests share evenly, and the delay its probe would see.
//!
//! Every request runs at the same pace, so in a time of its own, which passes at that pace, each ends at a moment known
//! from its start: one heap is enough, however many run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Go gives a goroutine this long at a time, µs.
const SLICE: u64 = 10_000;
/// Times that a probe queues on its way.
const HOPS: f64 = 2.0;

/// A number of the caller's choice.
pub(super) type Job = usize;

/// See the module.
#[derive(Debug)]
pub(super) struct Server {
    cores: f64,
    /// µs.
    now: u64,
    /// Its own time, µs of work each running request has had.
    pace: f64,
    /// By end in its own time (in nanoseconds), with what counts of it for the probe.
    running: BinaryHeap<Reverse<(u64, Job, u64)>>,
    /// Of all running, at most a slice each, µs.
    slices: u64,
    /// Work done, µs.
    pub(super) done: f64,
}

impl Server {
    pub(super) fn new(cores: f64, now: u64) -> Self {
        Self {
            cores,
            now,
            pace: 0.0,
            running: BinaryHeap::new(),
            slices: 0,
            done: 0.0,
        }
    }

    fn speed(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "not that many run")]
        let running = self.running.len() as f64;
        (self.cores / running.max(1.0)).min(1.0)
    }

    /// Starts a job of so much work (µs) now.
    pub(super) fn start(&mut self, job: Job, work: u64) {
        let slice = work.min(SLICE);
        self.slices += slice;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "nanoseconds of a log"
        )]
        let end = ((self.pace + work as f64) * 1e3) as u64;
        self.running.push(Reverse((end, job, slice)));
    }

    /// When the next job ends, if none is started meanwhile.
    pub(super) fn next(&self) -> Option<u64> {
        let Reverse((end, ..)) = self.running.peek()?;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds of a log"
        )]
        let left = ((*end as f64 / 1e3 - self.pace) / self.speed())
            .max(0.0)
            .ceil() as u64;
        Some(self.now + left)
    }

    /// Lets time pass until `now`, at most [`Self::next`].
    pub(super) fn pass(&mut self, now: u64) {
        #[allow(clippy::cast_precision_loss, reason = "microseconds of a log")]
        let step = now.saturating_sub(self.now) as f64 * self.speed();
        #[allow(clippy::cast_precision_loss, reason = "not that many run")]
        let running = self.running.len() as f64;
        self.done += step * running;
        self.pace += step;
        self.now = self.now.max(now);
    }

    /// The next job, to be called when it ends.
    pub(super) fn end(&mut self) -> Option<Job> {
        let Reverse((_, job, slice)) = self.running.pop()?;
        self.slices -= slice;
        if self.running.is_empty() {
            // Its own time may begin anew, and stays exact.
            self.pace = 0.0;
        }
        Some(job)
    }

    /// How much later than usual a trivial call is answered now: it queues behind a slice of everything that runs.
    pub(super) fn delay(&self) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "not that many run")]
        let running = self.running.len() as f64;
        if running <= self.cores {
            return Duration::ZERO;
        }
        #[allow(clippy::cast_precision_loss, reason = "microseconds")]
        let queued = self.slices as f64 * (1.0 - self.cores / running) / self.cores;
        Duration::from_secs_f64(queued * HOPS / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_share_the_cores_evenly() {
        let mut server = Server::new(2.0, 0);
        server.start(1, 1_000);
        server.start(2, 2_000);
        assert_eq!(
            (server.next(), server.delay()),
            (Some(1_000), Duration::ZERO)
        );
        // Four on two cores: half the pace.
        server.start(3, 4_000);
        server.start(4, 4_000);
        assert_eq!(server.next(), Some(2_000));
        server.pass(2_000);
        assert_eq!(server.end(), Some(1));
        // Job 2 has 1 ms left and runs at two thirds.
        assert_eq!(server.next(), Some(3_500));
        assert!(server.delay() > Duration::from_millis(1));
        for end in [2, 3, 4] {
            server.pass(server.next().expect("running"));
            assert_eq!(server.end(), Some(end));
        }
        assert_eq!(server.next(), None);
        assert!((server.done - 11_000.0).abs() < 10.0, "{}", server.done);
    }
}
