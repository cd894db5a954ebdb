//! What was refused goes before what is less important, for a moment.
//!
//! The queues see to that while somebody waits. But whoever is refused does not wait: a write is
//! refused because its class has no room, and an instant later a LIST of a less important class
//! starts, because the breadth has room and no write waits just then. The LIST takes as much of
//! the server as many writes, so the refusal was for its sake. Therefore long work of all less
//! important classes waits for [`MOMENT`] after a refusal.

use std::time::Duration;

use super::gate::bit;
use super::{Kind, MAX_CLASSES, Shed};
use crate::time::Time;

/// So long after a refusal. Shorter than any client comes back, longer than a gap in a storm.
const MOMENT: Duration = Duration::from_millis(100);

/// When each class was last refused something it could have had instead of somebody else.
#[derive(Debug, Default)]
pub(super) struct Deferral([Option<Time>; MAX_CLASSES]);

impl Deferral {
    /// A request of this class was refused. Not if it exceeds what its class may have whatever
    /// the others do. Who comes back early counts, too: that is refused only while others of its
    /// class wait.
    pub(super) fn note(&mut self, class: usize, shed: Shed, now: Time) {
        if let Some(last) = self.0.get_mut(class)
            && !matches!(shed, Shed::HardBound)
        {
            *last = Some(now);
        }
    }

    /// Bits of the classes and kinds that have to wait now.
    pub(super) fn mask(&mut self, now: Time) -> u64 {
        for last in &mut self.0 {
            *last = last.filter(|at| now.saturating_since(*at) <= MOMENT);
        }
        let refused = self.0.iter().position(Option::is_some);
        let later = refused.map_or(MAX_CLASSES, |class| class + 1);
        (later..MAX_CLASSES).fold(0, |mask, class| mask | bit(Kind::Long, class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_less_important_than_the_most_important_refused_waits_and_not_for_long() {
        let mut deferral = Deferral::default();
        assert_eq!(deferral.mask(Time(0)), 0);
        deferral.note(5, Shed::Deadline, Time(0));
        assert_eq!(
            deferral.mask(Time(1)),
            (6..MAX_CLASSES).fold(0, |mask, class| mask | bit(Kind::Long, class))
        );
        deferral.note(2, Shed::Early, Time(50_000));
        assert_ne!(deferral.mask(Time(50_000)) & bit(Kind::Long, 3), 0);
        assert_eq!(deferral.mask(Time(50_000)) & bit(Kind::Long, 2), 0);
        assert_eq!(deferral.mask(Time(160_000)), 0);
    }

    #[test]
    fn a_bound_of_its_own_is_nobody_elses_doing() {
        let mut deferral = Deferral::default();
        deferral.note(0, Shed::HardBound, Time(0));
        assert_eq!(deferral.mask(Time(0)), 0);
        deferral.note(MAX_CLASSES - 1, Shed::QueueFull, Time(0));
        assert_eq!(deferral.mask(Time(0)), 0, "nobody is less important");
    }
}
