//! Where objects are kept: the memory tier. (The disk and peer tiers have their place here.)

mod memory;

pub use memory::MemoryStore;
