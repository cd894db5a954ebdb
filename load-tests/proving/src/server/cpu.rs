//! The cores: processor sharing as Go's scheduler does it, in turns of 10 ms.
//!
//! A request is a number of *hops* (goroutines handing over to each other), each of which queues for a core behind
//! whatever is runnable; a LIST is one hop of its whole work. Sharing in turns and not in infinitely small pieces is
//! what makes the delay of a trivial call a sensor: on a real server one LIST per core costs a ping 15 ms.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// A turn on a core, µs.
pub const QUANTUM: u64 = 10_000;
/// Between two hops (network, another goroutine), µs.
const BETWEEN_HOPS: u64 = 50;
/// A cancelled request stops after at most this much more work, µs: the handler has to notice.
const NOTICE: u64 = 100_000;
/// Cores at most.
pub const MOST_CORES: usize = 256;

/// A request under way: place and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    place: u32,
    generation: u32,
}

/// What a request asks of the cores.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Core time, µs.
    pub time: u64,
    /// In how many hops.
    pub hops: u32,
    /// Wait for something that is not a core (etcd) after the first hop, µs.
    pub wait: u64,
}

#[derive(Clone, Copy, Debug)]
struct Task {
    owner: u64,
    generation: u32,
    hops: u32,
    per_hop: u64,
    left: u64,
    wait: u64,
    since: u64,
    begun: bool,
    alive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    TurnEnds { core: u16, slice: u32 },
    Runnable { place: u32, generation: u32 },
}

/// The cores of one server; see the module.
#[derive(Debug)]
pub struct Cpu {
    cores: usize,
    free: Vec<u16>,
    /// Cores taken away that are still busy do not come back.
    running: Vec<Option<Job>>,
    runnable: VecDeque<Job>,
    tasks: Vec<Task>,
    vacant: Vec<u32>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    /// Nobody runs before this.
    paused_until: u64,
    /// The pauses so far, for turns that were under way.
    pauses: Vec<(u64, u64)>,
    /// By core: when its turn began, and what of pauses was added to it.
    turns: Vec<(u64, u64)>,
    began: Vec<(u64, u64)>,
    spent: u64,
    alive: usize,
}

