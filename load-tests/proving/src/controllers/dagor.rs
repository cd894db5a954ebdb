//! DAGOR as published (Zhou et al., SoCC 2018; Algorithm 1 of arXiv v3): 20 ms of mean queueing time, windows of 1 s or
//! 2,000 requests, 5 % down, 1 % up, business levels and 128 user levels. Inside the server, with the server's own queueing
//! time for a signal, as at WeChat; without the help of upstream services, which clients of Kubernetes cannot give.

use proxy_core::hash::mix;

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};
use crate::measure::CLASSES;

const USERS: usize = 128;
const LEVELS: usize = CLASSES * USERS;
const WINDOW_US: u64 = 1_000_000;
const WINDOW_REQUESTS: u64 = 2_000;
const QUEUED_US: f64 = 20_000.0;
const ALPHA: f64 = 0.05;
const BETA: f64 = 0.01;
/// The hash changes every hour.
const ROTATION_US: u64 = 3_600_000_000;

/// See the module.
#[derive(Debug)]
pub struct Dagor {
    /// The least important level that is admitted.
    cursor: usize,
    arrivals: Vec<u64>,
    arrived: u64,
    admitted: u64,
    waited: u64,
    began: u64,
    since: u64,
}

impl Default for Dagor {
    fn default() -> Self {
        Self::new()
    }
}

impl Dagor {
    /// Admits everything.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cursor: LEVELS - 1,
            arrivals: vec![0; LEVELS],
            arrived: 0,
            admitted: 0,
            waited: 0,
            began: 0,
            since: 0,
        }
    }

    fn close_window(&mut self, now: u64) {
        let mean = if self.began > 0 {
            self.waited as f64 / self.began as f64
        } else {
            0.0
        };
        let admitted = self.admitted as f64;
        let mut sum = admitted;
        if mean > QUEUED_US {
            let want = (1.0 - ALPHA) * admitted;
            while sum > want && self.cursor > 0 {
                sum -= self.arrivals[self.cursor] as f64;
                self.cursor -= 1;
            }
        } else {
            let want = admitted + BETA * self.arrived as f64;
            while sum < want && self.cursor + 1 < LEVELS {
                self.cursor += 1;
                sum += self.arrivals[self.cursor] as f64;
            }
        }
        self.arrivals.fill(0);
        (self.arrived, self.admitted, self.waited, self.began) = (0, 0, 0, 0);
        self.since = now;
    }

    fn look(&mut self, now: u64) {
        if self.arrived >= WINDOW_REQUESTS || now >= self.since + WINDOW_US {
            self.close_window(now);
        }
    }
}

impl Controller for Dagor {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, _: &mut Vec<Decided>) -> Verdict {
        self.look(now);
        let user = mix(arrival.instance ^ (now / ROTATION_US)) as usize % USERS;
        let level = arrival.call.class.index().min(CLASSES - 1) * USERS + user;
        self.arrivals[level] += 1;
        self.arrived += 1;
        if level <= self.cursor {
            self.admitted += 1;
            Verdict::Start
        } else {
            Verdict::Refuse(Some(1))
        }
    }

    fn began(&mut self, _: u64, waited: u64, _: u64) {
        self.waited += waited;
        self.began += 1;
    }

    fn ended(&mut self, _: u64, _: Ending, _: Seen, _: u64, _: &mut Vec<Decided>) {}

    fn withdrawn(&mut self, _: u64, _: u64, _: &mut Vec<Decided>) {}

    fn tick(&mut self, _: &Sensed, now: u64, _: &mut Vec<Decided>) {
        self.look(now);
    }

    fn limit(&self) -> f64 {
        self.cursor as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(dagor: &mut Dagor, waited: u64) {
        for level in 0..LEVELS {
            dagor.arrivals[level] = 2;
            dagor.arrived += 2;
            dagor.admitted += if level <= dagor.cursor { 2 } else { 0 };
        }
        dagor.began(0, waited, 0);
        dagor.close_window(0);
    }

    #[test]
    fn the_cursor_falls_by_a_twentieth_of_what_was_admitted_and_rises_by_a_hundredth_of_what_arrived()
     {
        let mut dagor = Dagor::new();
        window(&mut dagor, 21_000);
        assert_eq!(dagor.cursor, LEVELS - 1 - 52, "5 % of 1,024 levels");
        window(&mut dagor, 19_000);
        assert_eq!(dagor.cursor, LEVELS - 1 - 52 + 11, "1 % of 1,024 levels");
    }
}
