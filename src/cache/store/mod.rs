//! Where objects are kept: the memory tier and the disk tier. (The peer tier has its place here.)

pub mod disk;
mod memory;

pub use disk::DiskTier;
pub use memory::{MemoryStore, Variants};
