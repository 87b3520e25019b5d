//! Where objects are kept: the memory tier and the disk tier.

pub(crate) mod disk;
mod memory;
mod slab;
mod variants;

pub(crate) use disk::DiskTier;
pub(crate) use memory::MemoryStore;
pub(crate) use variants::Variants;
