//! An engine under test, everything it has handed out, and what must always hold.

use std::collections::HashSet;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::admission::engine::{Engine, Inner};
use crate::admission::gate::bit;
use crate::admission::ledger::NoRoom;
use crate::admission::probe::ProbeView;
use crate::admission::{
    Ask, ClassId, Cost, Decision, Kind, MAX_CLASSES, Offer, Permit, Settings, Signals, Ticket,
    Wake, slot,
};
use crate::time::Time;

pub(super) type Inbox = Arc<Mutex<Vec<(usize, Decision)>>>;

pub(super) struct Waiter {
    pub(super) id: usize,
    pub(super) inbox: Inbox,
}

impl Wake for Waiter {
    fn decide(self, decision: Decision) {
        self.inbox.lock().unwrap().push((self.id, decision));
    }
}

/// An engine and everything it has handed out.
pub(super) struct Bench {
    pub(super) engine: Engine<Waiter>,
    pub(super) now: Time,
    pub(super) inbox: Inbox,
    pub(super) permits: Vec<Permit>,
    pub(super) tickets: Vec<(usize, Ticket)>,
    pub(super) next: usize,
    pub(super) told: HashSet<usize>,
}

pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.queue.max_waiting = 5;
    settings.bytes = 100 << 20;
    settings
}

pub(super) fn ask(class: u8, kind: Kind, work_us: u64) -> Ask {
    let cost = Cost { work_us, bytes: 0 };
    Ask {
        class: ClassId(class),
        cost,
        kind,
        tenant: 1,
        instance: 1,
        shape: 0,
    }
}

pub(super) fn excess(ms: u64) -> Signals {
    Signals::of(ProbeView::calm().with_excess(Duration::from_millis(ms)))
}

impl Bench {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            engine: Engine::new(settings, Time(0)),
            now: Time(0),
            inbox: Arc::default(),
            permits: Vec::new(),
            tickets: Vec::new(),
            next: 0,
            told: HashSet::new(),
        }
    }

    /// Offer, and keep what comes of it.
    pub(super) fn offer(&mut self, ask: Ask) -> &'static str {
        self.next += 1;
        let (id, inbox) = (self.next, Arc::clone(&self.inbox));
        match self.engine.offer(ask, self.now, || Waiter { id, inbox }) {
            Offer::Admitted(permit) => {
                self.permits.push(permit);
                "admitted"
            }
            Offer::Waiting(ticket) => {
                self.tickets.push((id, ticket));
                self.read();
                if self.told.contains(&id) {
                    "admitted"
                } else {
                    "waiting"
                }
            }
            Offer::Shed(_) => "shed",
        }
    }

    pub(super) fn read(&mut self) {
        let decisions = std::mem::take(&mut *self.inbox.lock().unwrap());
        for (id, decision) in decisions {
            assert!(self.told.insert(id), "told twice");
            if let Some(known) = self.tickets.iter().position(|(other, _)| *other == id) {
                drop(self.tickets.swap_remove(known));
            }
            if let Decision::Admitted(permit) = decision {
                self.permits.push(permit);
            }
        }
    }

    pub(super) fn tick(&mut self, ms: u64, signals: &Signals) {
        self.now += Duration::from_millis(ms);
        self.engine.tick(signals, self.now);
        self.read();
    }

    pub(super) fn inner(&self) -> &Inner<Waiter> {
        &self.engine.inner
    }

    /// What is held is what the permits and the lingering seats say, to the microsecond.
    pub(super) fn assert_conserved(&self) {
        let mut work = [[0_u64; MAX_CLASSES]; 2];
        let mut running = work;
        let mut bytes = 0;
        let desk = self.inner().desk();
        let lingering = desk
            .lingering()
            .map(|seat| (seat.kind, seat.class, seat.charged));
        let permits = self
            .permits
            .iter()
            .map(|permit| (permit.kind(), permit.class(), permit.charged()));
        for (kind, class, charged) in lingering.chain(permits) {
            if let Some(charged) = charged {
                work[kind.index()][slot(class)] += charged.held_us();
                running[kind.index()][slot(class)] += 1;
                bytes += charged.counted_bytes();
            }
        }
        for kind in Kind::BOTH {
            for class in 0..MAX_CLASSES {
                let held = self.inner().front.ledgers[kind.index()].held(class);
                assert_eq!(held.work(), work[kind.index()][class], "{kind:?} {class}");
                assert_eq!(
                    held.running(),
                    running[kind.index()][class],
                    "{kind:?} {class}"
                );
            }
        }
        assert_eq!(self.inner().front.bytes.load(SeqCst), bytes);
    }

    /// Nobody waits who could run: each queue's head finds no room, down to the class
    /// that bars the rest.
    pub(super) fn assert_nobody_forgotten(&self) {
        let desk = self.inner().desk();
        for kind in Kind::BOTH {
            for class in 0..MAX_CLASSES {
                let Some(head) = desk.queues[kind.index()][class].head() else {
                    continue;
                };
                if self.inner().front.deferred.load(SeqCst) & bit(kind, class) != 0 {
                    break;
                }
                match self.inner().front.charge(&head.ask, self.now) {
                    Ok(seat) => panic!("{seat:?} fits and waits"),
                    Err(NoRoom::Own) => {}
                    Err(_) => break,
                }
            }
        }
    }

    pub(super) fn assert_bounded(&self) {
        let view = self.engine.view(self.now);
        for class in &view.classes {
            assert!(class.short.waiting <= 5 && class.long.waiting <= 5);
        }
    }

    /// End everything that can end.
    pub(super) fn end(&mut self) {
        for _ in 0..20 {
            self.read();
            self.tickets.clear();
            self.permits.clear();
            self.tick(2_000, &excess(0));
        }
        self.permits.clear();
        assert_eq!(self.inner().front.ledgers[0].total(), (0, 0));
        assert_eq!(self.inner().front.ledgers[1].total(), (0, 0));
        assert_eq!(self.inner().front.bytes.load(SeqCst), 0);
        assert_eq!(self.inner().front.closed.load(SeqCst), 0);
        assert!(!self.inner().front.whale.load(SeqCst));
        assert!(
            self.inner()
                .front
                .uncounted
                .iter()
                .all(|count| count.load(SeqCst) == 0)
        );
    }
}
