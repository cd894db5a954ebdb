//! No control at all.

use crate::controller::{Arrival, Controller, Decided, Ending, Seen, Sensed, Verdict};

/// Lets everything through.
#[derive(Debug)]
pub struct Nothing;

impl Controller for Nothing {
    fn offer(&mut self, _: &Arrival<'_>, _: u64, _: &mut Vec<Decided>) -> Verdict {
        Verdict::Start
    }

    fn ended(&mut self, _: u64, _: Ending, _: Seen, _: u64, _: &mut Vec<Decided>) {}

    fn withdrawn(&mut self, _: u64, _: u64, _: &mut Vec<Decided>) {}

    fn tick(&mut self, _: &Sensed, _: u64, _: &mut Vec<Decided>) {}

    fn limit(&self) -> f64 {
        0.0
    }

    fn is_proxy(&self) -> bool {
        false
    }
}
