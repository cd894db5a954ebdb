//! The simulated processor: cores, a run queue and a quantum.
//!
//! Pure: it is told the time and never asks for it. Work is served round-robin
//! in slices, so that everything runnable slows everything else down, as it
//! does on a server whose cores are saturated.
//!
//! # Calibration
//!
//! Go preempts after about 10 ms, and a request is not one goroutine's run: it
//! is read, authenticated, handled behind a timeout and written by different
//! goroutines, and each hand-over goes to the back of the run queue. With a
//! quantum of 10 ms a probe of 2 hops waits `(n − ½)·10 + n·10` ms behind `n`
//! lists on a core: 15 ms for one, 75 for four, 395 for twenty. A small read
//! of 6 hops: 55, 235 and 1195 ms. Measured on kube-apiserver 1.36: 15, 74 and
//! 414 ms for the probe, 54, 225 and 1206 ms for a small read.

use std::collections::{HashMap, VecDeque};

/// Microseconds on the scheduler's own clock.
pub(super) type Micros = u64;

/// One submitted piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct JobId(u64);

/// Work that ran to its end, or so far that its owner should bring more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) id: JobId,
    /// When the slice that did it ended; not later than the `now` of the call
    /// that reports it.
    pub(super) at: Micros,
    /// Nothing remains: the job is gone.
    pub(super) finished: bool,
}

#[derive(Debug)]
struct Job {
    id: JobId,
    remaining: Micros,
    slice: Micros,
    ready_at: Micros,
    /// Report once when no more than this remains.
    ahead: Option<Micros>,
}

#[derive(Debug)]
struct Core {
    /// End of the running slice, or the moment the core fell idle.
    until: Micros,
    running: Option<(Job, Micros)>,
}

/// The run queue and the cores it feeds.
#[derive(Debug)]
pub(super) struct RunQueue {
    quantum: Micros,
    cores: Vec<Core>,
    queue: VecDeque<Job>,
    /// Jobs to drop once the time has come. Holds only live jobs.
    cancelled: HashMap<JobId, Micros>,
    next_id: u64,
    used: Micros,
}

impl RunQueue {
    /// `cores` and `quantum` are at least 1.
    pub(super) fn new(cores: usize, quantum: Micros) -> Self {
        Self {
            quantum: quantum.max(1),
            cores: (0..cores.max(1))
                .map(|_| Core {
                    until: 0,
                    running: None,
                })
                .collect(),
            queue: VecDeque::new(),
            cancelled: HashMap::new(),
            next_id: 0,
            used: 0,
        }
    }

    /// Queues `work`, cut into `hops` slices or quanta, whichever is shorter.
    /// `since` may lie a little in the past: work that only just continued is
    /// not charged for the granularity of the timer that woke it. Call
    /// [`Self::advance`] first.
    pub(super) fn submit(&mut self, since: Micros, work: Micros, hops: u32) -> JobId {
        let id = JobId(self.next_id);
        self.next_id += 1;
        let work = work.max(1);
        self.queue.push_back(Job {
            id,
            remaining: work,
            slice: work.div_ceil(u64::from(hops.max(1))).min(self.quantum),
            ready_at: since,
            ahead: None,
        });
        self.fill();
        id
    }

    /// Adds work to a job that has not ended, which so keeps its place in the
    /// queue; `report` asks to be told once only `work` remains. False if the
    /// job is gone.
    pub(super) fn extend(&mut self, id: JobId, work: Micros, report: bool) -> bool {
        let queued = self.queue.iter_mut().find(|job| job.id == id);
        let job = queued.or_else(|| {
            self.cores
                .iter_mut()
                .filter_map(|core| core.running.as_mut().map(|(job, _)| job))
                .find(|job| job.id == id)
        });
        let Some(job) = job else { return false };
        job.remaining += work;
        job.slice = self.quantum;
        job.ahead = report.then_some(work);
        true
    }

    /// Takes a job back: it stops at the first slice boundary after `at`.
    pub(super) fn cancel(&mut self, id: JobId, at: Micros) {
        let live = self.queue.iter().any(|job| job.id == id)
            || self
                .cores
                .iter()
                .any(|core| core.running.as_ref().is_some_and(|(job, _)| job.id == id));
        if live {
            self.cancelled.insert(id, at);
        }
    }

    /// Runs everything that ends by `now`; returns what finished, in order.
    pub(super) fn advance(&mut self, now: Micros) -> Vec<Done> {
        let mut done = Vec::new();
        self.fill();
        while let Some(core) = self
            .cores
            .iter_mut()
            .filter(|core| core.running.is_some() && core.until <= now)
            .min_by_key(|core| core.until)
        {
            let at = core.until;
            if let Some((mut job, slice)) = core.running.take() {
                self.used += slice;
                job.remaining -= slice;
                job.ready_at = at;
                if job.remaining == 0 {
                    self.cancelled.remove(&job.id);
                    done.push(Done {
                        id: job.id,
                        at,
                        finished: true,
                    });
                } else {
                    if job.ahead.is_some_and(|ahead| job.remaining <= ahead) {
                        job.ahead = None;
                        done.push(Done {
                            id: job.id,
                            at,
                            finished: false,
                        });
                    }
                    self.queue.push_back(job);
                }
            }
            self.fill();
        }
        done
    }

