//! Reload: when the configuration or a file it names changes, or on SIGHUP.
//!
//! Everything is read and checked first and swapped whole; on any error the old configuration stays in force. Files are
//! compared by content every few seconds: certificates are replaced by rename, by symlink swap (ConfigMaps) and in place,
//! and content is the one thing all these ways change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::{Change, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::policy::{self, PolicyProblem};
use crate::shared::Shared;
use crate::snapshot::{Base, Snapshot};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// By path. A file that cannot be read has no digest; that it cannot be is found out when it is used.
type Digests = HashMap<PathBuf, Option<[u8; 32]>>;

/// Where the configuration comes from, and what was in the files when it was taken from there.
#[derive(Clone, Debug)]
pub(crate) struct Reloader {
    /// `None` for a configuration handed over in memory: then only the files it names are watched.
    file: Option<PathBuf>,
    seen: Digests,
}

impl Reloader {
    /// To be made before the files that `config` names are read: what is written to them from now on is a change. So is
    /// what was written to `file` since `config` was read from it.
    pub(crate) fn new(file: Option<PathBuf>, config: &Config) -> Self {
        let mut reloader = Self {
            file,
            seen: Digests::new(),
        };
        reloader.seen = digests(&watched(&reloader, config));
        if let Some(file) = &reloader.file
            && read(file).as_ref() != Ok(config)
        {
            reloader.seen.insert(file.clone(), None);
        }
        reloader
    }
}

/// Looks for changes until `stop` turns true.
pub(crate) async fn run(
    mut reloader: Reloader,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut seen = std::mem::take(&mut reloader.seen);
    loop {
        let asked = tokio::select! {
            () = tokio::time::sleep(LOOK) => false,
            () = received(&mut hangup) => true,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let current = digests(&watched(&reloader, &shared.snapshot.load().config));
        if !asked && current == seen {
            continue;
        }
        seen = current;
        reload(&reloader, &shared);
        // A new configuration may name other files. Those that were named before keep the digest from before the reload:
        // what was written during it is a change that is still to be seen.
        let watched = watched(&reloader, &shared.snapshot.load().config);
        for (path, digest) in digests(&watched) {
            seen.entry(path).or_insert(digest);
        }
        seen.retain(|path, _| watched.contains(path));
    }
}

async fn received(hangup: &mut Option<tokio::signal::unix::Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn watched(reloader: &Reloader, config: &Config) -> Vec<PathBuf> {
    let mut files = Snapshot::files(config);
    files.extend(reloader.file.clone());
    files
}

fn digests(files: &[PathBuf]) -> Digests {
    files
        .iter()
        .map(|path| (path.clone(), digest(path)))
        .collect()
}

fn digest(path: &Path) -> Option<[u8; 32]> {
    let content = std::fs::read(path).ok()?;
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &content)
        .as_ref()
        .try_into()
        .ok()
}

fn reload(reloader: &Reloader, shared: &Shared) {
    let old = shared.snapshot.load_full();
    let config = match &reloader.file {
        None => old.config.clone(),
        Some(file) => match read(file) {
            Ok(config) => config,
            Err(problem) => return refused(shared, &problem),
        },
    };
    let changes = Change::between(&old.config, &config);
    let generation = old.generation + 1;
    let base = Base::load(config, generation, &shared.metrics).map_err(PolicyProblem::from);
    match base.and_then(|base| policy::rebase(shared, Arc::new(base))) {
        Err(problem) => refused(shared, &problem.to_string()),
        Ok(()) => {
            // The keys may have changed, and with them what is known about tokens.
            shared.tokens.clear();
            let above = shared.change_mode(|changes| changes.len());
            if above > 0 {
                warn!(
                    above,
                    "changes of the mode made at run time stay above the configuration (`spillway mode`)"
                );
            }
            shared
                .metrics
                .counter("spillway_config_reloads_total", &[("result", "applied")])
                .increment(1);
            info!(changes = changes.len(), "configuration reloaded");
            for change in changes {
                if change.applies == config::Applies::Restart {
                    warn!(key = %change.key, "changed, but needs a restart to take effect");
                } else {
                    info!(key = %change.key, "changed");
                }
            }
        }
    }
}

/// Reads and parses a configuration file.
///
/// # Errors
/// A text for people that says what is wrong and where.
pub(crate) fn read(file: &Path) -> Result<Config, String> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("{name}: cannot be read: {error}"))?;
    Config::parse(&text, &name).map_err(|report| report.to_string())
}

fn refused(shared: &Shared, problem: &str) {
    shared
        .metrics
        .counter("spillway_config_reloads_total", &[("result", "refused")])
        .increment(1);
    error!(
        problem,
        "the new configuration cannot be used; the old one stays in force"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_between_reading_and_the_first_look_is_a_change() {
        let folder = std::env::temp_dir().join(format!("spillway-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, authority) = (folder.join("config.yaml"), folder.join("ca.crt"));
        let text = |port: u16| {
            format!(
                "listen: {{ main: ['192.0.2.10:{port}'] }}\ntls: {{ client_ca: {} }}\n",
                authority.display()
            )
        };
        std::fs::write(&authority, "one").unwrap();
        std::fs::write(&file, text(6443)).unwrap();
        let config = read(&file).unwrap();
        let changed = |reloader: &Reloader| digests(&watched(reloader, &config)) != reloader.seen;

        let reloader = Reloader::new(Some(file.clone()), &config);
        assert!(!changed(&reloader));
        std::fs::write(&authority, "another").unwrap();
        assert!(changed(&reloader), "a file that it names");

        // Written after it was read, and before anybody looked.
        std::fs::write(&file, text(8443)).unwrap();
        assert!(changed(&Reloader::new(Some(file.clone()), &config)));
        std::fs::write(&file, "listen: [").unwrap();
        assert!(
            changed(&Reloader::new(Some(file), &config)),
            "to be refused"
        );
        std::fs::remove_dir_all(folder).unwrap();
    }
}
