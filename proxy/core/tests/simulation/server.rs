//! A model of a Go API server: cores that run goroutines in turn, 10 ms each.
//!
//! A request is a number of hops, each of which queues for a core behind whatever is
//! runnable; a LIST is one hop of its whole work. With two hops for a probe and five for
//! a small read this reproduces what was measured on a real server with one core: one
//! LIST gives the probe 15 ms and a small read 50, and both grow linearly from there.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// A slice of a core, µs.
const QUANTUM: u64 = 10_000;
/// Between two hops (network, another goroutine), µs.
const BETWEEN_HOPS: u64 = 50;

/// One running request, by a number of the caller's choice.
pub(crate) type Job = u64;

struct Task {
    hops: u32,
    work_per_hop: u64,
    left: u64,
}

/// The server.
pub(crate) struct Server {
    cores: usize,
    busy: Vec<Option<(Job, u64)>>,
    runnable: VecDeque<Job>,
    tasks: HashMap<Job, Task>,
    /// (when, what): a slice ends on a core, or a hop becomes runnable.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    /// Core time spent, µs.
    pub(crate) spent: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    SliceEnds(usize),
    Runnable(Job),
}

impl Server {
    pub(crate) fn new(cores: usize) -> Self {
        Self {
            cores,
            busy: vec![None; 64],
            runnable: VecDeque::new(),
            tasks: HashMap::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            spent: 0,
        }
    }

    /// From now on as many cores; what runs on one taken away finishes its slice.
    pub(crate) fn set_cores(&mut self, cores: usize) {
        self.cores = cores;
    }

    /// Everything under way is lost (a crash).
    pub(crate) fn lose_everything(&mut self) {
        self.tasks.clear();
        self.runnable.clear();
    }

    pub(crate) fn start(&mut self, now: u64, job: Job, work: u64, hops: u32) {
        let per_hop = (work / u64::from(hops)).max(1);
        self.tasks.insert(
            job,
            Task {
                hops,
                work_per_hop: per_hop,
                left: per_hop,
            },
        );
        self.runnable.push_back(job);
        self.fill(now);
    }

    /// The client went away: the server stops at the next opportunity.
    pub(crate) fn cancel(&mut self, job: Job) {
        self.tasks.remove(&job);
    }

    /// When something happens next.
    pub(crate) fn next(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Let the next thing happen; a job that is thereby done.
    pub(crate) fn advance(&mut self) -> Option<Job> {
        let Reverse((now, _, event)) = self.events.pop()?;
        let mut done = None;
        match event {
            Event::Runnable(job) => self.runnable.push_back(job),
            Event::SliceEnds(core) => {
                if let Some((job, slice)) = self.busy[core].take() {
                    self.spent += slice;
                    done = self.after_slice(now, job, slice);
                }
            }
        }
        self.fill(now);
        done
    }

    fn after_slice(&mut self, now: u64, job: Job, slice: u64) -> Option<Job> {
        let task = self.tasks.get_mut(&job)?;
        task.left -= slice;
        if task.left > 0 {
            self.runnable.push_back(job);
            return None;
        }
        task.hops -= 1;
        task.left = task.work_per_hop;
        if task.hops > 0 {
            self.schedule(now + BETWEEN_HOPS, Event::Runnable(job));
            return None;
        }
        self.tasks.remove(&job);
        Some(job)
    }

    fn fill(&mut self, now: u64) {
        for core in 0..self.cores {
            while self.busy[core].is_none() {
                let Some(job) = self.runnable.pop_front() else {
                    return;
                };
                let Some(task) = self.tasks.get(&job) else {
                    continue;
                };
                let slice = task.left.min(QUANTUM);
                self.busy[core] = Some((job, slice));
                self.schedule(now + slice, Event::SliceEnds(core));
            }
        }
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }
}
