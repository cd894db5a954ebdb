//! Control planes to test against, real and modelled; the load to test with; and
//! the demonstration.

pub mod apiserver;
pub mod attacks;
pub mod conformance;
pub mod control_plane;
pub mod costs;
pub mod demo;
pub mod generate;
pub mod memory;
pub mod record;
pub mod rehearse;
pub mod report;
pub mod transparency;
pub mod watches;
