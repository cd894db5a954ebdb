//! Who it was: the tenant behind an overload, named within seconds.
//!
//! On 2024-12-11 the people who knew the cause within minutes could not act on it; usually nobody
//! knows it for an hour. An overload here is a state of the engine: something is being refused or
//! waits for long, or the tuner brakes. Its culprit is who asks for most of the server *and* asks
//! for several times what it used to. Somebody who has always asked for half of the server is
//! named only when nobody has grown.

use std::time::Duration;

use super::level::TenantView;
use crate::time::Time;

/// So many turns in a row must be overloaded before anybody is named.
const TURNS: u32 = 2;
/// The overload is over when so many in a row were not.
const CALM_TURNS: u32 = 10;
/// Whoever asks for less of the server than this is not to blame for an overload.
const SHARE: f32 = 0.2;
/// Who has not grown is named from here.
const LARGE_SHARE: f32 = 0.5;
/// From so many instances on it is a herd.
const HERD: u32 = 10;

/// An overload and who is behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Culprit {
    /// Who, and what of: the account that asks for most. Its `share` is that of the tenant's
    /// accounts together.
    pub tenant: TenantView,
    /// Whether many instances of it send the same.
    pub herd: bool,
    /// When the overload began.
    pub overload: Time,
    /// When it was named.
    pub named: Time,
}

impl Culprit {
    /// How long the overload had lasted when it was named.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.named.saturating_since(self.overload)
    }
}

/// Watches for overloads.
#[derive(Debug, Default)]
pub(super) struct Watch {
    overload: Option<Time>,
    turns: u32,
    calm: u32,
    culprit: Option<Culprit>,
}

impl Watch {
    /// Who is behind the present overload, if there is one and somebody is.
    pub(super) const fn culprit(&self) -> Option<Culprit> {
        self.culprit
    }

    /// A turn has passed. `top` gives those who ask for most, the first first.
    pub(super) fn turn(
        &mut self,
        overloaded: bool,
        top: impl FnOnce() -> Vec<TenantView>,
        now: Time,
    ) {
        if !overloaded {
            self.calm += 1;
            self.turns = 0;
            if self.calm >= CALM_TURNS {
                *self = Self::default();
            }
            return;
        }
        self.calm = 0;
        self.turns += 1;
        let overload = *self.overload.get_or_insert(now);
        if self.turns < TURNS {
            return;
        }
        let Some(tenant) = blame(&top()) else { return };
        let named = match self.culprit {
            Some(before) if before.tenant.tenant == tenant.tenant => before.named,
            _ => now,
        };
        self.culprit = Some(Culprit {
            tenant,
            herd: tenant.instances >= HERD,
            overload,
            named,
        });
    }
}

fn blame(top: &[TenantView]) -> Option<TenantView> {
    let whole = |one: &TenantView| -> f32 {
        let same = top.iter().filter(|other| other.tenant == one.tenant);
        same.map(|other| other.share).sum()
    };
    let of = |grown: bool, least: f32| {
        top.iter()
            .filter(|one| !grown || one.since.is_some())
            .map(|one| TenantView {
                share: whole(one),
                ..*one
            })
            .filter(|one| one.share >= least)
            .max_by(|a, b| {
                a.share
                    .total_cmp(&b.share)
                    .then(a.asked.total_cmp(&b.asked))
            })
    };
    of(true, SHARE).or_else(|| of(false, LARGE_SHARE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{ClassId, Kind};

    fn view(tenant: u64, share: f32, grown: bool) -> TenantView {
        TenantView {
            tenant,
            class: ClassId(6),
            kind: Kind::Long,
            shape: None,
            instances: 40,
            requests: 1.0,
            asked: share,
            refused: 0.0,
            share,
            since: grown.then_some(Time(5)),
            level: 0,
        }
    }

    fn second(second: u64) -> Time {
        Time(second * 1_000_000)
    }

    #[test]
    fn who_grew_is_named_before_who_was_always_large() {
        let mut watch = Watch::default();
        let top = || vec![view(1, 0.55, false), view(2, 0.40, true)];
        watch.turn(true, top, second(1));
        assert_eq!(watch.culprit(), None);
        watch.turn(true, top, second(2));
        let culprit = watch.culprit().unwrap();
        assert_eq!(culprit.tenant.tenant, 2);
        assert!(culprit.herd);
        assert_eq!(culprit.took(), Duration::from_secs(1));
    }

    #[test]
    fn several_classes_of_one_tenant_count_together() {
        let top = [
            view(1, 0.3, true),
            view(2, 0.25, true),
            view(2, 0.2, true),
            view(3, 0.25, false),
        ];
        let blamed = blame(&top).unwrap();
        assert_eq!(blamed.tenant, 2);
        assert!((blamed.share - 0.45).abs() < 1e-6);
    }

    #[test]
    fn nobody_is_named_when_all_are_small() {
        let mut watch = Watch::default();
        for turn in 1..5 {
            watch.turn(
                true,
                || vec![view(1, 0.1, true), view(2, 0.4, false)],
                second(turn),
            );
        }
        assert_eq!(watch.culprit(), None);
    }

    #[test]
    fn an_overload_that_pauses_is_one_and_one_that_ends_is_forgotten() {
        let mut watch = Watch::default();
        for turn in 1..=3 {
            watch.turn(true, || vec![view(1, 0.9, true)], second(turn));
        }
        watch.turn(false, Vec::new, second(4));
        watch.turn(true, Vec::new, second(5));
        assert_eq!(watch.culprit().unwrap().overload, second(1));
        for turn in 6..16 {
            watch.turn(false, Vec::new, second(turn));
        }
        assert_eq!(watch.culprit(), None);
    }
}
