//! What can go wrong with a control plane to test against.

use std::path::PathBuf;

/// Why a control plane could not be started, or spoken to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This machine has no control plane to start.
    #[error("no control plane to start: {reason}")]
    Absent {
        /// One line on what was looked for.
        reason: String,
    },
    /// The Go program could not be built.
    #[error("`go build` in {dir} failed:\n{output}")]
    Build {
        /// The directory of the program.
        dir: PathBuf,
        /// The end of what the compiler said.
        output: String,
    },
    /// A process did not start or did not become ready.
    #[error("{program} {problem}; the end of its log:\n{log}")]
    Start {
        /// Which program.
        program: String,
        /// What it did.
        problem: String,
        /// The end of its log.
        log: String,
    },
    /// A file or directory could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The operating system refused something else.
    #[error("{action}: {source}")]
    System {
        /// What was being done.
        action: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A kubeconfig is not one this harness can use.
    #[error("{path}: not a usable kubeconfig: {problem}")]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is missing or wrong.
        problem: String,
    },
    /// A certificate could not be made.
    #[error("making a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Credentials or addresses are not usable for a TLS connection.
    #[error("setting up the client: {0}")]
    Client(String),
    /// The connection failed, or could not be made.
    #[error("{method} {target}: {problem}")]
    Connection {
        /// The request's method.
        method: String,
        /// The request's target.
        target: String,
        /// What happened.
        problem: String,
    },
    /// The server answered with something other than what was asked for.
    #[error("{action}: status {status}: {body}")]
    Refused {
        /// What was being done.
        action: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
}
