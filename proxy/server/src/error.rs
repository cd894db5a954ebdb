//! Why a request was not answered by the upstream. One enum, mapped to an answer in one place (`respond.rs`).

/// Any reason for an answer of our own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Ours: the request was refused before it was sent on.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The upstream's: it could not be reached or did not answer.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Why we refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// The request is not one that Kubernetes would understand, or one that tries to trick a proxy.
    #[error("{what}")]
    Malformed {
        /// The status the server would give.
        status: http::StatusCode,
        /// What is wrong with it.
        what: String,
    },
    /// A client certificate that is not good, and no token.
    #[error("Unauthorized")]
    Unauthorized,
    /// Not one of those the reserved lane is for.
    #[error(
        "{user} may not use the reserved lane; it is kept for break-glass credentials and the identities its configuration lists"
    )]
    NotForTheReservedLane {
        /// Who asked.
        user: Box<str>,
    },
    /// The reserved lane's bound is reached.
    #[error("the reserved lane is full")]
    ReservedLaneFull,
    /// The process stops: what does not end by itself is to begin elsewhere.
    #[error("the proxy is stopping; try again")]
    Stopping,
    /// `listen.max_tunnels` are open.
    #[error("too many exec, attach and port-forward sessions are open")]
    TooManyTunnels,
    /// A limit of the configuration denies it as such.
    #[error("not allowed here (limit {limit}): {message}")]
    Denied {
        /// The limit's name.
        limit: Box<str>,
        /// The class's name.
        class: std::sync::Arc<str>,
        /// What to do instead.
        message: Box<str>,
    },
    /// A limit of the configuration has nothing left.
    #[error("too many requests (limit {limit}, {bound}){}", note(message.as_deref()))]
    Limited {
        /// The limit's name.
        limit: Box<str>,
        /// The class's name.
        class: std::sync::Arc<str>,
        /// Which of its bounds.
        bound: &'static str,
        /// What the operator says to it.
        message: Option<Box<str>>,
        /// Seconds, as in [`Self::Shed`].
        retry_after: u32,
    },
    /// A measure holds it back.
    #[error(
        "held back by measure {measure} of the cluster's operators, for another {minutes} min at most"
    )]
    HeldBack {
        /// Its number.
        measure: u64,
        /// The class's name.
        class: std::sync::Arc<str>,
        /// Until it is over.
        minutes: u64,
        /// Seconds, as in [`Self::Shed`].
        retry_after: u32,
    },
    /// It was running and was ended, because its tenant overloads the server.
    #[error("the server is overloaded by requests like this one; it was ended")]
    Ended {
        /// The class's name.
        class: std::sync::Arc<str>,
        /// Seconds, as in [`Self::Shed`].
        retry_after: u32,
    },
    /// The admission engine shed it.
    #[error("the server is overloaded and this request was shed")]
    Shed {
        /// Why, as the engine names it.
        reason: &'static str,
        /// The class's name.
        class: std::sync::Arc<str>,
        /// Seconds for the Retry-After header, already drawn at random.
        retry_after: u32,
    },
}

/// What went wrong on the way to the apiserver, and at which step.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The TCP connection could not be made.
    #[error("cannot connect to the apiserver at {address}: {source}")]
    Connect {
        /// Where.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// TCP, TLS and HTTP/2 set-up together took too long.
    #[error("connecting to the apiserver took longer than {0:?}")]
    ConnectTimeout(std::time::Duration),
    /// TLS failed: wrong CA, wrong name, or not a TLS server.
    #[error("the TLS handshake with the apiserver at {address} failed: {source}")]
    Tls {
        /// Where.
        address: std::net::SocketAddr,
        /// What rustls said.
        source: std::io::Error,
    },
    /// HTTP set-up on a fresh connection failed.
    #[error("the apiserver at {address} broke the connection off during set-up: {source}")]
    Handshake {
        /// Where.
        address: std::net::SocketAddr,
        /// What hyper said.
        source: hyper::Error,
    },
    /// Somebody else's attempt to connect, which this request waited for, failed.
    #[error("the apiserver cannot be reached: {0}")]
    Unreachable(std::rc::Rc<str>),
    /// Every connection allowed is full.
    #[error("all upstream connections are full")]
    NoStream,
    /// The request was sent, or may have been, and no answer came.
    #[error("the apiserver did not answer: {0}")]
    Send(#[source] hyper::Error),
    /// The same for a request that must not be repeated.
    #[error("the apiserver broke off before it answered, and may have done what was asked: {0}")]
    Lost(#[source] hyper::Error),
}

impl UpstreamError {
    /// True when the server could not be reached at all, as opposed to failing one request.
    pub(crate) fn unreachable(&self) -> bool {
        !matches!(self, Self::NoStream | Self::Send(_) | Self::Lost(_))
    }

    /// The label in metrics: one of a closed set.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout(_) => "connect_timeout",
            Self::Tls { .. } => "tls",
            Self::Handshake { .. } => "handshake",
            Self::Unreachable(_) => "unreachable",
            Self::NoStream => "no_stream",
            Self::Send(_) => "send",
            Self::Lost(_) => "lost",
        }
    }
}

/// What is said behind a colon, if anything is.
fn note(message: Option<&str>) -> String {
    message.map_or_else(String::new, |message| format!(": {message}"))
}

impl Refused {
    pub(crate) fn bad_request(what: impl Into<String>) -> Self {
        Self::Malformed {
            status: http::StatusCode::BAD_REQUEST,
            what: what.into(),
        }
    }
}
