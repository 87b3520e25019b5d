//! `[cache.disk]`: the disk tier.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::diagnose::{At, Diagnostics, Place};
use crate::config::read::{ByteSize, Table, words};

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

/// Reads it; its place is that of the section.
pub(crate) fn read(mut table: Table) -> At<CacheDisk> {
    let (errors, place) = (table.errors, table.place);
    let mut disk = CacheDisk::default();
    let mut directories: Vec<At<DiskDirectory>> = Vec::new();
    let (has_one, has_several) = (table.has("path"), table.has("paths"));
    if has_one && has_several {
        errors.error(place, "[cache.disk] has both path and paths: put all directories into paths");
    }
    if has_one || !has_several {
        directories.extend(read_directory(&mut table).map(|value| At { value, place }));
    }
    for value in table.items("paths") {
        let Some(mut table) = Table::of(value, "a directory in [cache.disk]", errors) else {
            errors.error_with_hint(
                value.place,
                "wrong value in \"paths\" in [cache.disk]: expected a table",
                "write { path = \"/disk1/seawall\", max_size = \"900GiB\" }",
            );
            continue;
        };
        let directory = read_directory(&mut table);
        table.finish();
        let Some(directory) = directory else { continue };
        if let Some(first) = directories.iter().find(|other| other.value.path == directory.path) {
            errors.again(value.place, format!("{:?} is in [cache.disk] twice", directory.path), first.place);
        }
        directories.push(At { value: directory, place: value.place });
    }
    disk.directories = directories.into_iter().map(|at| at.value).collect();
    table.set("max_object", &mut disk.max_object);
    table.set("admission", &mut disk.admission);
    table.set("write", &mut disk.write);
    table.set_if("write_buffer", &mut disk.write_buffer, is_a_mebibyte, AT_LEAST_A_MEBIBYTE);
    table.set_within("threads", &mut disk.threads, 1..=64);
    table.set_positive("read_timeout", &mut disk.read_timeout);
    table.finish();
    At { value: disk, place }
}

/// Room for a useful number of files, or for writing; less is a slip of the unit.
fn is_a_mebibyte(size: &ByteSize) -> bool {
    size.0 >= 1 << 20
}

const AT_LEAST_A_MEBIBYTE: &str = "must be at least 1MiB";

fn read_directory(table: &mut Table) -> Option<DiskDirectory> {
    let path: Option<At<String>> = table.require("path");
    if let Some(empty) = path.as_ref().filter(|path| path.value.is_empty()) {
        table.errors.error(empty.place, format!("path in {} is empty", table.name));
    }
    let max_size: Option<At<ByteSize>> = table.require("max_size");
    if let Some(small) = max_size.as_ref().filter(|size| !is_a_mebibyte(&size.value)) {
        table.errors.error(small.place, format!("max_size in {} {AT_LEAST_A_MEBIBYTE}", table.name));
    }
    let min_free = table.get_or("min_free", ByteSize(0));
    // It is known by its path from one start to the next, whatever directory the node is started in.
    let path = table.errors.resolve_path(&path?);
    table.errors.keep_private(&path);
    let path = std::path::absolute(&path).unwrap_or(path);
    Some(DiskDirectory { path, max_size: max_size?.value, min_free })
}

/// Purges have to be kept as long as what they purge.
pub(crate) fn check(place: Place, keeps_purges: bool, errors: &Diagnostics) {
    if !keeps_purges {
        errors.error_with_hint(
            place,
            "[cache.disk] needs state_dir in [node]: without a purge log, purged objects would come back after a restart",
            "add state_dir = \"/var/lib/seawall\" to [node]",
        );
    }
}
