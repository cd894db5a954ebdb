//! The server's memory: what is live, what is garbage, when Go collects it, and when the kernel ends it all.

/// Bytes as a model counts them.
pub type Bytes = u64;

/// Core time to mark one GiB of live heap, µs. Go marks about 1 GiB per second and core.
const MARK_US_PER_GIB: u64 = 800_000;

/// How much memory there is and what things take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemorySettings {
    /// The container's limit: beyond it the kernel kills the process.
    pub limit: Bytes,
    /// Live with nothing going on: caches, decoded objects.
    pub base: Bytes,
    /// Live per byte of an answer that is being written; measured 2–4 for streamed LISTs.
    pub per_answer_byte: f64,
    /// Garbage left by every request besides its answer.
    pub per_request: Bytes,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            limit: 16 << 30,
            base: 2 << 30,
            per_answer_byte: 2.5,
            per_request: 100 << 10,
        }
    }
}

/// One process's heap.
#[derive(Debug)]
pub struct Memory {
    settings: MemorySettings,
    held: Bytes,
    garbage: Bytes,
    goal: Bytes,
    /// Garbage that the running collection will free.
    collecting: Option<Bytes>,
    highest: Bytes,
}

impl Memory {
    /// A process that has just become ready.
    #[must_use]
    pub const fn new(settings: MemorySettings) -> Self {
        Self {
            settings,
            held: 0,
            garbage: 0,
            goal: settings.base * 2,
            collecting: None,
            highest: settings.base,
        }
    }

    /// What an answer of `bytes` holds while it is being written.
    #[must_use]
    pub fn of_answer(&self, bytes: Bytes) -> Bytes {
        (bytes as f64 * self.settings.per_answer_byte) as Bytes
    }

    /// A request begins and holds so much.
    pub fn hold(&mut self, bytes: Bytes) {
        self.held += bytes;
        self.highest = self.highest.max(self.heap());
    }

    /// It ended: what it held is garbage.
    pub const fn let_go(&mut self, bytes: Bytes) {
        self.held = self.held.saturating_sub(bytes);
        self.garbage += bytes + self.settings.per_request;
    }

    /// The process is gone.
    pub const fn empty(&mut self) {
        (self.held, self.garbage) = (0, 0);
        self.collecting = None;
        self.goal = 2 * self.settings.base;
    }

    /// Live and garbage.
    #[must_use]
    pub const fn heap(&self) -> Bytes {
        self.settings.base + self.held + self.garbage
    }

    /// The most it has been since the last call.
    pub fn take_highest(&mut self) -> Bytes {
        let highest = self.highest.max(self.heap());
        self.highest = self.heap();
        highest
    }

    /// Whether the kernel kills the process now.
    #[must_use]
    pub const fn is_exhausted(&self) -> bool {
        self.heap() > self.settings.limit
    }

    /// The limit.
    #[must_use]
    pub const fn limit(&self) -> Bytes {
        self.settings.limit
    }

    /// Whether a collection has to begin (`GOGC=100`: when the heap has doubled); if so, the core time of it in µs.
    pub fn begin_collection(&mut self) -> Option<u64> {
        if self.collecting.is_some() || self.heap() < self.goal {
            return None;
        }
        self.collecting = Some(self.garbage);
        let live = self.settings.base + self.held;
        Some((live as f64 / f64::from(1 << 30) * MARK_US_PER_GIB as f64) as u64)
    }

    /// It has ended.
    pub fn end_collection(&mut self) {
        if let Some(freed) = self.collecting.take() {
            self.garbage = self.garbage.saturating_sub(freed);
            self.goal = 2 * (self.settings.base + self.held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: MemorySettings = MemorySettings {
        limit: 10 << 30,
        base: 1 << 30,
        per_answer_byte: 2.0,
        per_request: 0,
    };

    #[test]
    fn what_is_held_becomes_garbage_and_garbage_is_collected_when_the_heap_has_doubled() {
        let mut memory = Memory::new(SETTINGS);
        for _ in 0..9 {
            memory.hold(100 << 20);
            memory.let_go(100 << 20);
            assert_eq!(memory.begin_collection(), None);
        }
        memory.hold(200 << 20);
        let work = memory.begin_collection().expect("doubled");
        assert!((900_000..1_000_000).contains(&work), "{work}");
        memory.end_collection();
        assert_eq!(memory.heap(), (1 << 30) + (200 << 20));
    }

    #[test]
    fn too_much_at_once_is_the_end() {
        let mut memory = Memory::new(SETTINGS);
        let answer = memory.of_answer(500 << 20);
        for _ in 0..9 {
            memory.hold(answer);
            assert!(!memory.is_exhausted());
        }
        memory.hold(answer);
        assert!(memory.is_exhausted());
    }
}
