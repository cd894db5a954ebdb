//! To be written.
pub mod apiserver;
pub mod control_plane;
