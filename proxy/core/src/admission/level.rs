//! Whose turn it is when not everybody can be served: DAGOR's user levels and cursor, by cost
//! and in one step.
//!
//! An operation is often several calls (get, patch, status). Refusing calls by chance ruins far
//! more operations than there is work too much: of three calls that each get through one time
//! in two, one operation in eight succeeds. DAGOR (Zhou et al., SoCC 2018, §4) therefore refuses
//! by user, the same ones for a while. So does this, with four differences, because one LIST
//! may cost as much as ten thousand GETs:
//!
//! * The user level is not a hash but what the tenant lately *got* of the server, as server time.
//!   Whoever got least comes first, so heavy tenants sink by themselves, turns go round, and
//!   nobody is stranded for an hour by an unlucky hash. The hash only breaks ties.
//! * The histogram is of cost, not of requests, and the cursor goes to where the cost asked for
//!   meets what the class was served, at once; not by 5 % and 1 % a window.
//! * Whoever asks for no more than an equal share is never refused for the sake of turns.
//! * The bar is advice to the queue and not to the gate: a tenant below it may not wait, but
//!   still starts when there is room. So a wrong bar wastes nothing.
//!
//! A turn lasts two seconds: longer than most operations, shorter than any client's patience.

use std::time::Duration;

use super::accounts::{Account, Accounts, LAST_LEVEL, MODEST_LEVEL, Owner, PLACES};
use super::meter::Reading;
use super::{ClassId, Kind, MAX_CLASSES};
use crate::hash::mix;
use crate::time::Time;

/// How long a tenant's turn lasts.
const TURN: Duration = Duration::from_secs(2);
/// What a class was served is multiplied with a margin for the bar, because tenants ask for more
/// while it is their turn than while they are refused. The margin falls while tenants above the
/// bar are refused all the same, and rises while none is.
const MARGINS: std::ops::RangeInclusive<f64> = 0.2..=1.2;
const LESS: f64 = 0.75;
const MORE: f64 = 1.1;
/// Instances are counted over so many turns.
const COUNT_TURNS: u32 = 10;
/// A place that nobody uses is given back.
const FORGET: Duration = Duration::from_secs(60);
/// A tenant that asks for less server time per second than this is never anybody's trouble.
const NOTABLE_US: f64 = 20_000.0;

/// What a tenant asks of one class, as of the last turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TenantView {
    /// Who.
    pub tenant: u64,
    /// In which class.
    pub class: ClassId,
    /// Short or long.
    pub kind: Kind,
    /// The shape of most of it, if one has most.
    pub shape: Option<u64>,
    /// Instances seen in the last ten seconds or so; at most 1,000.
    pub instances: u32,
    /// Requests per second.
    pub requests: f32,
    /// Server time asked for, in seconds per second; with what an order keeps away.
    pub asked: f32,
    /// Of that, what was refused, 0..=1.
    pub refused: f32,
    /// Of the server time that everybody asks for, 0..=1.
    pub share: f32,
    /// Since when it asks for several times what it used to, if it does.
    pub since: Option<Time>,
    /// Its user level, 0 (first) to 127.
    pub level: u8,
}

/// What is remembered of an account between ticks.
#[derive(Clone, Debug)]
struct Known {
    owner: Owner,
    offered: Reading,
    refused: Reading,
    withheld: Reading,
    active: Time,
    /// Per second: server time asked for, refused, kept away by an order (beside both) and got (µs), and requests.
    asked: f64,
    denied: f64,
    withheld_rate: f64,
    got: f64,
    requests: f64,
    /// What it asks for when it is its turn: the most it asked for lately, slowly forgotten.
    /// While its operations end at their first call it seems to want less than it does.
    wants: f64,
    /// What it asked for before it began to ask for much more.
    usual: f64,
    /// Since when it does, and the most it asked for since.
    surge: Option<(Time, f64)>,
    instances: u32,
    level: u8,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Levels {
    known: Vec<Option<Known>>,
    ticked: Time,
    turned: Time,
    turns: u32,
    order: Vec<(u64, u64, usize)>,
    margins: [[f64; MAX_CLASSES]; 2],
}

/// A class of which more is wanted than can be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pressed {
    /// Server time it is served, µs per second.
    pub(super) served: f64,
    /// Tenants above the bar are refused, too.
    pub(super) overrun: bool,
}

/// By kind and class.
pub(super) type Pressure = [[Option<Pressed>; MAX_CLASSES]; 2];

/// DAGOR's compound level: requests beyond it are mostly refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level {
    /// The most important class of which more is wanted than can be served.
    pub class: ClassId,
    /// Within it, the user level beyond which tenants do not wait; 127: none is told apart.
    pub user: u8,
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.class.0, self.user)
    }
}

/// What a turn decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turned {
    /// By kind and class: the bar.
    pub(super) bars: [[u8; MAX_CLASSES]; 2],
    pub(super) level: Option<Level>,
}