    /// Puts queued jobs on idle cores.
    fn fill(&mut self) {
        while let Some(core) = self
            .cores
            .iter_mut()
            .filter(|core| core.running.is_none())
            .min_by_key(|core| core.until)
        {
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            let start = core.until.max(job.ready_at);
            if self.cancelled.get(&job.id).is_some_and(|&at| at <= start) {
                self.cancelled.remove(&job.id);
                continue;
            }
            let slice = job.slice.min(job.remaining);
            core.until = start + slice;
            core.running = Some((job, slice));
        }
    }

    /// When the next slice ends.
    pub(super) fn next_event(&self) -> Option<Micros> {
        self.cores
            .iter()
            .filter(|core| core.running.is_some())
            .map(|core| core.until)
            .min()
    }

    /// Jobs running or waiting.
    pub(super) fn runnable(&self) -> usize {
        self.queue.len()
            + self
                .cores
                .iter()
                .filter(|core| core.running.is_some())
                .count()
    }

    /// Simulated CPU time used so far.
    pub(super) fn used(&self) -> Micros {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Micros = 1000;

    /// Runs until `id` is done.
    fn finish(queue: &mut RunQueue, id: JobId) -> Micros {
        loop {
            let next = queue.next_event().expect("the job is still runnable");
            if let Some(done) = queue.advance(next).into_iter().find(|done| done.id == id) {
                return done.at;
            }
        }
    }

    /// Excess of a call of `hops` behind `lists` endless lists, averaged over
    /// its phase within a quantum.
    fn excess(lists: u32, hops: u32, work: Micros) -> u64 {
        let phases = 10;
        (0..phases)
            .map(|phase| {
                let mut queue = RunQueue::new(1, 10 * MS);
                for _ in 0..lists {
                    queue.submit(0, 1_000_000 * MS, 1);
                }
                let start = 500 * MS + phase * MS;
                queue.advance(start);
                let probe = queue.submit(start, work, hops);
                (finish(&mut queue, probe) - start - work) / MS
            })
            .sum::<u64>()
            / phases
    }

    #[test]
    fn waiting_behind_lists_is_what_was_measured_on_a_real_server() {
        // (lists, probe p50, small GET p50) in ms; a quarter is the spread of
        // the measurement itself.
        for (lists, probe, get) in [(1, 15, 54), (2, 30, 100), (4, 74, 225), (20, 414, 1206)] {
            let near = |have: u64, want: u64| have.abs_diff(want) <= want / 4 + 2;
            assert!(near(excess(lists, 2, 300), probe), "probe, {lists} lists");
            assert!(near(excess(lists, 6, 1000), get), "get, {lists} lists");
        }
        assert_eq!(excess(0, 6, 1000), 0);
    }

    #[test]
    fn cores_share_one_queue_and_never_idle_with_work_waiting() {
        let mut queue = RunQueue::new(2, 10 * MS);
        for _ in 0..4 {
            queue.submit(0, 100 * MS, 1);
        }
        assert_eq!(queue.advance(200 * MS).len(), 4);
        assert_eq!(queue.used(), 400 * MS);
        assert_eq!(queue.runnable(), 0);
    }

    #[test]
    fn late_wake_ups_lose_no_capacity() {
        let mut queue = RunQueue::new(1, 10 * MS);
        let mut since = 0;
        for round in 1..=10 {
            queue.submit(since, 10 * MS, 1);
            // The timer fires 0.9 ms late every time.
            since = queue.advance(round * 10 * MS + 900)[0].at;
        }
        assert_eq!(since, 100 * MS);
    }

    #[test]
    fn extended_work_keeps_its_turn() {
        let mut queue = RunQueue::new(1, 10 * MS);
        let list = queue.submit(0, 10 * MS, 1);
        assert!(queue.extend(list, 10 * MS, true));
        let probe = queue.submit(5 * MS, 300, 2);
        let reports = queue.advance(100 * MS);
        let have: Vec<_> = reports.iter().map(|d| (d.id, d.at, d.finished)).collect();
        assert_eq!(
            have,
            [
                (list, 10 * MS, false),
                (list, 20 * MS + 150, true),
                (probe, 20 * MS + 300, true),
            ]
        );
        assert!(!queue.extend(list, 10 * MS, true), "it has ended");
    }

    #[test]
    fn cancelled_work_leaves_at_a_slice_boundary() {
        let mut queue = RunQueue::new(1, 10 * MS);
        let gone = queue.submit(0, 1000 * MS, 1);
        queue.cancel(gone, 25 * MS);
        let next = queue.submit(0, 10 * MS, 1);
        assert_eq!(finish(&mut queue, next), 20 * MS);
        assert!(queue.advance(2000 * MS).is_empty());
        assert_eq!(queue.used(), 30 * MS, "10 of its own, 20 of the cancelled");
        assert_eq!(queue.runnable(), 0);
        queue.cancel(gone, 0);
        assert!(queue.cancelled.is_empty(), "nothing kept for the dead");
    }
}
