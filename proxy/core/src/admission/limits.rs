//! The operator's hard limits, beside the adaptive admission: so many at once, so many a
//! second, so many watches and sessions; by rule, class, tenant or instance. And what is not
//! to be asked at all.
//!
//! A limit is an order and not a judgement: it holds whether or not the server has room, and
//! for everybody, cluster administrators included. What keeps nodes and leaders alive (the
//! most important class) is meant only by limits that name that class, because a limit that
//! forgets it would take a cluster down.
//!
//! Without limits, asking is one look at an empty list. With some, a request costs the
//! conditions of each, and one atomic exchange (two with a rate) for each that it meets, and
//! one to give back; nothing is allocated up to [`FEW`] of them. `table.rs` says why no count
//! is ever beyond its bound, and none is lost.

mod bucket;
mod leases;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::attributes::{Attributes, Verb};
use crate::classify::{ClassId, Client, Condition, MAX_CLASSES, Match, PolicyError};
use crate::identity::Identity;
use crate::time::Time;

pub use bucket::{Bucket, MAX_PER_SECOND, Rate};
pub use leases::{FEW, Leases};
pub use table::{Bound, MOST};
use table::{NotTaken, Place, Table};

/// The most limits there may be.
pub const MAX_LIMITS: usize = 64;
/// Tenants told apart by one limit; those beyond share one account.
pub const TENANTS: usize = 4_096;
/// Instances told apart by one limit; those beyond share one account.
pub const INSTANCES: usize = 16_384;
/// A budget of server time that is overdrawn by no more than it brings in this time lets the
/// next request begin.
const OVERDRAFT: Duration = Duration::from_secs(1);
/// How often an account that changes hands is looked up again.
const LOOKS: u32 = 8;

/// Who has a bound of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Per {
    /// Nobody: all who meet the limit's conditions share it.
    #[default]
    Rule,
    /// Each class.
    Class,
    /// Each tenant ([`Identity::tenant`]).
    Tenant,
    /// Each instance of a tenant ([`Identity::instance`]).
    Instance,
}

/// A limit as somebody wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitSpec {
    /// Its name, unique.
    pub name: Box<str>,
    /// Which requests it is about.
    pub when: Match,
    /// Only those of this class. Without it the most important class is left alone.
    pub class: Option<ClassId>,
    /// Whose bounds these are.
    pub per: Per,
    /// The most of each [`Bound`] at once, in its order; up to [`MOST`].
    pub bounds: [Option<u32>; 3],
    /// How many may begin.
    pub rate: Option<Rate>,
    /// Server time, as estimated, for each second of time. Never zero.
    pub server_time: Option<Duration>,
    /// None at all.
    pub deny: bool,
}

/// One request, as limits see it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What is asked for.
    pub attributes: &'a Attributes<'a>,
    /// Who asks.
    pub identity: &'a Identity,
    /// From where.
    pub client: Client<'a>,
    /// How important it is.
    pub class: ClassId,
    /// Which member of the tenant asks ([`Identity::instance`]).
    pub instance: u64,
    /// What it is expected to take; asked for only if [`Limits::want_work`].
    pub work: Duration,
}

/// What a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// So many are there already.
    Bound(Bound),
    /// So many have begun; the next may in so long.
    Rate(Duration),
    /// The budget of server time is overdrawn; for so long.
    Time(Duration),
    /// It is not allowed at all.
    Denied,
}

/// A refusal: the limit, by its position, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// Which: see [`Limits::name`].
    pub limit: usize,
    /// Why.
    pub why: Why,
}

#[derive(Debug)]
struct Limit {
    spec: LimitSpec,
    condition: Condition,
    table: Arc<Table>,
}

/// What is held against one bound of one limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse<'a> {
    /// The limit's name.
    pub limit: &'a str,
    /// Which bound.
    pub what: Bound,
    /// The bound.
    pub bound: u32,
    /// What whoever holds most of it holds.
    pub most: u32,
    /// What all hold together.
    pub all: u64,
}

/// All limits, compiled.
#[derive(Debug, Default)]
pub struct Limits {
    limits: Vec<Limit>,
}

/// Which bounds a request counts against: a watch that begins with the state is a LIST until
/// it has sent it.
fn counts(attributes: &Attributes<'_>) -> [Option<Bound>; 2] {
    match (attributes.verb, attributes.long_running) {
        (Verb::Watch, _) if attributes.is_initial_state_watch() => {
            [Some(Bound::Watches), Some(Bound::Concurrency)]
        }
        (Verb::Watch, _) => [Some(Bound::Watches), None],
        (_, true) => [Some(Bound::Sessions), None],
        (_, false) => [Some(Bound::Concurrency), None],
    }
}

impl Limits {
    /// Compiles limits. What was counted by those of `before` with the same name and the same
    /// `per` goes on counting; what others counted is given back to them and to nobody.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] about conditions that mean nothing, and about more than [`MAX_LIMITS`].
    pub fn compile(specs: Vec<LimitSpec>, before: Option<&Self>) -> Result<Self, PolicyError> {
        if specs.len() > MAX_LIMITS {
            return Err(PolicyError::RuleCount(specs.len()));
        }
        let compile = |spec: LimitSpec| {
            let same = |other: &&Limit| other.spec.name == spec.name && other.spec.per == spec.per;
            let known = before.and_then(|before| before.limits.iter().find(same));
            let table = match (known, spec.per) {
                (Some(known), _) => Arc::clone(&known.table),
                (None, Per::Rule) => Arc::new(Table::fixed(1)),
                (None, Per::Class) => Arc::new(Table::fixed(MAX_CLASSES)),
                (None, Per::Tenant) => Arc::new(Table::keyed(TENANTS)),
                (None, Per::Instance) => Arc::new(Table::keyed(INSTANCES)),
            };
            Ok(Limit {
                condition: Condition::compile(&spec.name, &spec.when)?,
                spec,
                table,
            })
        };
        let limits = specs.into_iter().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { limits })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether some limit is a budget of server time.
    #[must_use]
    pub fn want_work(&self) -> bool {
        self.limits
            .iter()
            .any(|limit| limit.spec.server_time.is_some())
    }

