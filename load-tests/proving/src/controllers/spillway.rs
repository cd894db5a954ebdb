//! The real engine with its real cost model, asked as the proxy asks it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use proxy_core::admission::cost::{Model, Observation, Shape};
use proxy_core::admission::{
    Ask, Cost, Decision, Engine, LimitSettings, Offer, Outcome, Permit, Refusal, Settings, Signals,
    Ticket, Wake, retry_after,
};
use proxy_core::time::Time;

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};
use crate::slots::Beside;

/// Requests at once in the reserved lane; as the proxy's configuration has it.
const RESERVED: usize = 64;

/// Whether the bounds follow what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// They do.
    Real,
    /// They stay as they start.
    Frozen,
    /// They are as wide as they go.
    AlwaysMax,
    /// They are as narrow as they go.
    AlwaysMin,
}

impl Tuning {
    fn settings(self, cores: usize) -> Settings {
        let mut settings = Settings::default();
        // As the proxy does, which stands on the server's host.
        settings.limit.initial = LimitSettings::initial(u32::try_from(cores).unwrap_or(u32::MAX));
        let pinned = match self {
            Self::Real | Self::Frozen => return settings,
            Self::AlwaysMax => settings.limit.max,
            Self::AlwaysMin => settings.limit.min,
        };
        settings.limit.initial = pinned;
        settings.limit.min = pinned;
        if self == Self::AlwaysMax {
            settings.initial_breadth = pinned;
            settings.bytes = 1 << 50;
        } else {
            settings.limit.max = pinned;
        }
        settings
    }
}

type Inbox = Arc<Mutex<Vec<(u64, Decision)>>>;

/// Puts decisions where the simulation looks for them.
struct Waiter {
    id: u64,
    inbox: Inbox,
}

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        self.inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((self.id, decision));
    }
}

/// What is kept of a request.
struct Kept {
    shape: Shape,
    lease: bool,
    reserved: bool,
    sent: u64,
    permit: Option<Permit>,
    ticket: Option<Ticket>,
}

/// The engine as a controller.
pub struct Spillway {
    tuning: Tuning,
    engine: Engine<Waiter>,
    costs: Model,
    calm_since: Option<u64>,
    kept: Beside<Kept>,
    reserved: usize,
    inbox: Inbox,
    random: Rng,
    target: Duration,
}

impl Spillway {
    /// A new engine with the defaults for a server with so many cores.
    #[must_use]
    pub fn new(tuning: Tuning, cores: usize, seed: u64) -> Self {
        let settings = tuning.settings(cores);
        Self {
            tuning,
            target: settings.target,
            engine: Engine::new(settings, Time(0)),
            costs: Model::new(),
            calm_since: None,
            kept: Beside::default(),
            reserved: 0,
            inbox: Arc::default(),
            random: Rng::with_seed(seed ^ 0x5eed),
        }
    }

    fn told(&mut self, refusal: &Refusal, lease: bool, now: u64) -> Verdict {
        let most = if lease { 1 } else { retry_after::MAX_SECONDS };
        let seconds = self
            .engine
            .retry_after(refusal, self.random.u64(..), most, Time(now));
        Verdict::Refuse(Some(seconds))
    }

    /// What the engine has decided about those that waited.
    fn read_inbox(&mut self, now: u64, out: &mut Vec<Decided>) {
        loop {
            let decisions =
                std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner));
            if decisions.is_empty() {
                return;
            }
            for (id, decision) in decisions {
                let Some(kept) = self.kept.get_mut(id) else {
                    // It went away meanwhile: the permit is dropped, and gives its room back.
                    continue;
                };
                kept.ticket = None;
                match decision {
                    Decision::Admitted(permit) => {
                        kept.permit = Some(permit);
                        kept.sent = now;
                        out.push(Decided {
                            id,
                            verdict: Verdict::Start,
                        });
                    }
                    Decision::Shed(refusal) => {
                        let lease = kept.lease;
                        self.kept.remove(id);
                        let verdict = self.told(&refusal, lease, now);
                        out.push(Decided { id, verdict });
                    }
                }
            }
        }
    }
}

