//! A static limit: so many requests at once, whatever they are, and a short queue. With the number found by trying all of
//! them on the very load that is coming, it is the yardstick.

use std::collections::VecDeque;

use proxy_core::admission::Kind;

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

/// How long one waits, µs; as in the engine.
const SHORT_PATIENCE: u64 = 250_000;
const LONG_PATIENCE: u64 = 2_000_000;
/// How many wait.
const MOST_WAITING: usize = 2_000;

/// First come, first served, with places for a number of requests.
#[derive(Debug, Default)]
pub struct Places {
    waiting: VecDeque<(u64, u64)>,
    /// Running.
    pub running: u32,
}

impl Places {
    /// A request arrives and may wait until `until`.
    pub fn offer(&mut self, id: u64, until: u64, limit: u32, most: usize) -> Verdict {
        if self.running < limit {
            self.running += 1;
            Verdict::Start
        } else if self.waiting.len() < most {
            self.waiting.push_back((id, until));
            Verdict::Wait
        } else {
            Verdict::Refuse(Some(1))
        }
    }

    /// The next to start; those before it that have waited too long are refused.
    fn next(&mut self, now: u64, out: &mut Vec<Decided>) -> Option<u64> {
        while let Some((id, until)) = self.waiting.pop_front() {
            if until > now {
                return Some(id);
            }
            out.push(Decided {
                id,
                verdict: Verdict::Refuse(Some(1)),
            });
        }
        None
    }

    /// One ended, or the limit has changed: the next start.
    pub fn start_next(&mut self, limit: u32, now: u64, out: &mut Vec<Decided>) {
        while self.running < limit {
            let Some(id) = self.next(now, out) else {
                return;
            };
            self.running += 1;
            out.push(Decided {
                id,
                verdict: Verdict::Start,
            });
        }
    }

    /// Those that waited too long are refused, and the next start.
    pub fn fill(&mut self, limit: u32, now: u64, out: &mut Vec<Decided>) {
        self.waiting.retain(|(id, until)| {
            let waits = *until > now;
            if !waits {
                out.push(Decided {
                    id: *id,
                    verdict: Verdict::Refuse(Some(1)),
                });
            }
            waits
        });
        self.start_next(limit, now, out);
    }

    /// One that waited went away.
    pub fn withdrawn(&mut self, id: u64) {
        self.waiting.retain(|(other, _)| *other != id);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Limit {
    limit: u32,
    most_waiting: usize,
    places: Places,
}

impl Limit {
    /// So many at once; whether others may wait.
    #[must_use]
    pub fn new(limit: u32, waits: bool) -> Self {
        Self {
            limit,
            most_waiting: if waits { MOST_WAITING } else { 0 },
            places: Places::default(),
        }
    }
}

impl Controller for Limit {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, _: &mut Vec<Decided>) -> Verdict {
        let patience = if arrival.call.kind == Kind::Long {
            LONG_PATIENCE
        } else {
            SHORT_PATIENCE
        };
        self.places
            .offer(arrival.id, now + patience, self.limit, self.most_waiting)
    }

    fn ended(&mut self, _: u64, _: Ending, _: Seen, now: u64, out: &mut Vec<Decided>) {
        self.places.running = self.places.running.saturating_sub(1);
        self.places.start_next(self.limit, now, out);
    }

    fn withdrawn(&mut self, id: u64, _: u64, _: &mut Vec<Decided>) {
        self.places.withdrawn(id);
    }

    fn tick(&mut self, _: &Sensed, now: u64, out: &mut Vec<Decided>) {
        self.places.fill(self.limit, now, out);
    }

    fn limit(&self) -> f64 {
        f64::from(self.limit)
    }
}