impl Levels {
    pub(super) fn new(now: Time) -> Self {
        Self {
            known: vec![None; PLACES],
            ticked: now,
            turned: now,
            turns: 0,
            order: Vec::with_capacity(PLACES),
            margins: [[*MARGINS.end(); MAX_CLASSES]; 2],
        }
    }

    /// Bring rates up to date; once a turn, say where the bars are.
    pub(super) fn tick(
        &mut self,
        accounts: &Accounts,
        pressure: impl FnOnce() -> Pressure,
        now: Time,
    ) -> Option<Turned> {
        let seconds = now.saturating_since(self.ticked).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        self.ticked = now;
        for (account, known) in accounts.places().iter().zip(&mut self.known) {
            follow(account, known, seconds, now);
        }
        if now.saturating_since(self.turned) < TURN {
            return None;
        }
        self.turned = now;
        self.turns = self.turns.wrapping_add(1);
        let count = self.turns.is_multiple_of(COUNT_TURNS);
        for (account, known) in accounts.places().iter().zip(&mut self.known) {
            if let Some(known) = known {
                let instances = account.instances();
                known.instances = if count {
                    account.forget_instances();
                    instances
                } else {
                    known.instances.max(instances)
                };
                account.age_vote();
            }
        }
        let pressure = pressure();
        let mut bars = [[LAST_LEVEL; MAX_CLASSES]; 2];
        for kind in Kind::BOTH {
            for class in 0..MAX_CLASSES {
                let margin = &mut self.margins[kind.index()][class];
                let Some(pressed) = pressure[kind.index()][class] else {
                    *margin = *MARGINS.end();
                    continue;
                };
                *margin *= if pressed.overrun { LESS } else { MORE };
                *margin = margin.clamp(*MARGINS.start(), *MARGINS.end());
                let margin = *margin;
                let bar = self.rank(accounts, kind, class, pressed.served, margin);
                bars[kind.index()][class] = bar;
            }
        }
        let level = (0..MAX_CLASSES)
            .find(|class| pressure.iter().any(|kind| kind[*class].is_some()))
            .map(|class| Level {
                class: ClassId(class as u8),
                user: bars[0][class].min(bars[1][class]),
            });
        Some(Turned { bars, level })
    }

    /// Put the tenants of a class in order; the bar for what it is served per second, of which
    /// those who take turns are given `margin` times their part.
    fn rank(
        &mut self,
        accounts: &Accounts,
        kind: Kind,
        class: usize,
        served: f64,
        margin: f64,
    ) -> u8 {
        self.order.clear();
        for (place, known) in self.known.iter().enumerate() {
            if let Some(known) = known
                && (known.owner.class, known.owner.kind) == (class, kind)
                && known.asked >= 1.0
            {
                self.order.push((known.wants as u64, 0, place));
            }
        }
        // Max-min fairness: whoever wants less than an equal share gets all of it, and leaves
        // the rest to the others.
        self.order.sort_unstable();
        let (mut left, mut modest) = (served, 0);
        let all = self.order.len();
        for (wants, ..) in &self.order {
            if *wants as f64 > left / (all - modest) as f64 {
                break;
            }
            left -= *wants as f64;
            modest += 1;
        }
        let total: f64 = self.order[modest..]
            .iter()
            .map(|(wants, ..)| *wants as f64)
            .sum();
        for (wants, tie, place) in &mut self.order {
            let Some(Some(known)) = self.known.get(*place) else {
                continue;
            };
            // Steps of a twentieth: who got about the same is equal, and the hash decides.
            *wants = (known.got.max(1.0).ln() * 20.0) as u64;
            *tie = mix(known.owner.tenant);
        }
        self.order[modest..].sort_unstable();
        let mut before = 0.0;
        for (nth, (_, _, place)) in self.order.iter().enumerate() {
            if let Some(Some(known)) = self.known.get_mut(*place)
                && let Some(account) = accounts.places().get(*place)
            {
                known.level = MODEST_LEVEL;
                if nth >= modest {
                    known.level = position(before / total).max(MODEST_LEVEL + 1);
                    before += known.wants;
                }
                account.set_level(known.level);
            }
        }
        if all - modest < 2 || left * margin >= total {
            return LAST_LEVEL;
        }
        position(left * margin / total).clamp(MODEST_LEVEL + 1, LAST_LEVEL - 1)
    }

    /// What share of its requests a tenant of each class lost lately, on average over the tenants,
    /// of which each counts as one: 0..=1 by class.
    pub(super) fn lost(&self) -> [f64; MAX_CLASSES] {
        let mut sums = [(0.0, 0_u32); MAX_CLASSES];
        for known in self.known.iter().flatten() {
            if known.asked >= 1.0
                && let Some((lost, tenants)) = sums.get_mut(known.owner.class)
            {
                *lost += (known.denied / known.asked).min(1.0);
                *tenants += 1;
            }
        }
        sums.map(|(lost, tenants)| lost / f64::from(tenants.max(1)))
    }

