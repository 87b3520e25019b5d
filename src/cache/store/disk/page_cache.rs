//! What the kernel has of a file in memory.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Whether some bytes of a file are all in the page cache. Kernels before 6.5 cannot tell: then they are not.
pub(crate) fn has(file: &File, from: u64, length: u64) -> bool {
    let page = rustix::param::page_size() as u64;
    let pages = (from + length).div_ceil(page) - from / page;
    cached_pages(file, from, length).is_some_and(|cached| cached >= pages)
}

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of linux/mman.h.
#[repr(C)]
#[derive(Default)]
struct Stat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// The number of cachestat(2), the same on all architectures (which libc does not have on each).
const CACHESTAT: libc::c_long = 451;

fn cached_pages(file: &File, offset: u64, length: u64) -> Option<u64> {
    let (range, mut stat) = (Range { offset, length }, Stat::default());
    // SAFETY: the descriptor is open as long as `file` is borrowed; both pointers are to values that live until the call
    // returns and have the layout that the kernel documents; it writes to the second alone, and only integers.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0) };
    (result == 0).then_some(stat.cached)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_just_written_is_there() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 100_000]).unwrap();
        if cached_pages(&file, 0, 1).is_none() {
            return; // an older kernel
        }
        assert!(has(&file, 0, 100_000) && has(&file, 50_001, 5) && has(&file, 4095, 2));
        assert!(!has(&file, 0, 200_000), "there is no such page");
        assert!(!has(&file, 200_000, 1));
    }
}
