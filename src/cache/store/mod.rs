//! Where objects are kept: the memory tier and the disk tier. (The peer tier has its place here.)

pub mod disk;
mod memory;
mod slab;
mod variants;

pub use disk::DiskTier;
pub use memory::MemoryStore;
pub use variants::Variants;