    /// Those who ask for most, at most `most` of them, the first first.
    pub(super) fn top(&self, accounts: &Accounts, most: usize) -> Vec<TenantView> {
        self.most(accounts, most, |known| known.withheld_rate)
    }

    /// As [`Self::top`], of what the server would have to do: whoever an order keeps away is not to blame for what the
    /// server does meanwhile.
    pub(super) fn blameable(&self, accounts: &Accounts, most: usize) -> Vec<TenantView> {
        self.most(accounts, most, |_| 0.0)
    }

    fn most(
        &self,
        accounts: &Accounts,
        most: usize,
        beside: impl Fn(&Known) -> f64,
    ) -> Vec<TenantView> {
        let asked = |known: &Known| known.asked + beside(known);
        let all: f64 = self.known.iter().flatten().map(asked).sum();
        let mut places: Vec<(usize, &Known, f64)> = self
            .known
            .iter()
            .enumerate()
            .filter_map(|(place, known)| Some((place, known.as_ref()?)))
            .map(|(place, known)| (place, known, asked(known)))
            .filter(|(.., asked)| *asked >= 1.0)
            .collect();
        places.sort_unstable_by(|(.., a), (.., b)| b.total_cmp(a));
        places.truncate(most);
        places
            .into_iter()
            .map(|(place, known, asked)| TenantView {
                tenant: known.owner.tenant,
                class: ClassId(known.owner.class as u8),
                kind: known.owner.kind,
                shape: accounts.places().get(place).and_then(Account::shape),
                instances: known.instances,
                requests: known.requests as f32,
                asked: (asked / 1e6) as f32,
                refused: ((known.denied + beside(known)) / asked).min(1.0) as f32,
                share: (asked / all.max(1.0)) as f32,
                since: known.surge.map(|(since, _)| since),
                level: known.level,
            })
            .collect()
    }
}

fn position(share: f64) -> u8 {
    (share * f64::from(LAST_LEVEL)) as u8
}

/// One account, one tick.
fn follow(account: &Account, known: &mut Option<Known>, seconds: f64, now: Time) {
    let Some(owner) = account.owner() else {
        *known = None;
        return;
    };
    if known.as_ref().is_none_or(|known| known.owner != owner) {
        *known = Some(Known::new(owner, now));
    }
    let Some(known) = known else { return };
    let (offered, refused) = (account.offered.read(), account.refused.read());
    let (asked, requests) = offered.since(known.offered);
    let (denied, _) = refused.since(known.refused);
    let withheld = account.withheld.read();
    let (kept_away, others) = withheld.since(known.withheld);
    let requests = requests + others;
    (known.offered, known.refused, known.withheld) = (offered, refused, withheld);
    if requests > 0 {
        known.active = now;
    } else if now.saturating_since(known.active) >= FORGET {
        account.close();
        return;
    }
    let smooth = |rate: &mut f64, new: f64, over: f64| {
        let keep = (-seconds / over).exp();
        *rate = *rate * keep + new / seconds * (1.0 - keep);
    };
    smooth(&mut known.asked, asked as f64, 3.0);
    smooth(&mut known.denied, denied as f64, 3.0);
    smooth(&mut known.withheld_rate, kept_away as f64, 3.0);
    smooth(&mut known.requests, requests as f64, 3.0);
    smooth(&mut known.got, asked.saturating_sub(denied) as f64, 10.0);
    known.wants = (known.wants * (-seconds / 30.0).exp()).max(known.asked);
    known.follow_surge(seconds, now);
}

impl Known {
    fn new(owner: Owner, now: Time) -> Self {
        Self {
            owner,
            offered: Reading::default(),
            refused: Reading::default(),
            withheld: Reading::default(),
            active: now,
            asked: 0.0,
            denied: 0.0,
            withheld_rate: 0.0,
            got: 0.0,
            requests: 0.0,
            wants: 0.0,
            usual: 0.0,
            surge: None,
            instances: 0,
            level: 0,
        }
    }

    /// A surge is several times what was usual; while it lasts, what is usual stays what it was.
    fn follow_surge(&mut self, seconds: f64, now: Time) {
        match &mut self.surge {
            Some((_, most)) => {
                *most = most.max(self.asked);
                if self.asked < *most / 4.0 {
                    self.surge = None;
                    self.usual = self.asked;
                }
            }
            None if self.asked > NOTABLE_US.max(4.0 * self.usual) => {
                self.surge = Some((now, self.asked));
            }
            None => {
                let keep = (-seconds / 120.0).exp();
                self.usual = self.usual * keep + self.asked * (1.0 - keep);
            }
        }
    }
}
