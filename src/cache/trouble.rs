//! What can be the matter with a disk: a closed list of words, the same in `Cache-Status`, metrics and the manual.

use std::io;

use rustix::io::Errno;

use crate::origin::error::OriginError;

use super::reason::{Reason, reasons};

reasons! {
    /// Why a disk was of no help.
    Trouble {
        IoError: "disk-io-error", "the disk", "reading or writing failed";
        Corrupt: "disk-corrupt", "the disk", "a stored file was damaged; it was removed";
        Outdated: "disk-outdated", "the disk",
            "nobody knows any more whether a stored file was purged meanwhile; it was removed";
        Slow: "disk-slow", "the disk", "the disk did not answer within read_timeout, or too much waited for it";
        Full: "disk-full", "the disk", "the file system is full, or less than min_free is left";
        ReadOnly: "disk-read-only", "the disk",
            "the directory cannot be written; what is stored there is still used";
        OutOfService: "disk-out-of-service", "the disk",
            "the disk has failed and is left alone until it answers again";
        NoDescriptors: "disk-no-descriptors", "the disk", "too many files are open";
    }
}

impl Trouble {
    pub fn of(error: &io::Error) -> Self {
        match Errno::from_io_error(error) {
            Some(Errno::NOSPC | Errno::DQUOT) => Trouble::Full,
            Some(Errno::ROFS) => Trouble::ReadOnly,
            Some(Errno::MFILE | Errno::NFILE) => Trouble::NoDescriptors,
            _ => Trouble::IoError,
        }
    }
}

impl OriginError {
    /// A stored body turned out to be damaged or gone when some of it was sent already: too late to ask the origin.
    pub fn stored_body_lost(trouble: Trouble) -> Self {
        OriginError::broken(format!("the stored body is lost: {}", trouble.reason().meaning))
    }
}