    /// The name of a limit; empty for a position that is none.
    #[must_use]
    pub fn name(&self, limit: usize) -> &str {
        self.limits.get(limit).map_or("", |limit| &limit.spec.name)
    }

    /// Takes from every limit that the request meets, or from none.
    ///
    /// # Errors
    ///
    /// The first limit that has nothing left; a denial before all else.
    pub fn take(self: &Arc<Self>, asked: &Asked<'_>, now: Time) -> Result<Leases, Exceeded> {
        let mut leases = Leases::none();
        if self.limits.is_empty() {
            return Ok(leases);
        }
        // In the order of what can be undone best: looking, leases, tokens.
        let mut met = 0_u64;
        let scope = asked.attributes.scope();
        for (position, limit) in self.limits.iter().enumerate() {
            if !limit.is_met(asked, scope) {
                continue;
            }
            if limit.spec.deny {
                return Err(Exceeded {
                    limit: position,
                    why: Why::Denied,
                });
            }
            met |= 1 << position;
        }
        let each = || self.limits.iter().enumerate();
        let met = |position: usize| met & (1 << position) != 0;
        for (position, limit) in each().filter(|(position, _)| met(*position)) {
            for what in counts(asked.attributes).into_iter().flatten() {
                let Some(bound) = limit.spec.bounds[what as usize] else {
                    continue;
                };
                let Some(place) = limit.hold(asked, what, bound, now) else {
                    return Err(Exceeded {
                        limit: position,
                        why: Why::Bound(what),
                    });
                };
                leases.add(self, position, place, what);
            }
        }
        for (position, limit) in each().filter(|(position, _)| met(*position)) {
            if let Err(why) = limit.charge(asked, now) {
                for (_, earlier) in each().take(position).filter(|(position, _)| met(*position)) {
                    earlier.refund(asked, now);
                }
                return Err(Exceeded {
                    limit: position,
                    why,
                });
            }
        }
        Ok(leases)
    }

    /// What is held against each bound.
    pub fn in_use(&self) -> impl Iterator<Item = InUse<'_>> {
        self.limits.iter().flat_map(|limit| {
            Bound::ALL.into_iter().filter_map(|what| {
                let (most, all) = limit.table.held(what);
                Some(InUse {
                    limit: &limit.spec.name,
                    what,
                    bound: limit.spec.bounds[what as usize]?,
                    most,
                    all,
                })
            })
        })
    }

    fn give(&self, limit: usize, place: Place, what: Bound) {
        if let Some(limit) = self.limits.get(limit) {
            limit.table.give(place, what);
        }
    }
}

impl Limit {
    fn is_met(&self, asked: &Asked<'_>, scope: crate::attributes::Scope) -> bool {
        let class = match self.spec.class {
            Some(class) => class == asked.class,
            None => asked.class != ClassId(0),
        };
        let Asked {
            attributes,
            identity,
            client,
            ..
        } = asked;
        class && self.condition.holds(attributes, scope, identity, client)
    }

    fn key(&self, asked: &Asked<'_>) -> u64 {
        match self.spec.per {
            Per::Rule => 0,
            Per::Class => u64::from(asked.class.0),
            Per::Tenant => asked.identity.tenant(),
            Per::Instance => asked.instance,
        }
    }

    /// Holds one of `what`; where.
    fn hold(&self, asked: &Asked<'_>, what: Bound, bound: u32, now: Time) -> Option<Place> {
        let key = self.key(asked);
        for _ in 0..LOOKS {
            let place = self.table.place(key, now);
            match self.table.take(place, key, what, bound) {
                Ok(()) => return Some(place),
                Err(NotTaken::Full) => return None,
                Err(NotTaken::Moved) => {}
            }
        }
        // Its account is taken away as often as it is found: as if the bound were reached.
        None
    }

    /// Takes a token and server time, or neither.
    fn charge(&self, asked: &Asked<'_>, now: Time) -> Result<(), Why> {
        if self.spec.rate.is_none() && self.spec.server_time.is_none() {
            return Ok(());
        }
        let place = self.table.place(self.key(asked), now);
        if let Some(rate) = self.spec.rate {
            let taken = self.table.beginnings(place).take(rate, now);
            taken.map_err(Why::Rate)?;
        }
        if let Some(refill) = self.refill(asked.work)
            && let Err(wait) = self.table.time(place).owe(refill, OVERDRAFT, now)
        {
            if let Some(rate) = self.spec.rate {
                self.table.beginnings(place).give_back(rate);
            }
            return Err(Why::Time(wait));
        }
        Ok(())
    }

    /// Gives back what was charged.
    fn refund(&self, asked: &Asked<'_>, now: Time) {
        if self.spec.rate.is_none() && self.spec.server_time.is_none() {
            return;
        }
        let place = self.table.place(self.key(asked), now);
        if let Some(rate) = self.spec.rate {
            self.table.beginnings(place).give_back(rate);
        }
        if let Some(refill) = self.refill(asked.work) {
            self.table.time(place).forgive(refill);
        }
    }

    /// How long the budget of server time needs to bring so much.
    fn refill(&self, work: Duration) -> Option<Duration> {
        let each_second = self.spec.server_time?.as_nanos().max(1);
        let nanos = work.as_nanos().saturating_mul(1_000_000_000) / each_second;
        Some(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ))
    }
}
