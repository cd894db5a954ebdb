//! Kubernetes' API Priority and Fairness with its default objects: 600 seats divided once and for all, a seat or up to ten
//! per request, and shuffle-sharded fair queues. Seats are not lent between levels here: the real thing does that every
//! ten seconds, from demand smoothed over five minutes.

use std::collections::VecDeque;

use proxy_core::hash::mix;

use crate::call::Flow;
use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};
use crate::slots::Beside;

/// A request waits at most this long, µs: a quarter of its minute.
const PATIENCE: u64 = 15_000_000;
const QUEUE_LENGTH: usize = 50;
const HAND: u64 = 6;
/// It refuses after authentication and all that comes before.
const REFUSAL_US: u64 = 100;
const MOST_RETRY_AFTER: u32 = 32;

/// (nominal seats, queues, most seats of one request).
const LEVELS: [(u32, usize, u32); 6] = [
    (98, 64, 15),
    (74, 64, 12),
    (25, 16, 4),
    (98, 128, 15),
    (245, 128, 37),
    (49, 128, 8),
];

const fn level(flow: Flow) -> Option<usize> {
    match flow {
        Flow::Exempt => None,
        Flow::NodeHigh => Some(0),
        Flow::System => Some(1),
        Flow::LeaderElection => Some(2),
        Flow::WorkloadHigh => Some(3),
        Flow::WorkloadLow => Some(4),
        Flow::GlobalDefault => Some(5),
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(u64, u32, u64)>,
    /// Virtual time at which what it was given is served.
    finish: u64,
}

#[derive(Debug)]
struct Level {
    queues: Vec<Queue>,
    seats: u32,
    most: u32,
    used: u32,
    virtual_time: u64,
    drops: u32,
    retry_after: u32,
    checked: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Apf {
    levels: Vec<Level>,
    /// Level and seats of what runs.
    running: Beside<(usize, u32)>,
}

impl Default for Apf {
    fn default() -> Self {
        Self::new()
    }
}

impl Apf {
    /// Idle.
    #[must_use]
    pub fn new() -> Self {
        let level = |(seats, queues, most): (u32, usize, u32)| Level {
            queues: (0..queues).map(|_| Queue::default()).collect(),
            seats,
            most,
            used: 0,
            virtual_time: 0,
            drops: 0,
            retry_after: 1,
            checked: 0,
        };
        Self {
            levels: LEVELS.into_iter().map(level).collect(),
            running: Beside::default(),
        }
    }

    fn dispatch(&mut self, level: usize, now: u64, out: &mut Vec<Decided>) {
        let Some(place) = self.levels.get_mut(level) else {
            return;
        };
        while let Some((id, seats)) = place.next(now, out) {
            place.used += seats;
            self.running.insert(id, (level, seats));
            out.push(Decided {
                id,
                verdict: Verdict::Start,
            });
        }
    }
}

impl Level {
    /// The shortest of the queues that a flow's hand holds.
    fn deal(&self, flow: u64) -> usize {
        (0..HAND)
            .map(|card| (mix(flow ^ mix(card)) % self.queues.len() as u64) as usize)
            .min_by_key(|queue| self.queues[*queue].waiting.len())
            .unwrap_or(0)
    }

    fn refuse(&mut self) -> Verdict {
        self.drops += 1;
        Verdict::Refuse(Some(self.retry_after))
    }

    /// The next that fits: the head of the queue whose turn it is.
    fn next(&mut self, now: u64, out: &mut Vec<Decided>) -> Option<(u64, u32)> {
        loop {
            let turn = self
                .queues
                .iter()
                .enumerate()
                .filter(|(_, queue)| !queue.waiting.is_empty())
                .min_by_key(|(_, queue)| queue.finish)
                .map(|(place, _)| place)?;
            let (id, seats, since) = self.queues[turn].waiting.front().copied()?;
            if now >= since + PATIENCE {
                self.queues[turn].waiting.pop_front();
                let verdict = self.refuse();
                out.push(Decided { id, verdict });
                continue;
            }
            if self.used + seats > self.seats {
                return None;
            }
            let queue = &mut self.queues[turn];
            queue.waiting.pop_front();
            self.virtual_time = self.virtual_time.max(queue.finish);
            queue.finish += u64::from(seats);
            return Some((id, seats));
        }
    }

    /// Doubles what it tells the refused while many are, and comes down by one otherwise.
    fn pace(&mut self, now: u64) {
        if now < self.checked + u64::from(self.retry_after) * 1_000_000 {
            return;
        }
        self.checked = now;
        if self.drops >= 3 * self.retry_after {
            self.retry_after = (self.retry_after * 2).min(MOST_RETRY_AFTER);
        } else if self.drops < self.retry_after {
            self.retry_after = (self.retry_after - 1).max(1);
        }
        self.drops = 0;
    }
}

impl Controller for Apf {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, out: &mut Vec<Decided>) -> Verdict {
        let Some(nth) = level(arrival.call.flow) else {
            return Verdict::Start;
        };
        let Some(level) = self.levels.get_mut(nth) else {
            return Verdict::Start;
        };
        let seats = arrival.call.seats.min(level.most);
        let queue = level.deal(arrival.tenant);
        if level.queues[queue].waiting.len() >= QUEUE_LENGTH {
            return level.refuse();
        }
        let virtual_time = level.virtual_time;
        let queue = &mut level.queues[queue];
        if queue.waiting.is_empty() {
            queue.finish = queue.finish.max(virtual_time);
        }
        queue.waiting.push_back((arrival.id, seats, now));
        self.dispatch(nth, now, out);
        Verdict::Wait
    }

    fn ended(&mut self, id: u64, _: Ending, _: Seen, now: u64, out: &mut Vec<Decided>) {
        if let Some((level, seats)) = self.running.remove(id) {
            if let Some(level) = self.levels.get_mut(level) {
                level.used -= seats;
            }
            self.dispatch(level, now, out);
        }
    }

    fn withdrawn(&mut self, id: u64, _: u64, _: &mut Vec<Decided>) {
        for queue in self.levels.iter_mut().flat_map(|level| &mut level.queues) {
            queue.waiting.retain(|(other, ..)| *other != id);
        }
    }

    fn tick(&mut self, _: &Sensed, now: u64, out: &mut Vec<Decided>) {
        for nth in 0..self.levels.len() {
            self.levels[nth].pace(now);
            self.dispatch(nth, now, out);
        }
    }

    fn limit(&self) -> f64 {
        LEVELS.iter().map(|(seats, ..)| f64::from(*seats)).sum()
    }

    fn is_proxy(&self) -> bool {
        false
    }

    fn refusal_work(&self) -> u64 {
        REFUSAL_US
    }
}
