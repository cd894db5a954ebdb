//! The model server: cores, memory, etcd.

pub mod cpu;
pub mod etcd;
pub mod memory;
