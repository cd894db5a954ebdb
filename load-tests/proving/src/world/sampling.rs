//! Counting.

use super::clients::End;
use super::{Event, Request, World};
use crate::measure::inversions::Refused;
use crate::measure::{CLASSES, Sample, Tally, size};
use crate::population::Sends;
use proxy_core::time::Time;

impl World {
    pub(super) fn start_counting(&mut self) {
        self.counting = true;
        self.capacity_at = self.now;
        self.record.capacity = 0;
        self.inversions.reset();
    }

    /// The core time there was since the last call.
    pub(super) fn count_capacity(&mut self) {
        if self.counting && self.up {
            self.record.capacity += (self.now - self.capacity_at) * self.cpu.cores() as u64;
        }
        self.capacity_at = self.now;
    }

    fn class_of(&self, request: &Request) -> usize {
        let population = &self.populations[request.population as usize];
        let call = match &population.sends {
            Sends::Informer { watch, .. } if request.watch => watch,
            _ => &population.call,
        };
        call.class.index().min(CLASSES - 1)
    }

    fn tally(&mut self, request: &Request) -> Option<&mut Tally> {
        if !request.counted {
            return None;
        }
        self.record.tallies.get_mut(request.population as usize)
    }

    pub(super) fn count_call(&mut self, request: &Request) {
        let class = self.class_of(request);
        self.sample.offered[class] += request.work;
        self.sample.calls += 1;
        if class < 2 {
            self.backlog += request.work;
            let cores = self.cpu.cores().max(1) as f64;
            let ms = self.backlog as f64 / cores / 1e3;
            self.sample.backlog_ms = self.sample.backlog_ms.max(ms);
        }
        let work = request.work;
        if let Some(tally) = self.tally(request) {
            tally.calls += 1;
            tally.offered_work += work;
        }
    }

    pub(super) fn count_request(&mut self, request: &Request) {
        self.sample.requests += 1;
        if let Some(tally) = self.tally(request) {
            tally.requests += 1;
        }
    }

    pub(super) fn count_refusal(&mut self, request: &Request) {
        let class = self.class_of(request);
        self.sample.shed[class] += 1;
        let population = &self.populations[request.population as usize];
        if !population.culprit {
            self.sample.victims += 1;
        }
        if population.reserved {
            self.record.reserved_refused += u64::from(request.counted);
        } else {
            let refused = Refused {
                class,
                kind: population.call.kind,
                size: size(population.call.kind, population.call.work),
                arrived: request.sent,
                after: request.after,
            };
            self.inversions.refused(refused, self.now);
        }
        if let Some(tally) = self.tally(request) {
            tally.shed += 1;
        }
    }

    pub(super) fn count_end(&mut self, request: &Request, end: End) {
        let class = self.class_of(request);
        if class < 2 {
            self.backlog -= request.work.min(self.backlog);
        }
        let population = &self.populations[request.population as usize];
        let took = self.now - request.due.min(self.now);
        let in_time = end == End::Served && took <= population.in_time;
        let tenant = request.client as usize % population.tenants.len().max(1);
        if end == End::Served && class < 4 && !population.culprit {
            self.important.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        // Work is of use to whoever has sent for it again and again, too.
        let useful = end == End::Served && self.now - request.sent <= population.in_time;
        if useful {
            self.sample.useful[class] += request.work;
        } else if end != End::Served && !population.culprit {
            self.sample.victims += 1;
        }
        let work = request.work;
        let Some(tally) = self.tally(request) else {
            return;
        };
        match end {
            End::Served => {
                tally.served += 1;
                tally.work += work;
                tally.latency.saturating_record(took);
            }
            End::Failed => tally.lost += 1,
            End::GaveUp => tally.gave_up += 1,
        }
        if in_time {
            tally.in_time += 1;
        }
        if useful {
            tally.useful += work;
            if let Some(share) = tally.by_tenant.get_mut(tenant) {
                *share += work;
            }
        }
    }

    /// What is still under way at the end: too late, or not to be counted.
    pub(super) fn count_unfinished(&mut self) {
        for id in self.requests.ids() {
            let Some(request) = self.requests.get(id).copied() else {
                continue;
            };
            let in_time = self.populations[request.population as usize].in_time;
            let late = self.now - request.due.min(self.now) > in_time;
            let Some(tally) = self.tally(&request) else {
                continue;
            };
            if late {
                tally.gave_up += 1;
            } else {
                tally.calls -= 1;
                tally.offered_work -= request.work;
            }
        }
    }

    pub(super) fn note_memory(&mut self) {
        let highest = self.memory.take_highest();
        self.sample.memory = self.sample.memory.max(highest);
        if self.counting {
            let share = highest as f64 / self.memory.limit() as f64;
            self.record.memory = self.record.memory.max(share);
        }
    }

    pub(super) fn take_sample(&mut self) {
        self.at(self.now + self.sample_every, Event::Sample);
        self.note_memory();
        self.inversions.settle(self.now);
        let mut sample = std::mem::take(&mut self.sample);
        sample.at = self.now;
        sample.under_way = self.requests.len() as u32;
        sample.limit = self.controller.limit();
        let excess = self.tracker.view(Time(self.clock())).excess;
        sample.probe_ms = excess.as_secs_f64() * 1e3;
        sample.cores = if self.up { self.cpu.cores() } else { 0 };
        if !self.important.is_empty() {
            let at = (self.important.len() - 1) * 99 / 100;
            let (_, p99, _) = self.important.select_nth_unstable(at);
            sample.p99_ms = f64::from(*p99) / 1e3;
            self.important.clear();
        }
        self.record.samples.push(sample);
        self.sample = Sample::default();
        // What is under way is what the next sample begins with.
        self.sample.backlog_ms = self.backlog as f64 / self.cpu.cores().max(1) as f64 / 1e3;
    }
}
