//! Facebook's controlled delay with an adaptive LIFO ("Fail at Scale", 2015): while the queue has been empty within the last
//! 100 ms one may wait 100 ms, otherwise 5 ms, and the newest goes first. The number that run at once is set by hand.

use std::collections::VecDeque;

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

/// N, and M under a standing queue, µs.
const INTERVAL: u64 = 100_000;
const TARGET: u64 = 5_000;
const PER_CORE: u32 = 4;

/// See the module.
#[derive(Debug)]
pub struct Codel {
    limit: u32,
    running: u32,
    waiting: VecDeque<(u64, u64)>,
    empty: u64,
}

impl Codel {
    /// Four at once per core.
    #[must_use]
    pub fn new(cores: usize) -> Self {
        Self {
            limit: cores as u32 * PER_CORE,
            running: 0,
            waiting: VecDeque::new(),
            empty: 0,
        }
    }

    fn stands(&self, now: u64) -> bool {
        now > self.empty + INTERVAL
    }

    fn throw_out(&mut self, now: u64, out: &mut Vec<Decided>) {
        let patience = if self.stands(now) { TARGET } else { INTERVAL };
        while let Some((id, since)) = self.waiting.front().copied() {
            if now <= since + patience {
                break;
            }
            self.waiting.pop_front();
            out.push(Decided {
                id,
                verdict: Verdict::Refuse(Some(1)),
            });
        }
        if self.waiting.is_empty() {
            self.empty = now;
        }
    }
}

impl Controller for Codel {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, out: &mut Vec<Decided>) -> Verdict {
        self.throw_out(now, out);
        if self.running < self.limit {
            self.running += 1;
            return Verdict::Start;
        }
        self.waiting.push_back((arrival.id, now));
        Verdict::Wait
    }

    fn ended(&mut self, _: u64, _: Ending, _: Seen, now: u64, out: &mut Vec<Decided>) {
        self.running -= 1;
        self.throw_out(now, out);
        let next = if self.stands(now) {
            self.waiting.pop_back()
        } else {
            self.waiting.pop_front()
        };
        if let Some((id, _)) = next {
            self.running += 1;
            out.push(Decided {
                id,
                verdict: Verdict::Start,
            });
        }
    }

    fn withdrawn(&mut self, id: u64, _: u64, _: &mut Vec<Decided>) {
        self.waiting.retain(|(other, _)| *other != id);
    }

    fn tick(&mut self, _: &Sensed, now: u64, out: &mut Vec<Decided>) {
        self.throw_out(now, out);
    }

    fn limit(&self) -> f64 {
        f64::from(self.limit)
    }
}
