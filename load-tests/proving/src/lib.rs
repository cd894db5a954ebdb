//! The proving ground: the real admission engine and its rivals in front of a model server, in virtual time.
//!
//! A run is decided by a scenario, a controller and a seed, and by nothing else: no clock, no sockets, no threads. In the
//! order to read: [`scenario`] (what happens), [`call`] and [`population`] (who sends what), [`server`], [`world`] (all of
//! it together), [`controller`] and [`controllers`] (who decides), [`measure`] (what is counted).

#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod call;
pub mod chart;
pub mod cli;
pub mod controller;
pub mod controllers;
mod everyday;
pub mod measure;
pub mod population;
pub mod report;
pub mod run;
pub mod scenario;
pub mod scoreboard;
pub mod server;
mod slots;
pub mod units;
pub mod world;
