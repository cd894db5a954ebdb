//! The `spillway` binary as a child process.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::BOUND;

/// A child that is killed when dropped.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    read: Vec<String>,
}

/// What a child that ended left behind.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `spillway arguments…` to its end.
pub fn run(arguments: &[&str]) -> Ended {
    let output = Command::new(env!("CARGO_BIN_EXE_spillway"))
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.expect("the binary runs");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Process {
    /// `spillway run --config FILE`.
    pub fn start(file: &Path, more: &[&str]) -> Self {
        Self::start_as(Path::new(env!("CARGO_BIN_EXE_spillway")), file, more)
    }

    /// The same with another binary.
    pub fn start_as(binary: &Path, file: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command
            .args(["run", "--config"])
            .arg(file)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        Self::of(command)
    }

    /// The same with the listening sockets that a supervisor holds, by systemd's protocol.
    pub fn activated(file: &Path, sockets: [&TcpListener; 2]) -> Self {
        // Only these two come through `exec` without anything unsafe, so a shell moves them to where they belong.
        const MOVE: &str =
            "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_FDS=2 LISTEN_PID=$$ exec \"$0\" \"$@\"";
        let [first, second] =
            sockets.map(|socket| OwnedFd::from(socket.try_clone().expect("a copy")));
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                MOVE,
                env!("CARGO_BIN_EXE_spillway"),
                "run",
                "--config",
            ])
            .arg(file)
            .stdin(first)
            .stdout(second);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            read: Vec::new(),
        }
    }

    /// Reads its log up to a line that contains `text`.
    pub fn until_line(&mut self, text: &str) -> String {
        loop {
            match self.lines.recv_timeout(BOUND) {
                Ok(line) => {
                    self.read.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with `{text}` in {:#?}", self.read),
            }
        }
    }

    /// Waits until it is up; (main, reserved, admin), from its log.
    pub fn addresses(&mut self) -> (SocketAddr, SocketAddr, SocketAddr) {
        let line = self.until_line("spillway is up");
        let mut found = line
            .split(|letter: char| !letter.is_ascii_digit() && letter != '.' && letter != ':')
            .filter_map(|word| word.parse::<SocketAddr>().ok());
        let mut next = || {
            found
                .next()
                .unwrap_or_else(|| panic!("three addresses in {line}"))
        };
        (next(), next(), next())
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.child.id().to_string())
            .status();
        assert!(sent.expect("kill").success());
    }

    /// The most memory it ever had at once, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let kib: Option<u64> = status.expect("it runs").lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        kib.expect("VmHWM") * 1024
    }

    /// What its threads that still run have used of the processors.
    pub fn processor_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("it runs").filter_map(Result::ok);
        let used = threads.filter_map(|thread| {
            // Its first number is nanoseconds on a processor. A thread that ends meanwhile has none.
            let used = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            used.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin.take();
    }

    /// Waits for its end and gives everything it wrote to standard error.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.child.stdin.take();
        // The log ends with the process.
        while let Ok(line) = self.lines.recv_timeout(BOUND) {
            self.read.push(line);
        }
        let status = self.child.wait().expect("a status");
        (status, self.read.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