impl Cpu {
    /// So many idle cores.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        let cores = cores.clamp(1, MOST_CORES);
        Self {
            cores,
            free: (0..cores as u16).rev().collect(),
            running: vec![None; MOST_CORES],
            runnable: VecDeque::new(),
            tasks: Vec::new(),
            vacant: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            paused_until: 0,
            pauses: Vec::new(),
            turns: vec![(u64::MAX, 0); MOST_CORES],
            began: Vec::new(),
            spent: 0,
            alive: 0,
        }
    }

    /// How many cores there are.
    #[must_use]
    pub const fn cores(&self) -> usize {
        self.cores
    }

    /// Core time spent so far, µs.
    #[must_use]
    pub const fn spent(&self) -> u64 {
        self.spent
    }

    /// Requests under way, running or not.
    #[must_use]
    pub const fn under_way(&self) -> usize {
        self.alive
    }

    /// From now on so many; what runs on one taken away finishes its turn.
    pub fn set_cores(&mut self, cores: usize, now: u64) {
        self.cores = cores.clamp(1, MOST_CORES);
        self.free = (0..self.cores as u16)
            .rev()
            .filter(|core| self.running[usize::from(*core)].is_none())
            .collect();
        self.fill(now);
    }

    /// Everything under way is lost (a crash).
    pub fn lose_everything(&mut self) {
        for (place, task) in self.tasks.iter_mut().enumerate() {
            if task.alive {
                task.alive = false;
                task.generation = task.generation.wrapping_add(1);
                self.vacant.push(place as u32);
            }
        }
        self.alive = 0;
        self.runnable.clear();
    }

    /// Nobody runs for so long (stop-the-world, a stolen core, a frozen machine).
    pub fn pause(&mut self, now: u64, length: u64) {
        let until = now.max(self.paused_until) + length;
        self.pauses.push((now, length));
        self.paused_until = until;
    }

    /// A request arrives.
    pub fn start(&mut self, now: u64, owner: u64, work: Work) -> Job {
        let hops = work.hops.max(1);
        let per_hop = (work.time / u64::from(hops)).max(1);
        let place = self.vacant.pop().unwrap_or(self.tasks.len() as u32);
        let generation = self
            .tasks
            .get(place as usize)
            .map_or(0, |task| task.generation);
        let task = Task {
            owner,
            generation,
            hops,
            per_hop,
            left: per_hop,
            wait: work.wait,
            since: now,
            begun: false,
            alive: true,
        };
        if place as usize == self.tasks.len() {
            self.tasks.push(task);
        } else {
            self.tasks[place as usize] = task;
        }
        self.alive += 1;
        let job = Job { place, generation };
        self.runnable.push_back(job);
        self.fill(now);
        job
    }

    /// The client went away: the server stops soon.
    pub fn cancel(&mut self, job: Job) {
        if let Some(task) = self.task(job) {
            task.hops = 1;
            task.left = task.left.min(NOTICE);
        }
    }

    fn task(&mut self, job: Job) -> Option<&mut Task> {
        self.tasks
            .get_mut(job.place as usize)
            .filter(|task| task.alive && task.generation == job.generation)
    }

    /// When something happens next.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    /// Lets the next thing happen; the owner of a request that is thereby done.
    pub fn advance(&mut self) -> Option<u64> {
        let Reverse((now, _, event)) = self.events.pop()?;
        let mut done = None;
        match event {
            Event::Runnable { place, generation } => {
                let job = Job { place, generation };
                if self.task(job).is_some() {
                    self.runnable.push_back(job);
                }
            }
            Event::TurnEnds { core, slice } => {
                let overlapped = self.overlap(now, core);
                if overlapped > 0 {
                    self.schedule(now + overlapped, event);
                    return None;
                }
                if let Some(job) = self.running[usize::from(core)].take() {
                    self.spent += u64::from(slice);
                    done = self.after_turn(now, job, u64::from(slice));
                }
                self.turns[usize::from(core)].0 = u64::MAX;
                if usize::from(core) < self.cores {
                    self.free.push(core);
                }
            }
        }
        self.fill(now);
        done
    }

    /// How much of the turn that would end now was lost to pauses and not yet added to it.
    fn overlap(&mut self, now: u64, core: u16) -> u64 {
        if self.pauses.is_empty() {
            return 0;
        }
        // No turn lasts longer than the pauses in it and its own length.
        let oldest = self
            .turns
            .iter()
            .map(|(began, _)| *began)
            .min()
            .unwrap_or(now);
        self.pauses.retain(|(at, _)| *at >= oldest);
        let (began, added) = self.turns[usize::from(core)];
        let during = |at: u64| at >= began && at < now;
        let lost: u64 = self
            .pauses
            .iter()
            .filter(|(at, _)| during(*at))
            .map(|(_, length)| *length)
            .sum();
        self.turns[usize::from(core)].1 = lost;
        lost - added
    }

    fn after_turn(&mut self, now: u64, job: Job, slice: u64) -> Option<u64> {
        let task = self.task(job)?;
        task.left = task.left.saturating_sub(slice);
        if task.left > 0 {
            self.runnable.push_back(job);
            return None;
        }
        task.hops -= 1;
        task.left = task.per_hop;
        if task.hops > 0 {
            let at = now + BETWEEN_HOPS + std::mem::take(&mut task.wait);
            let Job { place, generation } = job;
            self.schedule(at, Event::Runnable { place, generation });
            return None;
        }
        let wait = std::mem::take(&mut task.wait);
        if wait > 0 {
            // A single hop that has to wait does so before its last moment.
            task.hops = 1;
            task.left = 1;
            let Job { place, generation } = job;
            self.schedule(now + wait, Event::Runnable { place, generation });
            return None;
        }
        task.alive = false;
        task.generation = task.generation.wrapping_add(1);
        let owner = task.owner;
        self.alive -= 1;
        self.vacant.push(job.place);
        Some(owner)
    }

    fn fill(&mut self, now: u64) {
        while let Some(core) = self.free.pop() {
            let Some(job) = self.runnable.pop_front() else {
                self.free.push(core);
                return;
            };
            let start = now.max(self.paused_until);
            let Some(task) = self.task(job) else {
                self.free.push(core);
                continue;
            };
            let slice = task.left.min(QUANTUM);
            if !task.begun {
                task.begun = true;
                let began = (task.owner, start - task.since);
                self.began.push(began);
            }
            self.running[usize::from(core)] = Some(job);
            self.turns[usize::from(core)] = (start, 0);
            self.schedule(
                start + slice,
                Event::TurnEnds {
                    core,
                    slice: slice as u32,
                },
            );
        }
    }

    /// Owners whose first hop got a core since the last call, and how long each had waited for it, µs.
    pub fn began(&mut self) -> std::vec::Drain<'_, (u64, u64)> {
        self.began.drain(..)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn work(ms: u64, hops: u32) -> Work {
        Work {
            time: ms * MS,
            hops,
            wait: 0,
        }
    }

    /// Runs until nothing is left; who ended when.
    fn run(cpu: &mut Cpu) -> Vec<(u64, u64)> {
        let mut done = Vec::new();
        while let Some(at) = cpu.next() {
            if let Some(owner) = cpu.advance() {
                done.push((owner, at));
            }
        }
        done
    }

    #[test]
    fn work_is_conserved_whatever_the_number_of_cores_and_hops() {
        for cores in [1, 3, 16] {
            let mut cpu = Cpu::new(cores);
            let mut ended = 0;
            for owner in 0..100 {
                let at = owner * 333;
                while cpu.next().is_some_and(|next| next <= at) {
                    ended += usize::from(cpu.advance().is_some());
                }
                cpu.start(at, owner, work(1 + owner % 50, 1 + (owner % 5) as u32));
            }
            let asked: u64 = (0..100)
                .map(|n| {
                    let hops = 1 + n % 5;
                    (1 + n % 50) * MS / hops * hops
                })
                .sum();
            assert_eq!(run(&mut cpu).len() + ended, 100);
            assert_eq!(cpu.spent(), asked);
            assert_eq!(cpu.under_way(), 0);
        }
    }

    #[test]
    fn equals_share_the_cores_equally() {
        let mut cpu = Cpu::new(2);
        for owner in 0..6 {
            cpu.start(0, owner, work(1_000, 1));
        }
        // Three times as many as cores: each takes three times as long, within a turn.
        for (owner, at) in run(&mut cpu) {
            assert!((2_960 * MS..=3_000 * MS).contains(&at), "{owner}: {at}");
        }
    }

    #[test]
    fn a_short_call_waits_a_turn_per_long_one_and_not_for_their_ends() {
        let mut cpu = Cpu::new(1);
        for owner in 0..10 {
            cpu.start(0, owner, work(10_000, 1));
        }
        cpu.start(MS, 99, work(1, 1));
        let at = run(&mut cpu)
            .iter()
            .find(|(owner, _)| *owner == 99)
            .map(|(_, at)| *at);
        assert_eq!(at, Some(101 * MS));
    }

    #[test]
    fn a_pause_delays_everything_by_its_length_and_loses_nothing() {
        let mut cpu = Cpu::new(2);
        cpu.start(0, 1, work(35, 1));
        cpu.start(0, 2, work(5, 1));
        while cpu.next().is_some_and(|at| at <= 12 * MS) {
            cpu.advance();
        }
        cpu.pause(12 * MS, 100 * MS);
        cpu.start(20 * MS, 3, work(1, 1));
        assert_eq!(run(&mut cpu), [(3, 113 * MS), (1, 135 * MS)]);
        assert_eq!(cpu.spent(), 41 * MS);
    }

    #[test]
    fn a_wait_for_etcd_uses_no_core() {
        let mut cpu = Cpu::new(1);
        for owner in 0..10 {
            cpu.start(
                0,
                owner,
                Work {
                    time: 2 * MS,
                    hops: 2,
                    wait: 50 * MS,
                },
            );
        }
        let last = run(&mut cpu).last().map(|(_, at)| *at);
        assert!(last < Some(75 * MS), "{last:?}");
        assert_eq!(cpu.spent(), 20 * MS);
    }

    #[test]
    fn a_cancelled_request_stops_soon_and_a_lost_core_finishes_its_turn() {
        let mut cpu = Cpu::new(2);
        let long = cpu.start(0, 1, work(60_000, 1));
        cpu.start(0, 2, work(20, 1));
        cpu.set_cores(1, 0);
        cpu.cancel(long);
        let done = run(&mut cpu);
        assert!(done.iter().all(|(_, at)| *at < 200 * MS), "{done:?}");
    }
}
