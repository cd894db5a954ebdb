//! What clients do next, after `client-go`, the kubelet and the leader election library.

use super::{Event, SECOND, World};
use crate::population::Sends;

/// A kubelet renews its lease so often, and tries so often more after this pause when that fails.
const RENEW: u64 = 10 * SECOND;
const RETRIES: u32 = 5;
const RETRY_PAUSE: u64 = SECOND / 5;
/// Without a renewal for this long the node is taken for dead.
const NODE_GRACE: u64 = 40 * SECOND;
/// A leader tries so often, gives up its seat after this long without success, and is back after a restart.
const LEADER_RETRY: u64 = 2 * SECOND;
const LEADER_DEADLINE: u64 = 10 * SECOND;
const LEADER_RESTART: u64 = 8 * SECOND;
/// A reflector's back-off: first, and last; each is drawn from one to two times itself.
const FIRST_BACKOFF: u32 = 800_000;
const LAST_BACKOFF: u32 = 30_000_000;
/// After this long without a failure it begins anew.
const BACKOFF_RESET: u64 = 120 * SECOND;

/// An informer that knows nothing yet.
const UNLISTED: u32 = u32::MAX;

/// How a call ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Answered.
    Served,
    /// Refused for good, or the server was away.
    Failed,
    /// Not answered before it gave up.
    GaveUp,
}

/// What a client remembers.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientState {
    /// When it is next to act.
    due: u64,
    /// When it last succeeded.
    last: u64,
    tries: u32,
    /// Of a reflector, µs.
    backoff: u32,
    /// Of the server's memory that an informer last listed from.
    generation: u32,
    /// A call of it is under way, or it is to act at a known time.
    busy: bool,
    /// It has a watch.
    watching: bool,
}

impl ClientState {
    /// One that is to act at `due`, having listed from the server as it is or not.
    pub(super) const fn new(due: u64, listed: bool) -> Self {
        Self {
            due,
            last: due,
            tries: 0,
            backoff: FIRST_BACKOFF,
            generation: if listed { 0 } else { UNLISTED },
            busy: false,
            watching: true,
        }
    }
}

impl World {
    fn client(&mut self, population: u32, client: u32) -> Option<&mut ClientState> {
        self.clients
            .get_mut(population as usize)?
            .get_mut(client as usize)
    }

    /// It is a client's time to act.
    pub(super) fn client_acts(&mut self, population: u32, client: u32) {
        let who = &self.populations[population as usize];
        let (until, informs) = (who.until, matches!(who.sends, Sends::Informer { .. }));
        if self.now >= until {
            return;
        }
        let Some(state) = self.client(population, client) else {
            return;
        };
        state.busy = true;
        state.watching = false;
        // That the server has forgotten where it was, it learns only when it tries to watch.
        let lists = state.generation == UNLISTED;
        let due = if informs { self.now } else { state.due };
        self.begin(population, client, informs && !lists, due);
    }

    /// A call of a client ended.
    pub(super) fn client_goes_on(&mut self, population: u32, client: u32, watch: bool, end: End) {
        let who = &self.populations[population as usize];
        match who.sends {
            Sends::PerSecond(_) => {}
            Sends::Every(period) => self.again_in_rhythm(population, client, period),
            Sends::Again(pause) => {
                let pause = if end == End::Served {
                    pause
                } else {
                    pause.max(SECOND)
                };
                let jitter = self.random.u64(0..=pause / 5);
                self.wake(population, client, self.now + pause - pause / 10 + jitter);
            }
            Sends::Heartbeat => self.kubelet_goes_on(population, client, end),
            Sends::Leader(relist) => self.leader_goes_on(population, client, relist, end),
            Sends::Informer { .. } => self.informer_goes_on(population, client, watch, end),
        }
    }

    fn wake(&mut self, population: u32, client: u32, at: u64) {
        if let Some(state) = self.client(population, client) {
            state.due = at;
        }
        self.at(at, Event::Client { population, client });
    }

    /// Keeps to the rhythm whatever the last call took.
    fn again_in_rhythm(&mut self, population: u32, client: u32, period: u64) {
        let now = self.now;
        let Some(state) = self.client(population, client) else {
            return;
        };
        state.due = (state.due + period).max(now);
        let due = state.due;
        self.at(due, Event::Client { population, client });
    }

