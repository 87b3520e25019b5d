//! The disk tier, as the operator writes it (`[cache.disk]`) and as the node uses it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use super::diagnose::{At, Diagnostics, Place};
use super::read::{ByteSize, Table, Value, words};
use super::resolve::relative_to;

/// The disk tier; without directories there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDisk {
    pub directories: Vec<DiskDirectory>,
    /// The largest body that is stored.
    pub max_object: ByteSize,
    pub admission: Admission,
    pub write: WriteWhen,
    /// Bytes that may wait to be written on each disk; what would be more is not stored there.
    pub write_buffer: ByteSize,
    /// Threads that read and write on each disk.
    pub threads: usize,
    /// How long a request waits for a disk before it goes to the origin.
    pub read_timeout: Duration,
}

/// One directory, usually a disk of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDirectory {
    pub path: PathBuf,
    pub max_size: ByteSize,
    /// What is kept free on its file system, whoever fills it.
    pub min_free: ByteSize,
}

/// Which responses get onto disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Always,
    /// Those that are asked for a second time: spares flash.
    SecondHit,
}

/// When they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteWhen {
    /// As they are stored.
    AtOnce,
    /// When they leave memory; what is in memory alone does not outlive the process.
    OnEviction,
}

words!(Admission { "always" => Admission::Always, "second_hit" => Admission::SecondHit });
words!(WriteWhen { "at_once" => WriteWhen::AtOnce, "on_eviction" => WriteWhen::OnEviction });

impl Default for CacheDisk {
    fn default() -> Self {
        CacheDisk {
            directories: Vec::new(),
            max_object: ByteSize(16 << 30),
            admission: Admission::Always,
            write: WriteWhen::AtOnce,
            write_buffer: ByteSize(64 << 20),
            threads: 4,
            read_timeout: Duration::from_secs(1),
        }
    }
}

/// `[cache.disk]` as written.
#[derive(Debug)]
pub struct DiskSection {
    pub place: Place,
    directories: Vec<At<DirectorySection>>,
    rest: CacheDisk,
}

#[derive(Debug)]
struct DirectorySection {
    path: String,
    max_size: ByteSize,
    min_free: ByteSize,
}

pub fn read(mut table: Table, errors: &mut Diagnostics) -> DiskSection {
    let (place, default) = (table.place, CacheDisk::default());
    let paths = table.values("paths", errors);
    let mut directories: Vec<At<DirectorySection>> =
        paths.into_iter().filter_map(|value| read_one_of_several(&value, errors)).collect();
    if !table.has("paths") {
        directories.extend(read_directory(&mut table, errors).map(|value| At { value, place }));
    } else if table.has("path") {
        errors.error(place, "[cache.disk] has both path and paths: put all directories into paths");
    }
    let rest = CacheDisk {
        directories: Vec::new(),
        max_object: table.get_or("max_object", default.max_object, errors),
        admission: table.get_or("admission", default.admission, errors),
        write: table.get_or("write", default.write, errors),
        write_buffer: table.get_or("write_buffer", default.write_buffer, errors),
        threads: table.get_or("threads", default.threads as u64, errors) as usize,
        read_timeout: table.get_or("read_timeout", default.read_timeout, errors),
    };
    if !(1..=64).contains(&rest.threads) {
        errors.error(place, "threads in [cache.disk] must be from 1 to 64");
    }
    if rest.write_buffer.0 < 1 << 20 {
        errors.error(place, "write_buffer in [cache.disk] must be at least 1MiB");
    }
    if rest.read_timeout.is_zero() {
        errors.error(place, "read_timeout in [cache.disk] must be more than zero");
    }
    table.finish(errors);
    DiskSection { place, directories, rest }
}

fn read_one_of_several(value: &Value<'_, '_>, errors: &mut Diagnostics) -> Option<At<DirectorySection>> {
    let Some(mut table) = value.table("a directory in [cache.disk]") else {
        errors.error_with_hint(
            value.place,
            "wrong value in \"paths\" in [cache.disk]: expected a table",
            "write { path = \"/disk1/seawall\", max_size = \"900GiB\" }",
        );
        return None;
    };
    let directory = read_directory(&mut table, errors);
    table.finish(errors);
    directory.map(|directory| At { value: directory, place: value.place })
}

fn read_directory(table: &mut Table, errors: &mut Diagnostics) -> Option<DirectorySection> {
    /// Room for a useful number of files; a smaller one is a slip of the unit.
    const LEAST: ByteSize = ByteSize(1 << 20);
    let path = table.require::<String>("path", errors);
    let max_size = table.require::<ByteSize>("max_size", errors);
    let min_free = table.get_or("min_free", ByteSize(0), errors);
    if let Some(small) = max_size.as_ref().filter(|size| size.value < LEAST) {
        errors.error(small.place, format!("max_size in {} must be at least 1MiB", table.name));
    }
    if let Some(empty) = path.as_ref().filter(|path| path.value.is_empty()) {
        errors.error(empty.place, format!("path in {} is empty", table.name));
    }
    Some(DirectorySection { path: path?.value, max_size: max_size?.value, min_free })
}

/// The disk tier as the node uses it. `keeps_purges`: there is a purge log that outlives the process.
pub fn resolve(section: Option<DiskSection>, keeps_purges: bool, errors: &mut Diagnostics) -> CacheDisk {
    let Some(section) = section else { return CacheDisk::default() };
    if !keeps_purges {
        errors.error_with_hint(
            section.place,
            "[cache.disk] needs state_dir in [node]: without a purge log, purged objects would come back after a restart",
            "add state_dir = \"/var/lib/seawall\" to [node]",
        );
    }
    let mut seen = HashSet::new();
    let directories = section.directories.into_iter().map(|At { value, place }| {
        let path = relative_to(errors.file(place), &value.path);
        if !seen.insert(path.clone()) {
            errors.error(place, format!("{:?} is in [cache.disk] twice", value.path));
        }
        DiskDirectory { path, max_size: value.max_size, min_free: value.min_free }
    });
    CacheDisk { directories: directories.collect(), ..section.rest }
}
