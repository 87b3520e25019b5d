//! `[cache.memory]`: the memory tier.

use std::sync::Arc;

use crate::config::read::{ByteSize, Table, words};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMemory {
    pub max_size: ByteSize,
    pub max_object: ByteSize,
    /// Bytes of bodies on their way that are neither stored nor sent, of all fills together.
    pub fill_buffer: ByteSize,
    pub eviction: Eviction,
    /// What single sites have of it for themselves, by their names.
    pub of_sites: Vec<(Arc<str>, ByteSize)>,
}

impl CacheMemory {
    /// Bytes of the part that the other sites share.
    pub fn shared_size(&self) -> u64 {
        let own: u64 = self.of_sites.iter().map(|(_, size)| size.0).fold(0, u64::saturating_add);
        self.max_size.0.saturating_sub(own)
    }
}

impl Default for CacheMemory {
    fn default() -> Self {
        CacheMemory {
            max_size: ByteSize(256 << 20),
            max_object: ByteSize(8 << 20),
            fill_buffer: ByteSize(128 << 20),
            eviction: Eviction::S3Fifo,
            of_sites: Vec::new(),
        }
    }
}

/// The order in which objects in memory make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// What is asked for once does not displace what is asked for often (Yang et al., SOSP 2023).
    S3Fifo,
    /// By second chances: whoever was used since its turn came last has another.
    Lru,
}

// "tinylfu" is what it was called before.
words!(Eviction { "s3fifo" => Eviction::S3Fifo, "lru" => Eviction::Lru, "tinylfu" => Eviction::S3Fifo });

pub(crate) fn read(mut table: Table) -> CacheMemory {
    let mut memory = CacheMemory::default();
    table.set("max_size", &mut memory.max_size);
    memory.max_object = memory.max_object.min(memory.max_size);
    table.set("max_object", &mut memory.max_object);
    if memory.max_object > memory.max_size {
        let place = table.place_of("max_object");
        table.errors.error(place, "max_object in [cache.memory] must not be larger than max_size");
    }
    table.set("fill_buffer", &mut memory.fill_buffer);
    table.set("eviction", &mut memory.eviction);
    table.finish();
    memory
}