    fn kubelet_goes_on(&mut self, population: u32, client: u32, end: End) {
        let now = self.now;
        let Some(state) = self.client(population, client) else {
            return;
        };
        if end == End::Served {
            let lapsed = now.saturating_sub(state.last) > NODE_GRACE;
            state.last = now;
            state.tries = 0;
            self.lapse(population, lapsed);
            return self.again_in_rhythm(population, client, RENEW);
        }
        state.tries += 1;
        if state.tries <= RETRIES {
            // The call stays due when it was.
            self.at(now + RETRY_PAUSE, Event::Client { population, client });
        } else {
            state.tries = 0;
            self.again_in_rhythm(population, client, RENEW);
        }
    }

    fn leader_goes_on(&mut self, population: u32, client: u32, relist: Option<usize>, end: End) {
        let now = self.now;
        let Some(state) = self.client(population, client) else {
            return;
        };
        if end == End::Served {
            state.last = now;
            return self.again_in_rhythm(population, client, LEADER_RETRY);
        }
        if now.saturating_sub(state.last) < LEADER_DEADLINE {
            return self.wake(population, client, now + LEADER_RETRY);
        }
        state.last = now + LEADER_RESTART;
        self.lapse(population, true);
        self.wake(population, client, now + LEADER_RESTART);
        if let Some(relist) = relist {
            self.restart_informers(relist as u32, now + LEADER_RESTART);
        }
    }

    fn lapse(&mut self, population: u32, lapsed: bool) {
        if lapsed && self.counting {
            self.record.tallies[population as usize].lapses += 1;
        }
    }

    /// Those who have not succeeded to the end count, too.
    pub(super) fn count_lapses(&mut self) {
        for (population, who) in self.populations.iter().enumerate() {
            if !matches!(who.sends, Sends::Heartbeat) {
                continue;
            }
            let until = self.now;
            let lapsed = self.clients[population]
                .iter()
                .filter(|state| until.saturating_sub(state.last) > NODE_GRACE)
                .count();
            self.record.tallies[population].lapses += lapsed as u64;
        }
    }

    fn informer_goes_on(&mut self, population: u32, client: u32, watch: bool, end: End) {
        let (now, generation) = (self.now, self.generation);
        let Some(state) = self.client(population, client) else {
            return;
        };
        if end == End::Served && !watch {
            state.generation = generation;
            state.last = now;
            return self.begin(population, client, true, now);
        }
        if end == End::Served && state.generation == generation {
            state.last = now;
            state.busy = false;
            state.watching = true;
            return;
        }
        if end == End::Served {
            // "Too old resource version": it must list.
            return self.begin(population, client, false, now);
        }
        if now.saturating_sub(state.last) > BACKOFF_RESET {
            state.backoff = FIRST_BACKOFF;
        }
        let base = state.backoff;
        state.backoff = (base * 2).min(LAST_BACKOFF);
        let pause = u64::from(base) + self.random.u64(0..u64::from(base));
        self.wake(population, client, now + pause);
    }

    /// All watches break.
    pub(super) fn break_watches(&mut self) {
        for population in 0..self.populations.len() as u32 {
            if matches!(
                self.populations[population as usize].sends,
                Sends::Informer { .. }
            ) {
                for client in 0..self.clients[population as usize].len() as u32 {
                    self.break_watch(population, client, self.now);
                }
            }
        }
    }

    fn break_watch(&mut self, population: u32, client: u32, from: u64) {
        let pause = u64::from(FIRST_BACKOFF) + self.random.u64(0..u64::from(FIRST_BACKOFF));
        let Some(state) = self.client(population, client) else {
            return;
        };
        if !state.watching || state.busy || from < state.due {
            return;
        }
        state.watching = false;
        state.busy = true;
        self.wake(population, client, from + pause);
    }

    /// The process they belong to starts anew and has to list everything.
    fn restart_informers(&mut self, population: u32, at: u64) {
        for client in 0..self.clients[population as usize].len() as u32 {
            if let Some(state) = self.client(population, client) {
                state.generation = UNLISTED;
            }
            self.break_watch(population, client, at);
        }
    }
}
