//! A new policy beside the old one: who is judged by it, who would move where, and whether it is
//! given up.

mod guard;
mod movers;

pub use guard::{Break, Counts, Guard, GuardSettings, Harm, Seen};
pub use movers::{MOST_MOVERS, Mover, Movers};

use crate::hash::mix;

/// So that these are not the tenants for which `enforce` is carried out first.
const SALT: u64 = 0x706f_6c69_6379_0001;

/// A share of the tenants, chosen by a stable hash: whoever is in a share is in every larger one,
/// in every proxy and after every restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nobody.
    pub const NOBODY: Self = Self(0);
    /// Everybody.
    pub const ALL: Self = Self(10_000);

    /// A share in hundredths of a percent, at most 10000.
    #[must_use]
    pub const fn from_basis_points(points: u32) -> Self {
        Self(if points > 10_000 { 10_000 } else { points })
    }

    /// The share in hundredths of a percent.
    #[must_use]
    pub const fn basis_points(self) -> u32 {
        self.0
    }

    /// The share, from 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Whether the tenant with this hash is in it.
    #[must_use]
    pub const fn contains(self, tenant: u64) -> bool {
        let place = ((mix(tenant ^ SALT) >> 32) * 10_000) >> 32;
        place < self.0 as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash;

    fn tenants() -> impl Iterator<Item = u64> {
        (0..20_000).map(|number| hash::text(&format!("system:serviceaccount:team-{number}:app")))
    }

    #[test]
    fn a_share_has_as_many_tenants_as_it_says() {
        for points in [0, 100, 500, 2_500, 5_000, 10_000] {
            let share = Share::from_basis_points(points);
            let inside = tenants().filter(|tenant| share.contains(*tenant)).count();
            let found = inside as f64 / 20_000.0;
            assert!((found - share.fraction()).abs() < 0.01, "{points}: {found}");
        }
    }

    #[test]
    fn whoever_is_in_stays_in_when_the_share_grows() {
        for tenant in tenants() {
            let mut inside = false;
            for points in 0..=100 {
                let now = Share::from_basis_points(points * 100).contains(tenant);
                assert!(now || !inside);
                inside = now;
            }
            assert!(inside);
        }
    }

    #[test]
    fn a_share_is_the_same_in_every_process() {
        // Fixed: changing them moves tenants in the middle of a roll-out.
        let first: Vec<usize> = tenants()
            .enumerate()
            .filter(|(_, tenant)| Share::from_basis_points(10).contains(*tenant))
            .map(|(number, _)| number)
            .take(3)
            .collect();
        assert_eq!(first, [2_516, 2_538, 4_306]);
    }
}