impl Controller for Spillway {
    fn offer(&mut self, arrival: &Arrival<'_>, now: u64, out: &mut Vec<Decided>) -> Verdict {
        let call = arrival.call;
        let estimate = self.costs.estimate(&call.shape);
        let ask = Ask {
            class: call.class,
            cost: Cost {
                work_us: (estimate.work_us as f64 * arrival.misjudged) as u64,
                bytes: (estimate.bytes as f64 * arrival.misjudged) as u64,
            },
            kind: call.kind,
            tenant: arrival.tenant,
            instance: arrival.instance,
            shape: call.shape_hash,
        };
        let (id, inbox) = (arrival.id, Arc::clone(&self.inbox));
        let offer = self.engine.offer(ask, Time(now), || Waiter { id, inbox });
        let mut kept = Kept {
            shape: call.shape,
            lease: call.lease,
            reserved: arrival.reserved,
            sent: now,
            permit: None,
            ticket: None,
        };
        let verdict = match offer {
            _ if arrival.reserved && self.reserved >= RESERVED => Verdict::Refuse(Some(1)),
            Offer::Admitted(permit) => {
                kept.permit = Some(permit);
                Verdict::Start
            }
            // Refused only at its own bound.
            Offer::Waiting(_) | Offer::Shed(_) if arrival.reserved => Verdict::Start,
            Offer::Shed(refusal) => self.told(&refusal, call.lease, now),
            Offer::Waiting(ticket) => {
                kept.ticket = Some(ticket);
                Verdict::Wait
            }
        };
        if !matches!(verdict, Verdict::Refuse(_)) {
            self.reserved += usize::from(arrival.reserved);
            self.kept.insert(id, kept);
        }
        self.read_inbox(now, out);
        verdict
    }

    fn rests(&mut self, id: u64, now: u64, out: &mut Vec<Decided>) {
        if let Some(permit) = self.kept.get_mut(id).and_then(|kept| kept.permit.as_mut()) {
            permit.rest(Time(now));
        }
        self.read_inbox(now, out);
    }

    fn ended(&mut self, id: u64, ending: Ending, seen: Seen, now: u64, out: &mut Vec<Decided>) {
        let Some(kept) = self.kept.remove(id) else {
            return;
        };
        self.reserved -= usize::from(kept.reserved);
        if ending == Ending::Served {
            let calm = self.calm_since.is_some_and(|since| since <= kept.sent);
            let service = Duration::from_micros(seen.service);
            self.costs.observe(
                &kept.shape,
                &Observation {
                    bytes: seen.bytes,
                    service,
                    calm,
                },
            );
        }
        if let Some(permit) = kept.permit {
            match ending {
                Ending::Served => permit.finish(Outcome::Served, Time(now)),
                Ending::Failed => permit.finish(Outcome::Failed, Time(now)),
                Ending::Cancelled => permit.cancel(Time(now)),
            }
        }
        self.read_inbox(now, out);
    }

    fn withdrawn(&mut self, id: u64, now: u64, out: &mut Vec<Decided>) {
        // Dropping the ticket withdraws.
        drop(self.kept.remove(id));
        self.read_inbox(now, out);
    }

    fn tick(&mut self, sensed: &Sensed, now: u64, out: &mut Vec<Decided>) {
        let mut probe = sensed.probe;
        if self.tuning != Tuning::Real {
            // Neither calm nor over the target: the bounds stay.
            probe = probe.with_excess(self.target * 3 / 4);
            (probe.blind, probe.down) = (false, false);
        }
        let calm = !probe.blind && !probe.down && probe.excess < self.target / 4;
        self.calm_since = calm.then(|| self.calm_since.unwrap_or(now));
        let failures = if self.tuning == Tuning::Real {
            sensed.connect_failures
        } else {
            0
        };
        let signals = Signals {
            connect_failures: failures,
            upstream_504: sensed.timeouts,
            ..Signals::of(probe)
        };
        self.engine.tick(&signals, Time(now));
        self.read_inbox(now, out);
    }

    fn limit(&self) -> f64 {
        // In whole slices of what may be outstanding, of both kinds.
        let view = self.engine.view(Time(0));
        (view.limit.ceiling + view.breadth.ceiling).as_secs_f64() * 1e3
    }
}
