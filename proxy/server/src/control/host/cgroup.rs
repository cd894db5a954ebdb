//! A cgroup of version 2: <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

use std::path::{Path, PathBuf};

/// Longer files are not the kernel's.
const LONGEST: u64 = 64 * 1024;

/// A cgroup's folder and those above it.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// From itself upwards.
    levels: Vec<PathBuf>,
}

/// The memory of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Without the pages that are only cached and lately unused.
    pub(crate) used: u64,
    /// `None`: only the levels above bound it.
    pub(crate) limit: Option<u64>,
}

/// What only informs, and what changes slowly.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Used {
    pub(crate) oom_kills: Option<u64>,
    /// Share of the last ten seconds in which all of it waited for memory; 0 if the kernel does not tell.
    pub(crate) memory_stalled: f32,
    pub(crate) cpu_us: Option<u64>,
    pub(crate) throttled_us: Option<u64>,
    pub(crate) cpu_stalled: Option<f64>,
}

impl Cgroup {
    /// The cgroup at `path`; `root` is where its hierarchy begins.
    pub(crate) fn at(path: PathBuf, root: &Path) -> Self {
        let levels = path
            .ancestors()
            .take_while(|level| level.starts_with(root))
            .map(Path::to_owned)
            .collect();
        Self { path, levels }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The memory of every level that counts it, from itself upwards.
    pub(crate) fn memory(&self) -> Vec<Level> {
        self.levels
            .iter()
            .filter_map(|level| memory(level))
            .collect()
    }

    /// `None` when it is not there.
    pub(crate) fn used(&self) -> Option<Used> {
        if !self.path.is_dir() {
            return None;
        }
        let file = |name: &str| read(&self.path.join(name));
        let events = file("memory.events");
        let cpu = file("cpu.stat");
        let of = |text: &Option<String>, key| text.as_deref().and_then(|text| value(text, key));
        Some(Used {
            oom_kills: of(&events, "oom_kill"),
            memory_stalled: file("memory.pressure")
                .and_then(|text| stalled(&text, "full"))
                .map_or(0.0, |share| share as f32),
            cpu_us: of(&cpu, "usage_usec"),
            throttled_us: of(&cpu, "throttled_usec"),
            cpu_stalled: file("cpu.pressure").and_then(|text| stalled(&text, "some")),
        })
    }
}

fn memory(level: &Path) -> Option<Level> {
    let current: u64 = read(&level.join("memory.current"))?.trim().parse().ok()?;
    let cached = read(&level.join("memory.stat")).and_then(|text| value(&text, "inactive_file"));
    let limit = read(&level.join("memory.max"));
    Some(Level {
        used: current.saturating_sub(cached.unwrap_or(0)),
        // `max` is no number.
        limit: limit.and_then(|text| text.trim().parse().ok()),
    })
}

/// A small file of the kernel's, or nothing.
pub(crate) fn read(path: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number after `key` on a line of its own.
pub(crate) fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.strip_prefix(' ')?;
        rest.trim().parse().ok()
    })
}

/// `avg10` of a line of a pressure file, as a share: <https://docs.kernel.org/accounting/psi.html>.
fn stalled(text: &str, of: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(of))?;
    let average = line
        .split_ascii_whitespace()
        .find_map(|field| field.strip_prefix("avg10="))?;
    let percent: f64 = average.parse().ok()?;
    percent
        .is_finite()
        .then(|| (percent / 100.0).clamp(0.0, 1.0))
}
