//! What the status and the metrics say of a directory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::cache::trouble::Trouble;

use super::volume::Volume;

/// One directory.
#[derive(Debug, serde::Serialize)]
pub struct DiskView {
    pub path: String,
    pub state: &'static str,
    pub reason: Option<String>,
    pub bytes: u64,
    pub max_bytes: u64,
    pub objects: u64,
    /// Bytes of memory of its index.
    pub index_bytes: u64,
    pub waiting_bytes: u64,
    pub scan: ScanView,
    pub hits: u64,
    pub written: u64,
    pub written_bytes: u64,
    pub evicted: u64,
    /// How often it was of no help, by the word for why.
    pub troubles: Vec<(&'static str, u64)>,
}

#[derive(Debug, serde::Serialize)]
pub struct ScanView {
    pub done: bool,
    pub percent: u32,
    pub files: u64,
    pub removed: u64,
}

impl DiskView {
    pub fn of(volume: &Volume) -> Self {
        let (bytes, objects, index_bytes) = {
            let index = &volume.files.lock().index;
            (index.bytes(), index.len() as u64, index.memory())
        };
        let scan = &volume.files.scan;
        let (files, removed) = scan.found();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &volume.counters;
        let troubles = Trouble::ALL.iter().zip(&counters.troubles);
        DiskView {
            path: volume.root.display().to_string(),
            state: volume.health.state().as_str(),
            reason: volume.health.reason(),
            bytes,
            max_bytes: volume.max_size(),
            objects,
            index_bytes,
            waiting_bytes: volume.write_buffer.bytes(),
            scan: ScanView { done: scan.is_done(), percent: scan.percent(), files, removed },
            hits: count(&counters.hits),
            written: count(&counters.written),
            written_bytes: count(&counters.written_bytes),
            evicted: count(&counters.evicted),
            troubles: troubles.map(|(trouble, times)| (trouble.as_str(), count(times))).collect(),
        }
    }
}
