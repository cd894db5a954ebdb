//! The processes of a control plane: starting, confining, stopping.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Deserialize;

use super::{Error, Options, assets, files, pki::KeyAlgorithm};

pub(super) const LOG_FILE: &str = "control-plane.log";

/// How many lines of the log an error shows.
const LOG_LINES: usize = 15;

/// How long a control plane may take to be ready. It takes seconds; the rest is
/// for a machine that is busy with other tests.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(150);

/// How long a process may take to stop before it is killed. The Go program
/// gives up on its own after 8 s.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);

/// What is started.
#[derive(Debug, Clone)]
pub(super) enum Backend {
    /// The Go program with both servers in it.
    Program(PathBuf),
    /// A directory with the two servers' own binaries.
    Assets(PathBuf),
}

/// What a control plane says of itself when it is ready.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    pub(super) server: String,
    pub(super) version: String,
}

/// Running processes; dropping them stops them in order, and waits.
#[derive(Debug)]
pub(super) struct Process {
    // The apiserver first: it can hang when its etcd goes before it.
    children: Vec<Child>,
    // Ends when this process does, however it ends, and the servers with it.
    _lifeline: Option<ChildStdin>,
}

impl Process {
    pub(super) fn launch(
        backend: &Backend,
        dir: &Path,
        options: &Options,
    ) -> Result<(Self, Ready), Error> {
        match backend {
            Backend::Program(program) => launch_program(program, dir, options),
            Backend::Assets(binaries) => assets::launch(binaries, dir, options),
        }
    }

    pub(super) fn new(children: Vec<Child>, lifeline: Option<ChildStdin>) -> Self {
        Self {
            children,
            _lifeline: lifeline,
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.children.first().map_or(0, Child::id)
    }

    /// The first child that has ended although it should run.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.children
            .iter_mut()
            .find_map(|child| child.try_wait().ok().flatten())
            .map(|status| format!("ended with {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for child in &mut self.children {
            stop(child);
        }
    }
}

/// Asks a child to stop, waits, and kills it when it takes too long.
pub(super) fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // A child that has ended but was not waited for keeps its id, so this
    // cannot hit another process.
    if let (Ok(None), Some(pid)) = (child.try_wait(), pid) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let deadline = Instant::now() + STOP_TIMEOUT;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn launch_program(
    program: &Path,
    dir: &Path,
    options: &Options,
) -> Result<(Process, Ready), Error> {
    let mut command = Command::new(program);
    command.arg("--dir").arg(dir).arg("--exit-on-stdin-close");
    if let Some(bind) = options.bind {
        command.arg("--bind").arg(bind.to_string());
    }
    for name in &options.extra_sans {
        command.arg("--extra-san").arg(name);
    }
    command
        .arg("--encryption-algorithm")
        .arg(match options.key_algorithm {
            KeyAlgorithm::Rsa2048 => "RSA-2048",
            KeyAlgorithm::EcdsaP256 => "ECDSA-P256",
        });
    if let Some(node) = &options.fake_kubelet {
        command.arg("--fake-kubelet").arg(node);
    }
    if options.aggregated_api {
        command.arg("--aggregated-api");
    }
    command.arg("--").args(&options.extra_flags);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log_file(dir)?);
    let mut child = spawn(&mut command, options.pin_to_core)?;
    let answers = child.stdout.take();
    let lifeline = child.stdin.take();
    let process = Process::new(vec![child], lifeline);
    let failed = |problem: String| not_started("control-plane", dir, problem);

    let (sender, line) = mpsc::channel();
    if let Some(answers) = answers {
        std::thread::spawn(move || {
            let mut first = String::new();
            let mut answers = BufReader::new(answers.take(64 << 10));
            if answers.read_line(&mut first).is_ok_and(|bytes| bytes > 0) {
                let _ = sender.send(first);
            }
        });
    }
    let line = line.recv_timeout(READY_TIMEOUT).map_err(|error| {
        failed(match error {
            mpsc::RecvTimeoutError::Timeout => format!("not ready after {READY_TIMEOUT:?}"),
            mpsc::RecvTimeoutError::Disconnected => "ended instead of getting ready".to_owned(),
        })
    })?;
    let ready = serde_json::from_str(&line)
        .map_err(|error| failed(format!("said {line:?} instead of being ready: {error}")))?;
    Ok((process, ready))
}

pub(super) fn not_started(program: &str, dir: &Path, problem: String) -> Error {
    Error::Start {
        program: program.to_owned(),
        problem,
        log: files::tail(&dir.join(LOG_FILE), LOG_LINES),
    }
}

/// The log, for a child to append to.
pub(super) fn log_file(dir: &Path) -> Result<File, Error> {
    files::append(&dir.join(LOG_FILE))
}

/// Starts a child, confined to `core` if one is named: a child inherits the
/// affinity of the thread that starts it, which gets its own back.
pub(super) fn spawn(command: &mut Command, core: Option<usize>) -> Result<Child, Error> {
    let Some(core) = core else {
        return command
            .spawn()
            .map_err(system("starting the control plane"));
    };
    let confining = "confining the control plane to a core";
    let own = sched_getaffinity(None).map_err(|error| system(confining)(error.into()))?;
    if core >= CpuSet::MAX_CPU || !own.is_set(core) {
        return Err(system(confining)(std::io::Error::other(format!(
            "core {core} is not one this process may use"
        ))));
    }
    let mut narrow = CpuSet::new();
    narrow.set(core);
    sched_setaffinity(None, &narrow).map_err(|error| system(confining)(error.into()))?;
    let child = command.spawn();
    // Put back before anything else can fail.
    let restored = sched_setaffinity(None, &own);
    let mut child = child.map_err(system("starting the control plane"))?;
    if let Err(error) = restored {
        stop(&mut child);
        return Err(system(confining)(error.into()));
    }
    Ok(child)
}

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_inherits_the_core_and_the_thread_gets_its_own_back() {
        let before = sched_getaffinity(None).expect("own affinity");
        let core = (0..CpuSet::MAX_CPU)
            .find(|core| before.is_set(*core))
            .expect("a core to run on");
        let mut command = Command::new("grep");
        command
            .args(["Cpus_allowed_list", "/proc/self/status"])
            .stdout(Stdio::piped());
        let output = spawn(&mut command, Some(core))
            .expect("grep runs")
            .wait_with_output()
            .expect("grep ends");
        let said = String::from_utf8(output.stdout).expect("text");
        assert_eq!(
            said.split_whitespace().last(),
            Some(core.to_string().as_str())
        );
        assert_eq!(sched_getaffinity(None).expect("own affinity"), before);
    }

    #[test]
    fn a_core_out_of_reach_is_refused() {
        let refused = spawn(&mut Command::new("true"), Some(CpuSet::MAX_CPU));
        assert!(matches!(refused, Err(Error::System { .. })), "{refused:?}");
    }

    #[test]
    fn stopping_waits_until_the_child_is_gone() {
        let mut child = Command::new("sleep")
            .arg("600")
            .spawn()
            .expect("sleep runs");
        stop(&mut child);
        assert!(matches!(child.try_wait(), Ok(Some(_))));
    }
}
