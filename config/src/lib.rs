//! What an operator may say to Spillway: the model, its parser and its checks. No I/O.
//!
//! [`Config::parse`] turns text into a [`Config`] in which nothing is open any more, or
//! into a [`Report`] that names line, column and what would be accepted. [`Change`]
//! compares two configurations for a reload, [`schema()`] describes the file to editors.
//!
//! It is a crate of its own so that what an operator may say can be read, tested and
//! validated (`spillway check`) without sockets, clocks or certificates. What must stay
//! true: a file is accepted as a whole or not at all, and no text makes it panic.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod change;
mod check;
mod document;
mod limits;
mod model;
mod origin;
mod parse;
mod patterns;
mod raw;
mod report;
mod resolve;
mod rules;
mod schema;
mod units;

pub use change::{Applies, Change};
pub use model::{
    AccessLog, Admin, Admission, AuditLog, Cancel, CgroupSource, Check, Class, Collapse, Config,
    Confine, DEFAULT_CLASSES, DEFAULT_PKI, DEFAULT_RESERVED_PORT, DEFAULT_SOCKET, Format,
    FromCluster, Guard, HardLimit, KeyPair, Level, Limit, Listen, Log, Match, Mode, Per, Period,
    Policies, PolicyDocument, Probe, Queue, Rate, RequestHeader, RequestHeaders, Reserved, Rule,
    ServiceAccounts, Stale, Tls, Traces, Upstream,
};
pub use origin::Origins;
pub use parse::MAX_TEXT;
pub use report::{Issue, Report};
pub use schema::schema;
pub use units::{ByteSize, Percent, parse_duration};
